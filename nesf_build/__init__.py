"""Datasets from the Materials Project, selected and split by the paper's rules or by others."""
