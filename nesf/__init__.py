"""Neural Structure Fields: an open implementation and reproducible companion (Chiba et al., Communications Materials 2023).

>>> import nesf
>>> model = nesf.load_model("starter")
>>> structures = nesf.read_structures("my.cif")
>>> decoded = model.reconstruct(structures)

Names are resolved on first use, so that `import nesf` loads neither torch nor pymatgen.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from nesf.api import evaluate, load_dataset, load_model, oracle, read_structures, reconstruct, train
    from nesf.config import Config, preset
    from nesf.crystals import Crystals
    from nesf.data.dataset import Dataset
    from nesf.errors import NesfError
    from nesf.saved import TrainedModel

_MODULES = {
    "nesf.api": ("evaluate", "load_dataset", "load_model", "oracle", "read_structures", "reconstruct", "train"),
    "nesf.config": ("Config", "preset"),
    "nesf.crystals": ("Crystals",),
    "nesf.data.dataset": ("Dataset",),
    "nesf.errors": ("NesfError",),
    "nesf.saved": ("TrainedModel",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Config",
    "Crystals",
    "Dataset",
    "NesfError",
    "TrainedModel",
    "evaluate",
    "load_dataset",
    "load_model",
    "oracle",
    "preset",
    "read_structures",
    "reconstruct",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nesf' has no attribute {name!r}; its public names are {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
