"""What differs from method to method, in one table: presets, training, decoding, prediction. Everything else asks here.

Imports neither torch nor pandas (`nesf_studies.plan` reads this for Snakemake); what a method computes with is imported when it computes.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nesf import config as nesf_config
from nesf.config import Config, reconstruction_config
from nesf.errors import ConfigError
from nesf.files import read_json
from nesf.icsg3d import config as icsg3d_config
from nesf.icsg3d.config import OracleConfig, VoxelBaselineConfig, decoding_config

if TYPE_CHECKING:
    from nesf.crystals import Crystals
    from nesf.data.dataset import Dataset
    from nesf.decode import Reconstruction


@dataclass(frozen=True)
class Asked:
    """What one run of a method is to be: what `--preset`, `--set`, `--label` and `--decode` say.

    Attributes:
        dataset: name, for presets differ by dataset.
        preset: None for the method's default.
        changes: dotted key to value.
        label: under which the run is recorded, or None.
    """

    dataset: str
    preset: str | None = None
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    label: str | None = None


@dataclass(frozen=True)
class Trained:
    """A method that is trained. Its model's folder says which it is (`method` in model.json; without it NeSF).

    Attributes:
        name: of the method.
        default_preset: the preset where none is asked for.
        config: what is asked for → config of the training; `ConfigError` where there is no such preset or key.
        read_config: a recorded config, from its dictionary.
        comparable: a config without what the data and the machine decide.
        decoding: (config of a run or None, changed values) → parameters of the decoding.
        module: with `train`, `can_resume` and `LOG_COLUMNS`.
        load: (folder, device) → model with `config`, `dataset`, `info`, `vocabulary` and `device`.
        reconstruct: (model, crystals, decoding, progress) → reconstruction.
        streams: whether it can train on crystals that are read while it trains, and for a given time.
        keeps_maps: whether `train` takes `maps`, a folder for what the next training on the dataset can use again.
    """

    name: str
    default_preset: str
    config: Callable[[Asked], Any]
    read_config: Callable[[Mapping[str, Any]], Any]
    comparable: Callable[[Any], Any]
    decoding: Callable[[Any, Mapping[str, Any]], Any]
    module: str
    load: Callable[[Path, str], Any]
    reconstruct: Callable[[Any, Crystals, Any, bool], Reconstruction]
    streams: bool = False
    keeps_maps: bool = False

    def train(self, dataset: Any, config: Any, folder: Path, *, minutes: float | None, maps: Path | None, **options: Any) -> Any:
        """Train with the method's `train`.

        Raises:
            ConfigError: the method cannot plan its epochs by time.
        """
        if not self.streams and minutes is not None:
            raise ConfigError(f"--minutes: {self.name} cannot plan its epochs by time; give --set unet.epochs=N --set vae.epochs=N")
        further = {"minutes": minutes} if self.streams else {}
        return importlib.import_module(self.module).train(
            dataset, config, folder, **options, **further, **({"maps": maps} if self.keeps_maps else {})
        )

    def can_resume(self, folder: Path, dataset: Any, config: Any, *, seed: int, device: str) -> bool:
        """Whether the folder holds a checkpoint of this very training."""
        return importlib.import_module(self.module).can_resume(folder, dataset, config, seed=seed, device=device)

    @property
    def log_columns(self) -> tuple[str, ...]:
        """Of its `log.csv`."""
        return importlib.import_module(self.module).LOG_COLUMNS


def _nesf_config(asked: Asked) -> Config:
    config = nesf_config.for_dataset(nesf_config.preset(asked.preset or "cpu"), asked.dataset).with_values(asked.changes)
    return dataclasses.replace(config, preset=asked.label or config.preset)


def _nesf_comparable(config: Config) -> Config:
    model, training = dataclasses.replace(config.model, n_species=0), dataclasses.replace(config.training, precision="auto", compile=False)
    return dataclasses.replace(config, model=model, training=training)


def _nesf_load(folder: Path, device: str) -> Any:
    from nesf.saved import TrainedModel

    return TrainedModel.load(folder, device)


def _nesf_reconstruct(model: Any, crystals: Crystals, decoding: Any, progress: bool) -> Reconstruction:
    from nesf.decode import reconstruct

    return reconstruct(model, crystals, decoding, progress=progress)


def _icsg3d_config(asked: Asked) -> VoxelBaselineConfig:
    config = icsg3d_config.for_dataset(icsg3d_config.preset(asked.preset or "repaired"), asked.dataset).with_values(asked.changes)
    return dataclasses.replace(config, preset=asked.label or config.preset)


def _icsg3d_comparable(config: VoxelBaselineConfig) -> VoxelBaselineConfig:
    return dataclasses.replace(config, training=dataclasses.replace(config.training, precision="auto"))


def _icsg3d_load(folder: Path, device: str) -> Any:
    from nesf.icsg3d.baseline import VoxelBaseline

    return VoxelBaseline.load(folder, device)


NESF = Trained(
    name="nesf",
    default_preset="cpu",
    config=_nesf_config,
    read_config=Config.from_dict,
    comparable=_nesf_comparable,
    decoding=lambda config, assignments: reconstruction_config(assignments),
    module="nesf.training",
    load=_nesf_load,
    reconstruct=_nesf_reconstruct,
    streams=True,
)
ICSG3D = Trained(
    name="icsg3d",
    default_preset="repaired",
    config=_icsg3d_config,
    read_config=VoxelBaselineConfig.from_dict,
    comparable=_icsg3d_comparable,
    decoding=lambda config, assignments: decoding_config(assignments, config.decoding if config else None),
    module="nesf.icsg3d.training",
    load=_icsg3d_load,
    reconstruct=lambda model, crystals, decoding, progress: model.reconstruct(crystals, decoding, seed=model.info["seed"], progress=progress),
    keeps_maps=True,
)


@dataclass(frozen=True)
class Predictor:
    """A method without training.

    Attributes:
        name: of the method.
        predict: (dataset, split, config, progress) → predicted crystals; `config` is what `configure` gave.
        configure: what is asked for and the values of `--decode` → config, recorded in run.json; None: there is nothing to choose.
        has_presets: whether there are presets; without, a run is recorded as `default`.
    """

    name: str
    predict: Callable[[Dataset, str, Mapping[str, Any], bool], Crystals]
    configure: Callable[[Asked, Mapping[str, Any]], Mapping[str, Any]] = lambda asked, assignments: {}
    has_presets: bool = False

    @property
    def default_preset(self) -> str:
        """The preset where none is asked for."""
        return "repaired" if self.has_presets else "default"

    def preset_of(self, asked: Asked) -> str:
        """What a run is recorded as."""
        return (asked.label or asked.preset or self.default_preset) if self.has_presets else self.default_preset


def _copy(dataset: Dataset, split: str, config: Mapping[str, Any], progress: bool) -> Crystals:
    from nesf.baselines import copy_nearest

    return copy_nearest(dataset.split("train"), dataset.split(split))


def _constant(dataset: Dataset, split: str, config: Mapping[str, Any], progress: bool) -> Crystals:
    from nesf.baselines import constant

    return constant(dataset.split("train"), dataset.split(split))


def _oracle(dataset: Dataset, split: str, config: Mapping[str, Any], progress: bool) -> Crystals:
    from nesf.data.dataset import bounding_box
    from nesf.decode import oracle

    decoding = reconstruction_config(config["reconstruction"])
    return oracle(dataset.split(split), bounding_box(dataset.split("train")), dataset.vocabulary, decoding, progress=progress).crystals


def _oracle_config(asked: Asked, assignments: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"reconstruction": as_json(reconstruction_config(assignments))}


def _icsg3d_oracle(dataset: Dataset, split: str, config: Mapping[str, Any], progress: bool) -> Crystals:
    from nesf.icsg3d.segmentation import oracle

    choices = OracleConfig.from_dict(config)
    return oracle(dataset.split(split), choices.voxels, choices.decoding, progress=progress)


def _icsg3d_oracle_config(asked: Asked, assignments: Mapping[str, Any]) -> Mapping[str, Any]:
    name = asked.preset or "repaired"
    config = icsg3d_config.for_dataset(icsg3d_config.preset(name), asked.dataset).oracle().with_values(asked.changes)
    return dataclasses.replace(config, preset=asked.label or name, decoding=decoding_config(assignments, config.decoding)).to_dict()


TRAINED: Mapping[str, Trained] = {method.name: method for method in (NESF, ICSG3D)}
PREDICTORS: Mapping[str, Predictor] = {
    predictor.name: predictor
    for predictor in (
        Predictor("copy", _copy),
        Predictor("constant", _constant),
        Predictor("oracle", _oracle, _oracle_config),
        Predictor("icsg3d-oracle", _icsg3d_oracle, _icsg3d_oracle_config, has_presets=True),
    )
}
METHODS = (*TRAINED, *PREDICTORS)


def method(name: str) -> Trained | Predictor:
    """A method by name.

    Raises:
        ConfigError: there is no such method.
    """
    if name not in METHODS:
        raise ConfigError(f"method {name!r} does not exist; choose from {', '.join(METHODS)}")
    return TRAINED[name] if name in TRAINED else PREDICTORS[name]


def trained(name: str) -> Trained:
    """A method that is trained, by name.

    Raises:
        ConfigError: there is no such method, or nothing in it to train.
    """
    if isinstance(found := method(name), Predictor):
        raise ConfigError(f"method {name!r} is not trained; use `nesf run DATASET --method {name}`, or choose from {', '.join(TRAINED)}")
    return found


def method_of(folder: Path, file: str = "model.json") -> Trained:
    """The method of the model in a folder, by its model.json (or checkpoint.json).

    Raises:
        DataError: there is no such file.
        ConfigError: it names a method that does not exist.
    """
    return trained(read_json(Path(folder) / file).get("method", NESF.name))


def as_json(section: Any) -> dict[str, Any]:
    """A section of a config as it is recorded."""
    return json.loads(json.dumps(dataclasses.asdict(section)))


def run_folder(root: Path, dataset: str, method: str, preset: str, *, seed: int, fold: int | None = None) -> Path:
    """Where a run is recorded: `root/dataset/method/preset/seed-N`, or `fold-K` in a cross-validation."""
    return Path(root) / dataset / method / preset / (f"seed-{seed}" if fold is None else f"fold-{fold}")
