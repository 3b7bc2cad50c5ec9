"""Measurements of speed (`python -m benchmarks --help`); the book's page on speed explains them."""
