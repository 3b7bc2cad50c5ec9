"""The campaign against bad input and faults: `python -m robustness` (`make fuzz`)."""
