"""Structures in files of others, read in a process of their own, with limits."""
