"""Reconstruction examples (Figure 3): the best, the median and the worst crystals of a split, chosen by rule."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from nesf.baselines import copy_nearest
from nesf.config import ReconstructionConfig
from nesf.crystals import Crystals
from nesf.data.dataset import Dataset
from nesf.decode import oracle, reconstruct
from nesf.errors import ConfigError, DataError
from nesf.metrics import align, evaluate
from nesf.saved import TrainedModel

if TYPE_CHECKING:
    import pandas as pd

PLACES = ("best", "median", "worst")
# By what crystals are sorted, one after the other where the one before is equal; the id comes last, so that no two are equal.
RULE = ("position_error_actual_angstrom", "n_atoms_error", "species_error_actual_percent", "id")
SHOWN = (
    "n_atoms_actual",
    "n_atoms_detected",
    "position_error_actual_angstrom",
    "species_error_actual_percent",
    "lattice_length_error_angstrom",
    "matched",
)


@dataclass(frozen=True)
class Parameters:
    """Choices of the analysis."""

    split: Literal["train", "val", "test"] = "test"  # the paper shows test crystals
    n_each: int = 1  # crystals of each kind (best, median, worst); the paper shows a few, and does not say how they were chosen
    n_crystals: int = 0  # the first so many of the split are looked at; 0: all
    mode: Literal["exact", "fast"] = "exact"  # of decoding
    # Run folder of the voxel baseline, whose reconstruction of the split is read, or made where it is not kept; or a packed file of crystals; empty: none.
    icsg3d: str = ""

    def __post_init__(self) -> None:
        if self.n_each < 1:
            raise ConfigError(f"n_each = {self.n_each}: at least 1 crystal of each kind is expected")


def ranking(materials: pd.DataFrame) -> np.ndarray:
    """Crystals from best to worst.

    By the position error (actual), where it is equal by how far the number of atoms is off, then by the species error (actual), then by the id. A
    crystal in which nothing is detected has no position error and comes after all others.

    Args:
        materials: `nesf.metrics.Metrics.materials`.

    Returns:
        Indices of its rows, best first.
    """
    keys = materials.assign(n_atoms_error=(materials["n_atoms_detected"] - materials["n_atoms_actual"]).abs())
    keys = keys.fillna({RULE[0]: np.inf}).reset_index(drop=True)
    return keys.sort_values(list(RULE), kind="stable").index.to_numpy()


def choose(order: np.ndarray, n_each: int) -> dict[str, np.ndarray]:
    """The first, the middle and the last of a ranking, n each and none twice.

    Args:
        order: [B], of `ranking`.
        n_each: of each kind; the median ones are those around place B / 2.

    Raises:
        DataError: fewer crystals than three times n.
    """
    n = len(order)
    if n < 3 * n_each:
        raise DataError(
            f"{n} crystals are too few for {n_each} of each kind (best, median, worst); take another split, more crystals, or a smaller n_each"
        )
    middle = (n - n_each) // 2
    return dict(zip(PLACES, (order[:n_each], order[middle : middle + n_each], order[n - n_each :]), strict=True))


def read_baseline(path: str, split: str, actual: Crystals) -> Crystals:
    """What another method gave for some crystals of a split.

    Args:
        path: run folder of the voxel baseline, or a packed file.
        split: train, val or test.
        actual: the crystals; only they are decoded where the folder holds weights and no reconstruction of the split.

    Returns:
        Same ids and order as `actual`.

    Raises:
        DataError: there is neither, or the reconstruction lacks some of the crystals.
    """
    folder = Path(path)
    file = folder if folder.suffix == ".safetensors" else folder / "reconstruction" / split / "crystals.safetensors"
    if not file.exists() and (folder / "model.json").exists():
        from nesf.icsg3d.baseline import VoxelBaseline

        baseline = VoxelBaseline.load(folder)
        return baseline.reconstruct(actual, seed=baseline.info["seed"]).crystals
    theirs = Crystals.load(file)
    known = [i for i, identifier in enumerate(theirs.ids) if identifier in set(actual.ids)]
    if len(known) < len(actual):
        raise DataError(f"{path}: holds {len(known)} of the {len(actual)} examples; reconstruct the whole {split} split")
    return align(actual, theirs.select(known))


def compare(
    crystals: Crystals, detected: Crystals, train: Crystals, model: TrainedModel, parameters: Parameters
) -> dict[str, pd.DataFrame | Crystals]:
    """Choose examples and set all methods beside each other on them.

    Args:
        crystals: B crystals of the split.
        detected: what the model gave for them, same ids and order.
        train: the training split, from which `copy` takes the nearest crystal.
        model: its box and vocabulary serve the oracle.
        parameters: `n_each` and `icsg3d` are used.

    Returns:
        `examples`: a row per crystal and method, best first, with `place`, `rank` (1 is the best), `of` (B), errors as in `materials.csv`; `actual`, `nesf`,
        `copy` and, if it is given, `icsg3d`: these crystals (those of the oracle are the actual ones wherever its errors are zero).
    """
    import pandas as pd

    metrics = evaluate(crystals, detected)
    order = ranking(metrics.materials)
    places = choose(order, parameters.n_each)
    rows = np.concatenate(list(places.values()))
    actual = crystals.select(rows)
    config = ReconstructionConfig(mode=parameters.mode)
    methods = {
        "nesf": detected.select(rows),
        "copy": copy_nearest(train, actual),
        "oracle": oracle(actual, model.box, model.vocabulary, config).crystals,
    }
    if parameters.icsg3d:
        methods["icsg3d"] = read_baseline(parameters.icsg3d, parameters.split, actual)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    tables = []
    for method, found in methods.items():
        errors = evaluate(actual, found).materials
        formulas = [s.composition.reduced_formula if len(s) else "" for s in found.to_structures()]
        about = pd.DataFrame({"place": np.repeat(list(places), parameters.n_each), "rank": rank[rows], "of": len(order), "method": method})
        tables.append(about.assign(id=errors["id"], formula=errors["formula"], formula_detected=formulas, **{name: errors[name] for name in SHOWN}))
    table = pd.concat(tables, ignore_index=True).sort_values("rank", kind="stable", ignore_index=True)
    return {"examples": table, "actual": _bare(actual), **{method: _bare(found) for method, found in methods.items() if method != "oracle"}}


def _bare(crystals: Crystals) -> Crystals:
    """Without properties: a record holds what is shown."""
    return Crystals(*(getattr(crystals, f.name) for f in fields(Crystals) if f.name != "properties"))


def analyse(model: TrainedModel, dataset: Dataset, parameters: Parameters, *, progress: bool = True) -> dict[str, pd.DataFrame | Crystals]:
    """Reconstruct a split and record its best, median and worst crystals; see `compare` for what is returned."""
    crystals = dataset.split(parameters.split)
    if parameters.n_crystals:
        crystals = crystals.select(range(min(parameters.n_crystals, len(crystals))))
    if len(crystals) < 3 * parameters.n_each:
        choose(np.arange(len(crystals)), parameters.n_each)  # says so before anything is computed
    config = ReconstructionConfig(mode=parameters.mode)
    detected = reconstruct(model, crystals, config, progress=progress).crystals
    return compare(crystals, detected, dataset.split("train"), model, parameters)
