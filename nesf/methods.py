"""The methods that the paper compares: presets, training, decoding, prediction of each.

Everything else asks here. Imports neither torch nor pandas (the workflow reads this); what a method
computes with is imported when it computes.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from nesf import config as nesf_config
from nesf.config import Config, ConfigBase, ReconstructionConfig, with_fields
from nesf.forms import read_form
from nesf_io.errors import ConfigError

if TYPE_CHECKING:
    from nesf.crystals import Crystals
    from nesf.data.dataset import Dataset
    from nesf.decode import Reconstruction


@dataclass(frozen=True)
class Method:
    """A way from crystals to crystals.

    Attributes:
        name: as on the command line and in `run.json`.
        preset: (name of a preset, name of a dataset) → config; `ConfigError` where there is no such
            preset.
        default_preset: where none is asked for; `default` for a method without presets.
        decoding: the section of the config that decoding reads; None: nothing is decoded.
    """

    name: str
    preset: Callable[[str, str], Any]
    default_preset: str = "default"
    decoding: str | None = "decoding"

    @property
    def has_presets(self) -> bool:
        """Whether there is a preset to choose."""
        return self.default_preset != "default"

    def has_preset(self, name: str, dataset: str) -> bool:
        """Tell whether it has a preset of this name."""
        try:
            return self.has_presets and self.preset(name, dataset) is not None
        except ConfigError:
            return False

    def config(
        self,
        dataset: str,
        preset: str | None = None,
        changes: Mapping[str, Any] | None = None,
        label: str | None = None,
    ) -> Any:
        """Return a preset for a dataset with `changes` (dotted key to value), named by its label.

        Raises:
            ConfigError: there is no such preset or key.
        """
        config = self.preset(preset or self.default_preset, dataset).with_values(changes or {})
        if label and not self.has_presets:
            raise ConfigError(
                f"--label {label}: method {self.name} has no presets, so it is recorded as `default`; leave the label out"
            )
        return replace(config, preset=label or config.preset) if self.has_presets else config

    def with_decoding(self, config: Any, assignments: Mapping[str, Any]) -> Any:
        """Return the config with changed parameters of the decoding, e.g. {"nms_radius": 0.4}.

        Text is read as JSON where it is JSON.

        Raises:
            ConfigError: an unknown key or a value of the wrong type.
        """
        if not assignments:
            return config
        if self.decoding is None:
            raise ConfigError(
                f"--decode {next(iter(assignments))}: method {self.name} decodes nothing; leave it out"
            )
        return replace(
            config, **{self.decoding: with_fields(getattr(config, self.decoding), assignments)}
        )

    def same(self, recorded: Mapping[str, Any], asked: ConfigBase) -> bool:
        """Tell whether a recorded config is the one asked for, but for what the machine set.

        A setting that is newer than the record had its default.
        """
        defaults = type(asked)().to_dict()
        return all(
            (defaults[key] | kept if isinstance(kept := recorded.get(key), dict) else kept) == value
            for key, value in asked.to_dict().items()
        )


@dataclass(frozen=True)
class TrainedMethod(Method):
    """A method that is trained.

    The `model.json` in its model's folder names it (`method`; without it NeSF).

    Attributes:
        config_class: of its configs.
        training: module with `train`, `can_resume` and `LOG_COLUMNS`.
        machine_decides: section to values that data and machine decide, and that are not compared.
        load: (folder, device) → model with `config`, `dataset`, `info`, `vocabulary` and `device`.
        reconstruct: (model, crystals, decoding, progress) → reconstruction.
        streams: whether it can train on crystals that are read while it trains, and for a given
            time (`minutes`).
        keeps_maps: whether its `train` takes `maps`, a folder for what the next training on the
            dataset can use again.
    """

    config_class: type[ConfigBase] = field(kw_only=True)
    training: str = field(kw_only=True)
    machine_decides: Mapping[str, Mapping[str, Any]] = field(kw_only=True)
    load: Callable[[Path, str], Any] = field(kw_only=True)
    reconstruct: Callable[[Any, Crystals, Any, bool], Reconstruction] = field(kw_only=True)
    streams: bool = field(default=False, kw_only=True)
    keeps_maps: bool = field(default=False, kw_only=True)

    def same(self, recorded: Mapping[str, Any], asked: ConfigBase) -> bool:
        """As for `Method`; the decoding is recorded for itself."""
        return self._comparable(self.config_class.from_dict(recorded)) == self._comparable(asked)

    def _comparable(self, config: Any) -> ConfigBase:
        sections = {
            name: replace(getattr(config, name), **values)
            for name, values in self.machine_decides.items()
        }
        return replace(config, decoding=type(config.decoding)(), **sections)

    def train(
        self,
        dataset: Any,
        config: Any,
        folder: Path,
        *,
        minutes: float | None = None,
        maps: Path | None = None,
        **options: Any,
    ) -> Any:
        """Train with the method's `train`; `ConfigError` where it cannot plan by time."""
        if minutes is not None and not self.streams:
            raise ConfigError(
                f"--minutes: {self.name} cannot plan its epochs by time; give --set unet.epochs=N --set vae.epochs=N"
            )
        options |= ({"minutes": minutes} if self.streams else {}) | (
            {"maps": maps} if self.keeps_maps else {}
        )
        return importlib.import_module(self.training).train(dataset, config, folder, **options)

    def can_resume(
        self, folder: Path, dataset: Any, config: Any, *, seed: int, device: str
    ) -> bool:
        """Whether the folder holds a checkpoint of this very training."""
        return importlib.import_module(self.training).can_resume(
            folder, dataset, config, seed=seed, device=device
        )

    @property
    def log_columns(self) -> tuple[str, ...]:
        """Columns of its `log.csv`."""
        return importlib.import_module(self.training).LOG_COLUMNS


@dataclass(frozen=True)
class Predictor(Method):
    """A method without training."""

    # (dataset, split, config, progress) → predicted crystals
    predict: Callable[[Dataset, str, Any, bool], Crystals] = field(kw_only=True)


def _load_nesf(folder: Path, device: str) -> Any:
    from nesf.saved import TrainedModel

    return TrainedModel.load(folder, device)


def _reconstruct_nesf(
    model: Any, crystals: Crystals, decoding: Any, progress: bool
) -> Reconstruction:
    from nesf.decode import reconstruct

    return reconstruct(model, crystals, decoding, progress=progress)


NESF = TrainedMethod(
    "nesf",
    lambda name, dataset: nesf_config.for_dataset(nesf_config.preset(name), dataset),
    "cpu",
    config_class=Config,
    training="nesf.training",
    machine_decides={
        "model": {"n_species": 0},
        "training": {"precision": "auto", "compile": False},
    },
    load=_load_nesf,
    reconstruct=_reconstruct_nesf,
    streams=True,
)


@dataclass(frozen=True)
class NoConfig(ConfigBase):
    """The config of a method that leaves nothing to choose."""


@dataclass(frozen=True)
class OracleConfig(ConfigBase):
    """The config of the oracle: parameters of the decoding."""

    reconstruction: ReconstructionConfig = field(default_factory=ReconstructionConfig)


def _copy(dataset: Dataset, split: str, config: Any, progress: bool) -> Crystals:
    from nesf.baselines import copy_nearest

    return copy_nearest(dataset.split("train"), dataset.split(split))


def _constant(dataset: Dataset, split: str, config: Any, progress: bool) -> Crystals:
    from nesf.baselines import constant

    return constant(dataset.split("train"), dataset.split(split))


def _oracle(dataset: Dataset, split: str, config: Any, progress: bool) -> Crystals:
    from nesf.data.dataset import bounding_box
    from nesf.decode import oracle

    box = bounding_box(dataset.split("train"))
    return oracle(
        dataset.split(split), box, dataset.vocabulary, config.reconstruction, progress=progress
    ).crystals


OWN = (
    NESF,
    Predictor("copy", lambda name, dataset: NoConfig(), decoding=None, predict=_copy),
    Predictor("constant", lambda name, dataset: NoConfig(), decoding=None, predict=_constant),
    Predictor(
        "oracle",
        lambda name, dataset: OracleConfig(),
        decoding="reconstruction",
        predict=_oracle,
    ),
)
# By name, in this order. Other packages add theirs by the entry point `nesf.methods` (a sequence of
# methods): the voxel baseline, `nesf_icsg3d`. Both mappings are made on first use.
METHODS: Mapping[str, TrainedMethod | Predictor]
TRAINED: Mapping[str, TrainedMethod]


def __getattr__(name: str) -> Any:
    if name not in ("METHODS", "TRAINED"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    points = sorted(metadata.entry_points(group="nesf.methods"), key=lambda point: point.name)
    found = {m.name: m for m in (*OWN, *(m for point in points for m in point.load()))}
    trained = {name: m for name, m in found.items() if isinstance(m, TrainedMethod)}
    globals().update(METHODS=found, TRAINED=trained)
    return globals()[name]


def method(name: str) -> TrainedMethod | Predictor:
    """Return a method by name, or raise `ConfigError` where there is none."""
    known = sys.modules[__name__].METHODS
    if name not in known:
        raise ConfigError(f"method {name!r} does not exist; choose from {', '.join(known)}")
    return known[name]


def trained(name: str) -> TrainedMethod:
    """Return a method that is trained by name, or raise `ConfigError`."""
    found = method(name)
    if not isinstance(found, TrainedMethod):
        known = sys.modules[__name__].TRAINED
        raise ConfigError(
            f"method {name!r} is not trained; use `nesf run DATASET --method {name}`, or choose from {', '.join(known)}"
        )
    return found


class Named(TypedDict):
    """What a JSON file says of the method that wrote it."""

    method: NotRequired[str]


def method_of(folder: Path, file: str = "model.json") -> TrainedMethod:
    """Return the method of the model in a folder, by its `model.json` (or `checkpoint.json`)."""
    about = read_form(Path(folder) / file, Named, "give the folder of a trained model")
    return trained(about.get("method", NESF.name))


def run_folder(
    root: Path, dataset: str, method: str, preset: str, *, seed: int, fold: int | None = None
) -> Path:
    """Return `root/dataset/method/preset/seed-N` (or `fold-K`), where a run is recorded."""
    return (
        Path(root)
        / dataset
        / method
        / preset
        / (f"seed-{seed}" if fold is None else f"fold-{fold}")
    )
