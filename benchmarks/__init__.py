"""Measurements of speed: `make bench`, or `python -m benchmarks --help`; what they mean is on the book's page on speed."""
