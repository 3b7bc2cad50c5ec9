"""Every choice of the model, its sampling, its training and its decoding, as frozen dataclasses.

Three presets: `paper` (the article with its supplement), `official` (the released code, where it differs) and `cpu`
(the recipe for two processor cores, found on the validation split of LCS6Å; see the training page of the book).
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, TypeVar

from nesf.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class ModelConfig:
    """Widths, depths and switches of the autoencoder (Supplementary Note 5; searched in Supplementary Note 7).

    Hidden widths only, as in Supplementary Note 7: the input and output widths follow from the data and `latent_size`.
    """

    n_species: int = 80  # A, the number of candidate species; set from the dataset's vocabulary
    latent_size: int = 192
    encoder_position: tuple[int, ...] = (64, 128, 128)  # the last one is the feature width
    encoder_species: tuple[int, ...] = (128, 128)
    encoder_mix: tuple[int, ...] = (512,)  # shared by the atoms, before the max pooling
    encoder_latent: tuple[int, ...] = (256, 256)  # after the max pooling; latent_size follows
    decoder_position: tuple[int, ...] = (256, 128, 128, 128, 128, 128, 128, 128)
    decoder_species: tuple[int, ...] = (256, 128)
    decoder_lattice: tuple[int, ...] = (128,)  # one network for the lengths, one for the angles
    dropout: float = 0.3  # encoder_mix and encoder_latent only; the last layer of an MLP has none
    batch_norm_momentum: float = 0.1  # official: torch's default
    # paper: the last layer of each field reads the query position again ([131] -> [3], 765,714 parameters) /
    # official: it does not ([128] -> [3], 765,465 parameters, «0.76 million») / here: as the count, hence official
    query_in_last_layer: bool = False
    n_frequencies: int = 0  # L of a positional encoding of the query; paper: none / official: 10 in one config file, none in the other

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"model.dropout = {self.dropout}: a probability below 1 is expected")


@dataclass(frozen=True)
class SamplingConfig:
    """Where queries are drawn in training (Section 2.2, Supplementary Note 6). Lengths in Å."""

    global_region: Literal["cell", "box"] = "cell"  # paper: unit cell / official: bounding box common to the dataset
    global_interval: float = 1.0  # grid interval
    global_sigma: float = 0.5  # standard deviation of the perturbation
    local_interval: float = 0.3
    local_range: float = 1.2  # edge of the cube of grid points around each atom
    local_sigma: float = 0.5  # official: 0.15
    species_interval: float = 0.1
    species_range: float = 0.5  # official: 0.6
    species_sigma: float = 0.5  # official: 0.05
    # paper: «grid range for each axis», taken here with both ends (5³ = 125 local and 6³ = 216 species points an atom) /
    # official: without the upper end, hence not centred on the atom (4³ = 64 and, with its range of 0.6 Å, 6³ = 216)
    half_open: bool = False
    periodic: bool = False  # paper and official: nearest among the atoms of the cell only; True: minimum image
    # 0: every grid point. Otherwise so many per crystal and step, drawn at random from the same sampling.
    n_position: int = 0
    n_species: int = 0
    global_share: float | None = None  # share of drawn position queries that are global; None: as in the full sampling


@dataclass(frozen=True)
class TrainingConfig:
    """Loss of Eq. 2, optimiser and schedule (Section 4.3)."""

    weight_position: float = 10.0  # λ_pos
    weight_species: float = 0.1  # λ_spe
    weight_length: float = 1.0  # λ_len; Å²
    weight_angle: float = 1.0  # λ_ang; radians²
    epochs: int = 3200
    batch_size: int = 128  # official: 64
    learning_rate: float = 1e-3
    schedule: Literal["step", "cosine"] = "step"
    step_epochs: int = 640  # the step schedule multiplies by step_factor every so many epochs
    step_factor: float = 0.5
    warmup_epochs: int = 0  # cosine schedule: linear rise before it
    early_stopping: bool = True  # keep the weights of the best validation loss; the last ones are kept too
    gradient_clip: float = 0.0  # largest norm of the gradient; 0: none
    average: float = 0.0  # decay of an exponential moving average of the weights, per step; 0: none
    validate_every: int = 1  # epochs
    # of the fields' matrix products; coordinates and statistics stay fp32. auto: bf16 where the processor multiplies it and `compile` holds
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    compile: bool = False  # torch.compile the fields (on a CPU it needs g++; without one the training says so and goes on uncompiled)


@dataclass(frozen=True)
class ReconstructionConfig:
    """The five steps of Section 2.1; Supplementary Notes 3 and 6. Lengths in Å."""

    grid_interval: float = 0.5  # step 1
    iterations: int = 64  # step 2; paper: not given / official: 64
    # step 2: a particle whose step would be shorter has arrived and stays, which changes positions by less than this; paper and official: 0, none stays
    converged: float = 1e-4
    # exact: the atoms that the plain algorithm finds / fast: rough first steps, and particles that met go on as one (see the speed page of the book)
    mode: Literal["exact", "fast"] = "exact"
    rough_iterations: int = 2  # fast: steps that may be computed in bf16
    merge_distance: float = 0.02  # fast: side of the cells in which particles are merged after each step, 0: never
    merge_step: float = 0.1  # fast: only those whose step was shorter are merged, for others are still on their way
    score_threshold: float = 0.9  # step 3
    nms_radius: float = 0.5  # step 4
    min_particles: int = 10  # step 4
    # step 4, position of a detected atom. paper: the particle with the lowest score / official: mean of the cluster weighted by softmax(-score²)
    atom_position: Literal["lowest_score", "cluster_mean"] = "lowest_score"
    species_interval: float = 0.1  # step 5
    species_range: float = 0.5
    max_queries: int = 65536  # queries in one pass of a field: bounds the memory

    def __post_init__(self) -> None:
        if self.max_queries < 1:
            raise ConfigError(f"max_queries = {self.max_queries}: at least 1 is expected")


class Choices:
    """What the dataclass that holds all choices of a method can do: go to and from plain dictionaries, and change some values."""

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, as stored in `run.json` and beside checkpoints."""
        return json.loads(json.dumps(dataclasses.asdict(typing.cast(Any, self))))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            ConfigError: an unknown key or a value of the wrong type; the message names it.
        """
        return _build(cls, values, "")

    def with_values(self, assignments: Mapping[str, Any]) -> Self:
        """A copy with some values changed.

        Args:
            assignments: dotted key to value, for example {"training.learning_rate": 2e-3}; text is read as JSON where it is JSON.

        Raises:
            ConfigError: an unknown key or a value of the wrong type.
        """
        values = self.to_dict()
        for key, value in assignments.items():
            section, _, name = key.partition(".")
            if section not in values or not isinstance(values[section], dict) or name not in values[section]:
                known = [f"{s}.{n}" for s, v in values.items() if isinstance(v, dict) for n in v]
                raise ConfigError(f"unknown configuration key {key!r}; the keys are {', '.join(known)}")
            values[section][name] = _parsed(value)
        return self.from_dict(values)


@dataclass(frozen=True)
class Config(Choices):
    """All choices of one training."""

    preset: str = "paper"
    model: ModelConfig = field(default_factory=ModelConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


def _build(cls: Any, values: Mapping[str, Any], prefix: str) -> Any:
    hints = typing.get_type_hints(cls)
    unknown = set(values) - set(hints)
    if unknown:
        raise ConfigError(f"unknown configuration key {prefix + sorted(unknown)[0]!r}; the keys are {', '.join(prefix + h for h in hints)}")
    built = {}
    for name, value in values.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            built[name] = _build(hint, value, f"{prefix}{name}.")
        else:
            built[name] = _checked(hint, value, prefix + name)
    return cls(**built)


def _checked(hint: Any, value: Any, key: str) -> Any:
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        if value in typing.get_args(hint):
            return value
        raise ConfigError(f"{key} = {value!r}: choose from {', '.join(map(str, typing.get_args(hint)))}")
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        hint = next(a for a in typing.get_args(hint) if a is not type(None))
    if origin is tuple:
        if isinstance(value, list | tuple) and value and all(isinstance(v, int) and v > 0 for v in value):
            return tuple(value)
        raise ConfigError(f"{key} = {value!r}: a list of positive whole numbers is expected, for example [256, 128]")
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not (math.isfinite(value) and value >= 0) or (value == 0 and key.endswith("interval")):
            raise ConfigError(f"{key} = {value!r}: a finite number {'above 0' if key.endswith('interval') else 'not below 0'} is expected")
        return float(value)
    if hint in (int, bool, str) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        if hint is int and value < 0:
            raise ConfigError(f"{key} = {value!r}: may not be negative")
        return value
    raise ConfigError(f"{key} = {value!r}: a value of type {getattr(hint, '__name__', hint)} is expected")


PAPER = Config()
OFFICIAL = Config(
    preset="official",
    sampling=SamplingConfig(global_region="box", local_sigma=0.15, species_range=0.6, species_sigma=0.05, half_open=True),
    training=TrainingConfig(batch_size=64),
)
# Chosen on the validation split of LCS6Å (results/lcs6/nesf/trial-*): half of the position queries global, no dropout, λ_spe = 1, a batch of 64.
CPU = Config(
    preset="cpu",
    model=ModelConfig(dropout=0.0),
    sampling=replace(OFFICIAL.sampling, n_position=96, n_species=48, global_share=0.5),
    training=TrainingConfig(
        weight_species=1.0,
        epochs=1200,  # about an hour on LCS6Å with one core of a server of 2023
        batch_size=64,
        learning_rate=2e-3,
        schedule="cosine",
        warmup_epochs=2,
        precision="auto",
        # The species term of the validation loss rises (over-confidence) long after every decoded error still falls: with it the kept weights would
        # be those of half-way. So the last ones are kept, which on validation decode better (results/lcs6/nesf/cpu).
        early_stopping=False,
        validate_every=10,
        compile=True,
    ),
)
PRESETS: Mapping[str, Config] = {"paper": PAPER, "official": OFFICIAL, "cpu": CPU}


# The `cpu` preset on one dataset: chosen on validation splits (results/ybco/nesf/trial-*); epochs for some minutes to half an hour of one core.
CPU_ON: Mapping[str, Mapping[str, Any]] = {
    "ybco": {"model.dropout": 0.3, "training.batch_size": 30, "training.epochs": 2400},
    "icsg3d": {"training.epochs": 400},
    "icsg3d-recovered": {"training.epochs": 400},
}


def for_dataset(config: Config, name: str) -> Config:
    """The config that is used for a dataset: the paper stops early, but not on YBCO-like, whose 5 validation crystals say too little (Section 4.3).

    Args:
        config: a preset, not changed yet; of `cpu` the values of `CPU_ON` are set.
        name: of the dataset.
    """
    changes = dict(CPU_ON.get(name, {})) if config.preset == "cpu" else {}
    if name == "ybco":
        changes["training.early_stopping"] = False
    return config.with_values(changes)


def preset(name: str) -> Config:
    """A preset by name.

    Raises:
        ConfigError: there is no such preset.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset {name!r} does not exist; choose from {', '.join(PRESETS)}")
    return PRESETS[name]


def reconstruction_config(assignments: Mapping[str, Any]) -> ReconstructionConfig:
    """The decoding parameters of the paper with some changed (`with_fields`), e.g. {"nms_radius": 0.4}."""
    return with_fields(ReconstructionConfig(), assignments)


def with_fields(section: T, assignments: Mapping[str, Any]) -> T:
    """A frozen dataclass of choices with some changed; text is read as JSON where it is JSON.

    Raises:
        ConfigError: an unknown key or a value of the wrong type.
    """
    return _build(type(section), dataclasses.asdict(typing.cast(Any, section)) | {k: _parsed(v) for k, v in assignments.items()}, "")


def _parsed(value: Any) -> Any:
    """Text as JSON where it is JSON, else as it is (as in training.schedule=cosine)."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value
