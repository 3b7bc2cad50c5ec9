"""Neural Structure Fields (Chiba et al., Communications Materials 2023), implemented anew.

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
    from nesf.api import (
        evaluate,
        interpolate,
        load_model,
        oracle,
        read_structures,
        reconstruct,
        train,
    )
    from nesf.config import Config, preset
    from nesf.crystals import Crystals
    from nesf.data import load as load_dataset
    from nesf.data.dataset import Dataset
    from nesf.featurizer import NeSFFeaturizer as NeSFFeaturizer
    from nesf.saved import TrainedModel
    from nesf_design.sample import sample as sample
    from nesf_io.errors import NesfError
    from nesf_studies.widgets import view as view

_HOME = dict.fromkeys(
    ("evaluate", "interpolate", "load_model", "oracle", "read_structures", "reconstruct", "train"),
    "nesf.api",
)
_HOME |= {
    "Config": "nesf.config",
    "preset": "nesf.config",
    "Crystals": "nesf.crystals",
    "Dataset": "nesf.data.dataset",
}
# they need the extras `sklearn`, `design` and `book`, so they are not in __all__
_HOME |= {"NeSFFeaturizer": "nesf.featurizer"}
_HOME |= {"sample": "nesf_design.sample", "view": "nesf_studies.widgets"}
_HOME |= {"NesfError": "nesf_io.errors", "TrainedModel": "nesf.saved", "load_dataset": "nesf.data"}

__all__ = [  # noqa: RUF022 (in the order of use)
    "load_model", "read_structures", "reconstruct", "interpolate", "evaluate", "oracle", "load_dataset", "train",
    "Config", "Crystals", "Dataset", "NesfError", "TrainedModel", "preset",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(
            f"module 'nesf' has no attribute {name!r}; its public names are {', '.join(__all__)}"
        )
    return getattr(importlib.import_module(_HOME[name]), "load" if name == "load_dataset" else name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
