"""The latent space put to work: the field's benchmark, and crystals that nobody gave.

The package builds on `nesf`; `nesf` never imports it.
"""
