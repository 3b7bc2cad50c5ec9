"""Analyses of a trained model, one module each, computed once and recorded beside the run (`recording`), redrawn in seconds.

Each module has a frozen dataclass `Parameters` and

    analyse(model, dataset, parameters, *, progress) -> dict[str, DataFrame | Crystals]

of which every value becomes a file.
"""

from __future__ import annotations

import importlib
from typing import Any

from nesf.errors import ConfigError

# name to what it is, for the command line
ANALYSES = {
    "examples": "the best, the median and the worst reconstruction of a split (Figure 3)",
    "interpolation": "crystals on the way from one to another (Figures 5, 6, S1-S4)",
    "latent-space": "the latent vectors in two dimensions, and what their neighbours share (Figure 7)",
    "sensitivity": "the seven hyperparameters of the reconstruction (Figures S5, S6)",
    "decoding": "choices of the decoding that paper and official code make otherwise",
    "properties": "properties predicted from latent vectors (Supplementary Note 4)",
}


def analysis(name: str) -> Any:
    """The module of an analysis.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in ANALYSES:
        raise ConfigError(f"analysis {name!r} does not exist; choose from {', '.join(ANALYSES)}")
    return importlib.import_module(f"nesf_studies.analysis.{name.replace('-', '_')}")
