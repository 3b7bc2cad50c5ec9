"""Configuration of the model, its sampling, its training and its decoding, as frozen dataclasses.

Four presets: `paper` (the article with its supplement), `official` (the released code, where it
differs), `cpu` (the paper's model by a recipe for two processor cores, found on the validation
split of LCS6Å; see the training page of the book) and `plus` (nesf+, a model of our own).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, Self, TypeVar

from nesf.files import parse_json
from nesf.forms import Range, from_values
from nesf_io.errors import ConfigError

T = TypeVar("T")
Places = Annotated[int, Range(1, 4096)]
Interval = Annotated[float, Range(0.02, 20)]  # Å; between grid points
Radius = Annotated[float, Range(0, 20)]  # Å
Count = Annotated[int, Range(0, 10_000)]
Width = Annotated[int, Range(1, 65536)]


@dataclass(frozen=True)
class ModelConfig:
    """Hidden widths and options of the autoencoder (Supplementary Notes 5 and 7)."""

    n_species: Width = 80  # A, number of candidate species; set from the dataset's vocabulary
    latent_size: Width = 192
    encoder_position: tuple[Width, ...] = (
        64,
        128,
        128,
    )  # the last one is the width of the features
    encoder_species: tuple[Width, ...] = (128, 128)
    encoder_mix: tuple[Width, ...] = (512,)  # applied to each atom, before the max pooling
    encoder_latent: tuple[Width, ...] = (256, 256)  # after the max pooling; latent_size follows
    decoder_position: tuple[Width, ...] = (256, 128, 128, 128, 128, 128, 128, 128)
    decoder_species: tuple[Width, ...] = (256, 128)
    decoder_lattice: tuple[Width, ...] = (128,)  # one network for the lengths, one for the angles
    dropout: float = 0.3  # in encoder_mix and encoder_latent; the last layer of an MLP has none
    batch_norm_momentum: float = 0.1  # official: torch's default
    # paper: the last layer of each field reads the query position again ([131] -> [3], 765,714
    # parameters) / official: it does not ([128] -> [3], 765,465 parameters, the paper's «0.76
    # million») / here: as official
    query_in_last_layer: bool = False
    # pooling over the atoms. paper: max / max_mean_count: also the mean of ReLU, and the number of
    # atoms, so that no atom goes unnoticed
    pooling: Literal["max", "max_mean_count"] = "max"
    # the lattice in the encoder. paper: raw Å and radians beside the pooled features / scaled: of
    # order 1, through layers of its own
    lattice_input: Literal["raw", "scaled"] = "raw"
    encoder_lattice: tuple[Width, ...] = (64, 64)  # widths of these layers
    # the lattice decoders' output. paper: Å and radians / bounded: lengths between 0.25 and 100 Å,
    # angles between 0 and 180 degrees
    lattice_output: Literal["raw", "bounded"] = "raw"
    # layers of a field that read the latent vector. paper: the first / every: each hidden layer
    condition: Literal["first", "every"] = "first"
    # a decoder of the number of atoms of each species, which orders the search of the consistent
    # decoding; paper: none
    composition: bool = False
    decoder_composition: tuple[Width, ...] = (128,)
    # L of a positional encoding of the query; paper: none / official: 10 in one config file, none
    # in the other
    n_frequencies: Annotated[int, Range(0, 64)] = 0

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"model.dropout = {self.dropout}: a probability below 1 is expected")


@dataclass(frozen=True)
class SamplingConfig:
    """Sampling of the queries in training (Section 2.2, Supplementary Note 6). Lengths in Å."""

    # paper: unit cell / official: bounding box common to the dataset
    global_region: Literal["cell", "box"] = "cell"
    global_interval: float = 1.0  # grid interval
    global_sigma: float = 0.5  # standard deviation of the perturbation
    local_interval: float = 0.3
    local_range: float = 1.2  # edge of the cube of grid points around each atom
    local_sigma: float = 0.5  # official: 0.15
    species_interval: float = 0.1
    species_range: float = 0.5  # official: 0.6
    species_sigma: float = 0.5  # official: 0.05
    # paper: «grid range for each axis», read here as including both ends (5³ = 125 local and 6³ =
    # 216 species points per atom) / official: without the upper end, hence not centred on the atom
    # (4³ = 64 and, with its range of 0.6 Å, 6³ = 216)
    half_open: bool = False
    # paper and official: nearest among the atoms of the cell only; True: minimum image
    periodic: bool = False
    # number of queries per crystal and step, drawn at random from the same sampling; 0: every grid
    # point
    n_position: int = 0
    n_species: int = 0
    # fraction of the drawn position queries that are global; None: as in the full sampling
    global_share: float | None = None


@dataclass(frozen=True)
class AugmentationConfig:
    """Self-made training crystals: an autoencoder needs no labels. The paper makes none."""

    share: float = 0.0  # share of each batch that is changed, anew in every step
    strain: float = 0.08  # each lattice length is multiplied by a number in 1 ± strain
    displacement: float = 0.12  # Å; each atom is moved by up to so much
    exchange: float = 0.3  # probability that an element becomes another one of the vocabulary


@dataclass(frozen=True)
class TrainingConfig:
    """Loss of Eq. 2, optimiser and schedule (Section 4.3)."""

    weight_position: float = 10.0  # λ_pos
    weight_species: float = 0.1  # λ_spe
    weight_length: float = 1.0  # λ_len; Å²
    weight_angle: float = 1.0  # λ_ang; radians²
    # of the squared errors of the composition, summed over the species; with model.composition
    weight_composition: float = 0.1
    epochs: int = 3200
    batch_size: int = 128  # official: 64
    learning_rate: float = 1e-3
    schedule: Literal["step", "cosine"] = "step"
    # step schedule: the rate is multiplied by step_factor after every step_epochs epochs
    step_epochs: int = 640
    step_factor: float = 0.5
    warmup_epochs: int = 0  # cosine schedule: linear warm-up before it
    # keep the weights of the best validation loss; the last ones are kept too
    early_stopping: bool = True
    gradient_clip: float = 0.0  # largest norm of the gradient; 0: no clipping
    average: float = 0.0  # decay of an exponential moving average of the weights, per step; 0: none
    validate_every: int = 1  # epochs
    # of the fields' matrix products; coordinates and statistics stay fp32. auto: bf16 where the
    # processor supports it and `compile` is on
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    # torch.compile the fields (a CPU needs g++; without it a warning is given and the training runs
    # uncompiled)
    compile: bool = False


@dataclass(frozen=True)
class ReconstructionConfig:
    """Parameters of the decoding (Section 2.1; Supplementary Notes 3 and 6). Lengths in Å."""

    grid_interval: Interval = 0.5  # step 1
    # step 1: where particles start. paper and official: the box common to the dataset / cell: in
    # that box, the part around each crystal's own decoded cell
    particles: Literal["box", "cell"] = "box"
    iterations: Count = 64  # step 2; paper: not given / official: 64
    # step 2: a particle whose next step would be shorter than this stays where it is / paper and
    # official: 0, every particle moves on
    converged: Annotated[float, Range(0, 1)] = 1e-4
    # exact: finds the atoms of the plain algorithm / fast: rough first steps, and particles that
    # meet are merged (see the speed page of the book)
    # / consistent: fast, then corrected until the encoder gives back the latent vector
    mode: Literal["exact", "fast", "consistent"] = "exact"
    rough_iterations: Count = 2  # fast: number of first steps that may be computed in bf16
    # fast: edge of the cells in which particles are merged after each step; 0: never
    merge_distance: Annotated[float, Range(0, 1)] = 0.02
    merge_step: Radius = 0.1  # fast: only particles whose step was shorter are merged
    score_threshold: Radius = 0.9  # step 3
    nms_radius: Radius = 0.5  # step 4
    min_particles: int = 10  # step 4
    # step 4, position of a detected atom. paper: the particle with the lowest score / official:
    # mean of the cluster weighted by softmax(-score²)
    atom_position: Literal["lowest_score", "cluster_mean"] = "lowest_score"
    species_interval: Interval = 0.1  # step 5
    species_range: Radius = 0.5
    max_queries: Annotated[int, Range(1, 2**24)] = (
        65536  # queries in one pass of a field: bounds the memory
    )
    # consistent: largest latent distance of a certified crystal (chosen on validation splits)
    certified: float = 1e-8
    polish_steps: Count = 25  # consistent: largest number of Levenberg-Marquardt steps
    search_rounds: Count = 8  # consistent: rounds of discrete moves; 0: no search
    search_width: Places = 4  # crystals that make their moves in a round
    search_candidates: Places = 32  # moves of a round that are polished
    search_top: Places = 6  # moves of a crystal and kind that are looked at
    # weight of the squared differences from the decoded composition, in the order of the search
    composition_weight: float = 0.003
    search_interval: Interval = 0.7  # Å, of the grid of places for an additional atom
    # weight of the squared differences from the decoded lattice, Å and radians, while searching
    search_lattice: float = 0.01


class ConfigBase:
    """Base of a method's configuration, whose fields are a preset's name and sections of values."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested dictionaries, as stored in `run.json` and beside checkpoints."""
        return as_json(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the config that `to_dict` gave as `values`."""
        return from_values(cls, values)

    def with_values(self, assignments: Mapping[str, Any]) -> Self:
        """Return a copy with changes, e.g. {"training.learning_rate": 2e-3}; text is read as JSON.

        Raises:
            ConfigError: an unknown key or a value of the wrong type; the message names it.
        """
        values = self.to_dict()
        known = [
            f"{section}.{name}"
            for section, names in values.items()
            if isinstance(names, dict)
            for name in names
        ]
        for key, value in assignments.items():
            if key not in known:
                raise ConfigError(
                    f"unknown configuration key {key!r}; the keys are {', '.join(known)}"
                )
            section, name = key.split(".")
            values[section][name] = _parsed(value)
        return self.from_dict(values)


@dataclass(frozen=True)
class Config(ConfigBase):
    """Configuration of a training of NeSF and of the decoding that follows it."""

    preset: str = "paper"
    model: ModelConfig = field(default_factory=ModelConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    decoding: ReconstructionConfig = field(default_factory=ReconstructionConfig)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """See `ConfigBase`; a missing section `decoding` becomes the preset's, else the paper's."""
        config = super().from_dict(values)
        return (
            config
            if "decoding" in values
            else replace(config, decoding=PRESETS.get(config.preset, PAPER).decoding)
        )


def as_json(section: Any) -> dict[str, Any]:
    """Return a dataclass as plain nested dictionaries and lists, as JSON holds them."""
    return json.loads(json.dumps(dataclasses.asdict(section)))


PAPER = Config()
OFFICIAL = Config(
    preset="official",
    sampling=SamplingConfig(
        global_region="box", local_sigma=0.15, species_range=0.6, species_sigma=0.05, half_open=True
    ),
    training=TrainingConfig(batch_size=64),
    decoding=ReconstructionConfig(converged=0.0, atom_position="cluster_mean"),
)
# Chosen on the validation split of LCS6Å (results/lcs6/nesf/trial-*): the paper's sampling, half of
# the position queries global, no dropout, λ_spe = 1, a batch of 64.
CPU = Config(
    preset="cpu",
    model=ModelConfig(dropout=0.0),
    sampling=SamplingConfig(n_position=96, n_species=48, global_share=0.5),
    training=TrainingConfig(
        weight_species=1.0,
        epochs=1200,  # about an hour on LCS6Å with one core of a server of 2023
        batch_size=64,
        learning_rate=2e-3,
        schedule="cosine",
        warmup_epochs=2,
        precision="auto",
        # The species term of the validation loss starts to rise (over-confidence) while every
        # decoded error still falls: early stopping would keep the weights of half-way. The last
        # ones decode the validation split better (results/lcs6/nesf/cpu).
        early_stopping=False,
        validate_every=10,
        compile=True,
    ),
)
# nesf+: an encoder that keeps the crystal, and self-made training crystals, chosen on the validation
# split of LCS6Å.
PLUS = replace(
    CPU,
    preset="plus",
    model=replace(
        CPU.model,
        pooling="max_mean_count",
        lattice_input="scaled",
        lattice_output="bounded",
        condition="every",
        composition=True,
    ),
    augmentation=AugmentationConfig(share=0.3),
    training=replace(CPU.training, epochs=800),
    decoding=ReconstructionConfig(mode="consistent"),
)
PRESETS: Mapping[str, Config] = {c.preset: c for c in (PAPER, OFFICIAL, CPU, PLUS)}
# A preset on one dataset: chosen on validation splits (results/ybco/nesf/trial-*); epochs for some
# minutes to half an hour of one core.
ON_DATASET: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "cpu": {
        "starter": {"training.epochs": 300},
        "ybco": {"model.dropout": 0.3, "training.batch_size": 30, "training.epochs": 2400},
        "icsg3d": {"training.epochs": 400},
        "icsg3d-recovered": {"training.epochs": 400},
    },
    "plus": {
        "ybco": {
            "augmentation.share": 0.8,
            "training.batch_size": 30,
            "training.epochs": 2400,
        },
        "icsg3d": {"training.epochs": 300},
        "icsg3d-recovered": {"training.epochs": 300},
        "perov5-third": {"training.epochs": 200},
        # one long cell makes the box common to all crystals large
        "mp20-binary-ternary": {
            "training.epochs": 210,
            "decoding.particles": "cell",
            "decoding.search_rounds": 2,  # a round takes seconds in cells of 20 atoms
        },
    },
}


def for_dataset(config: Config, name: str) -> Config:
    """Return an unchanged preset as it is used for a dataset, with its values of `ON_DATASET`.

    The paper stops early, but not on YBCO-like, where 5 validation crystals are too few for it
    (Section 4.3).
    """
    changes = dict(ON_DATASET.get(config.preset, {}).get(name, {}))
    if name == "ybco":
        changes["training.early_stopping"] = False
    return config.with_values(changes)


def preset(name: str) -> Config:
    """Return a preset by name; raise a `ConfigError` if there is none."""
    if name not in PRESETS:
        raise ConfigError(f"preset {name!r} does not exist; choose from {', '.join(PRESETS)}")
    return PRESETS[name]


def with_fields(section: T, assignments: Mapping[str, Any]) -> T:
    """Return a dataclass with fields changed, checked by `from_values`; text is parsed as JSON."""
    return from_values(
        type(section), as_json(section) | {k: _parsed(v) for k, v in assignments.items()}
    )


def _parsed(value: Any) -> Any:
    """Return text as JSON where it is JSON, anything else as it is (`training.schedule=cosine`)."""
    try:
        return parse_json(value) if isinstance(value, str) else value
    except ValueError:
        return value
