"""The config of the voxel baseline, as frozen dataclasses, and its presets.

`as-published` does what the public code (`by256/icsg3d`) does, faults included; `repaired` corrects
five of them. Values are those of the public code's defaults; where the article of 2020 is silent
they are the only source. Both need a GPU for a dataset of some thousand crystals;
`as-published-reduced` and `repaired-reduced` are demonstrations of the same choices that one
processor core trains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from nesf.config import ConfigBase
from nesf_io.errors import ConfigError


@dataclass(frozen=True)
class VoxelConfig:
    """Grid and radii of the maps.

    Without a unit, lengths are in units of the cell's length along each axis.
    """

    n: int = 32  # voxels along each axis
    margin: float = 0.25  # the box is [-margin, 1 + margin] along each axis
    default_radius: float = 1.20  # Å; σ of an element without ionic radii in pymatgen
    # a voxel belongs to an atom within σ · label_frac; repaired: chosen on validation
    label_frac: float = 1.0
    n_classes: int = 95  # of the species map: atomic numbers 0 (no atom) to 94

    def __post_init__(self) -> None:
        if not 8 <= self.n <= 256 or self.n % 8 or not self.label_frac > 0:
            raise ConfigError(
                f"voxels.n = {self.n}, voxels.label_frac = {self.label_frac}: a multiple of 8 from 8 to 256 and a number above 0 are expected"
            )
        if not 2 <= self.n_classes <= 256:
            raise ConfigError(f"voxels.n_classes = {self.n_classes}: 2 to 256 are expected")

    @property
    def extent(self) -> float:
        """Edge of the box in units of the length, 1.5."""
        return 1 + 2 * self.margin


@dataclass(frozen=True)
class UNetConfig:
    """The U-Net, its loss (cross-entropy + binary cross-entropy) and its training with Adam."""

    width: int = 32  # channels of the first convolution; all others are multiples of it
    # published code: weights = the number of classes, a scalar, so that cross-entropy counts 95
    # times and no class more than another (`n_classes`) / meant: inverse frequency, background 0
    # (`inverse_frequency`)
    class_weights: Literal["n_classes", "inverse_frequency"] = "n_classes"
    # copies of each crystal turned by random quarter turns, made once and kept for the whole
    # training
    rotations: int = 10
    # published code: an epoch sees the crystal and all its copies (`all_copies`) / reduced: each
    # crystal once, as it is or as one of its copies
    augmentation: Literal["all_copies", "one_copy"] = "all_copies"
    # Keras's default (its 0.99); reduced: 0.1, for running statistics that a hundred steps bring up
    # to date
    batch_norm_momentum: float = 0.01
    epochs: int = 50
    batch_size: int = 10
    learning_rate: float = 3e-6


@dataclass(frozen=True)
class VAEConfig:
    """The Cond-DFC-VAE, its loss (MSE + perceptual + KL) and its training with Adam."""

    filters: tuple[int, ...] = (16, 32, 64, 128)  # of the encoder; the decoder has them in reverse
    # paper (NeSF): searched in 64, 128, 256, 512, 1024, the winner is not stated / published code:
    # 256
    latent_size: int = 256
    n_conditions: int = 10  # quantiles of the formation energy
    # repaired: the encoder also reads the three angles and the decoder also predicts them
    angle_head: bool = False
    weight_perceptual: float = 0.5  # α
    weight_kl: float = 3e-4  # β
    weight_angle: float = 1.0  # radians²; only with the angle head (as NeSF's λ_ang)
    rotations: int = 10  # as for the U-Net
    augmentation: Literal["all_copies", "one_copy"] = "all_copies"
    batch_norm_momentum: float = 0.01
    epochs: int = 250  # ICSG3D's article; published code: 50 as the default of its script
    batch_size: int = 20
    learning_rate: float = 5e-4


@dataclass(frozen=True)
class TrainingConfig:
    """Options of both trainings."""

    # of the convolutions; losses, coordinates that are read and predicted, and the optimiser stay
    # fp32. auto: bf16 on a GPU that has it
    precision: Literal["auto", "fp32", "bf16"] = "auto"


@dataclass(frozen=True)
class DecodingConfig:
    """From the networks' maps to atoms and lattice."""

    # published code: z is drawn from its distribution, so reconstructions vary / repaired: its mean
    sample_latent: bool = True
    binary_threshold: float = 0.8  # probability from which a voxel belongs to an atom
    # published code: takes 1/n off lengths that are already exact, hence -3.1 % (and positions with
    # them) / repaired: the exact lengths
    length_slip: bool = True
    min_voxels: int = 4  # smaller components are dropped
    # voxels over voxels of the convex hull, from which a component is one atom
    min_convexity: float = 0.8
    max_iterations: int = 5  # of the recursive watershed
    # a component is divided again while it has more voxels than so many a part
    voxels_per_atom: int = 8


@dataclass(frozen=True)
class VoxelBaselineConfig(ConfigBase):
    """Config of one training and of its decoding."""

    preset: str = "as-published"
    voxels: VoxelConfig = field(default_factory=VoxelConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)

    def oracle(self) -> OracleConfig:
        """Return the part of the config that the oracle has."""
        return OracleConfig(self.preset, self.voxels, self.decoding)


@dataclass(frozen=True)
class OracleConfig(ConfigBase):
    """Config of the oracle, which needs no networks (`nesf_icsg3d.segmentation.oracle`)."""

    preset: str = "as-published"
    voxels: VoxelConfig = field(default_factory=VoxelConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)


AS_PUBLISHED = VoxelBaselineConfig()
REPAIRED = replace(
    AS_PUBLISHED,
    preset="repaired",
    voxels=VoxelConfig(label_frac=0.85),
    unet=UNetConfig(class_weights="inverse_frequency"),
    vae=VAEConfig(angle_head=True),
    decoding=DecodingConfig(sample_latent=False, length_slip=False),
)


def _reduced(config: VoxelBaselineConfig) -> VoxelBaselineConfig:
    """Return a preset that trains on 90 crystals (a fold of YBCO-like) in minutes on one core.

    In so few steps neither network learns a crystal together with its turned copies, so there are
    none.
    """
    few: dict[str, Any] = {
        "augmentation": "one_copy",
        "rotations": 0,
        "batch_norm_momentum": 0.1,
        "batch_size": 3,
    }
    return replace(
        config,
        preset=f"{config.preset}-reduced",
        unet=replace(config.unet, width=4, epochs=20, learning_rate=5e-3, **few),
        vae=replace(config.vae, filters=(8, 16, 32, 64), epochs=40, learning_rate=1e-2, **few),
    )


PRESETS: Mapping[str, VoxelBaselineConfig] = {
    c.preset: c for c in (AS_PUBLISHED, REPAIRED, _reduced(AS_PUBLISHED), _reduced(REPAIRED))
}
# Chosen by `nesf_icsg3d.segmentation.choose_label_frac` on the validation splits (all folds'
# together for YBCO-like); other datasets: 0.85, as LCS6Å.
LABEL_FRAC_ON: Mapping[str, float] = {
    "ybco": 0.70,
    "lcs6": 0.85,
    "icsg3d": 1.0,
    "icsg3d-recovered": 1.0,
}


def for_dataset(config: VoxelBaselineConfig, name: str) -> VoxelBaselineConfig:
    """Return a preset as used for a dataset: `repaired` with the dataset's `label_frac`."""
    if config.preset.startswith("repaired") and name in LABEL_FRAC_ON:
        return config.with_values({"voxels.label_frac": LABEL_FRAC_ON[name]})
    return config


def preset(name: str) -> VoxelBaselineConfig:
    """Return a preset by name.

    Raises:
        ConfigError: there is no such preset.
    """
    if name not in PRESETS:
        raise ConfigError(
            f"preset {name!r} does not exist for icsg3d; choose from {', '.join(PRESETS)}"
        )
    return PRESETS[name]
