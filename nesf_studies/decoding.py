"""Errors by choices of decoding that the paper leaves open or the official code makes otherwise.

Every variant decodes the same latent vectors and changes the paper's decoding
(`nesf.config.ReconstructionConfig`) in one place, whatever the model's preset.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd

from nesf.config import ReconstructionConfig
from nesf.data.dataset import Dataset
from nesf.decode import reconstruct
from nesf.metrics import evaluate
from nesf.saved import TrainedModel
from nesf_io.errors import ConfigError
from nesf_studies.page import TABLE1
from nesf_studies.sensitivity import sample

DEFAULT = "default"
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    DEFAULT: {},
    # official code: mean of the cluster, weighted by softmax(-score²)
    "official position": {"atom_position": "cluster_mean"},
    # official code; by default a particle that has arrived stays
    "all particles move 64 times": {"converged": 0.0},
    # the species field at the atom itself instead of 216 queries around it
    "no votes": {"species_range": 0.0},
    "fast": {"mode": "fast"},
    # particles start around each crystal's decoded cell instead of in the dataset's box
    "in the cell": {"particles": "cell"},
    "fast in the cell": {"mode": "fast", "particles": "cell"},
    "consistent": {"mode": "consistent"},
    "consistent in the cell": {"mode": "consistent", "particles": "cell"},
}
ERRORS = TABLE1[:5]  # without those of the lattice, which are the network's alone


@dataclass(frozen=True)
class Parameters:
    """What is decoded, and how."""

    split: Literal["train", "val", "test"] = "val"
    n_crystals: int = 0  # so many of the split, drawn at random; 0: all
    seed: int = 0  # of that draw
    only: str = ""  # names of variants, separated by commas; empty: all

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in VARIANTS:
                raise ConfigError(
                    f"only = {self.only!r}: {name!r} is no variant of the decoding; choose from {', '.join(VARIANTS)}"
                )

    @property
    def names(self) -> tuple[str, ...]:
        """The variants that are decoded, the default first: the others are compared with it."""
        names = [n.strip() for n in self.only.split(",")] if self.only else VARIANTS
        return tuple(dict.fromkeys([DEFAULT, *names]))


def analyse(
    model: TrainedModel, dataset: Dataset, parameters: Parameters, *, progress: bool = True
) -> dict[str, pd.DataFrame]:
    """Decode a split with every variant.

    `decoding`: one row per variant: `changes` (keys and values, text), n_crystals, `ERRORS` (%, Å),
    how many crystals have another error than with the default (`n_changed`: number of atoms,
    positions by more than 0.001 Å, or species), `seconds`, `cpu_seconds` (of all threads, which
    other processes change less), the mean number of particles, and `n_certified`, how many crystals
    are (missing where nothing is certified).
    """
    crystals = sample(dataset.split(parameters.split), parameters.n_crystals, parameters.seed)
    rows, materials = [], []
    for name in parameters.names:
        begin, used = time.monotonic(), time.process_time()
        made = reconstruct(
            model, crystals, replace(ReconstructionConfig(), **VARIANTS[name]), progress=progress
        )
        seconds, found = time.monotonic() - begin, made.crystals
        cpu_seconds = time.process_time() - used
        certified = [r["certificate"]["certified"] for r in made.reports if "certificate" in r]
        particles = [r["n_particles"] for r in made.reports]
        metrics = evaluate(crystals, found, match=False)
        materials.append(metrics.materials)
        changes = ", ".join(f"{key} = {value}" for key, value in VARIANTS[name].items())
        row = {"variant": name, "changes": changes, "n_crystals": len(crystals)} | {
            error: metrics.summary[error] for error in ERRORS
        }
        rows.append(
            row
            | {"n_changed": int(_differ(materials[0], materials[-1]).sum()), "seconds": seconds}
            | {"cpu_seconds": cpu_seconds, "n_particles": sum(particles) / len(particles)}
            | {"n_certified": sum(certified) if certified else None}
        )
    types = dict.fromkeys(ERRORS, float) | {"n_certified": "Int64"}
    return {"decoding": pd.DataFrame(rows).astype(types)}


def _differ(first: pd.DataFrame, second: pd.DataFrame) -> Any:
    position, species = "position_error_actual_angstrom", "species_error_actual_percent"
    moved = (first[position].fillna(-1.0) - second[position].fillna(-1.0)).abs() > 1e-3
    return (
        moved
        | (first["n_atoms_detected"] != second["n_atoms_detected"])
        | (first[species] != second[species])
    )
