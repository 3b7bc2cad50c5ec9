"""Neural Structure Fields: an open implementation and reproducible companion (Chiba et al., Communications Materials 2023)."""

__version__ = "0.1.0"
