"""Analyses of a trained model, one module each, computed once and recorded beside the run (`recording`), redrawn in seconds.

Each module has a frozen dataclass `Parameters` and

    analyse(model, dataset, parameters, *, progress) -> dict[str, DataFrame | Crystals]

of which every value becomes a file.
"""

from __future__ import annotations

import importlib
import sys
import types
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
    package = "nesf_studies" if name == "examples" else "nesf_studies.analysis"
    return importlib.import_module(f"{package}.{name.replace('-', '_')}")


class _Moved(types.ModuleType):
    """The old place of a module, until the other analyses have moved too."""

    def __getattr__(self, name: str) -> Any:
        """Look a name up at the new place."""
        return getattr(importlib.import_module(f"nesf_studies.{self.__name__}"), name)


for _old, _new in {"recording": "record", "symmetry": "crystals", "chemistry": "crystals"}.items():
    sys.modules[f"nesf_studies.analysis.{_old}"] = _Moved(_new)
