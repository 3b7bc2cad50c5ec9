"""Reconstruction examples (Figure 3): best, median and worst crystals of a split, by rule."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure

from nesf.baselines import copy_nearest
from nesf.crystals import Crystals
from nesf.data.dataset import Dataset
from nesf.decode import oracle, reconstruct
from nesf.metrics import align, evaluate
from nesf.saved import TrainedModel
from nesf_icsg3d.baseline import VoxelBaseline
from nesf_io.errors import ConfigError, DataError
from nesf_studies.crystals import draw_crystal
from nesf_studies.style import subplots
from nesf_studies.viewer import captioned_view, crystal_choice

PLACES = ("best", "median", "worst")
# By what crystals are sorted, one after the other where the one before is equal; the id comes last,
# so that no two are equal. A crystal in which nothing is detected has no position error and comes
# after all others.
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
    """Parameters of the analysis."""

    split: Literal["train", "val", "test"] = "test"  # the paper shows test crystals
    # crystals of each kind (best, median, worst); the paper shows a few, and does not say how they
    # were chosen
    n_each: int = 1
    n_crystals: int = 0  # the first so many of the split are looked at; 0: all
    mode: Literal["exact", "fast"] = "exact"  # of decoding
    # Run folder of the voxel baseline, whose reconstruction of the split is read, or made where it
    # is not kept; or a packed file of crystals; empty: none.
    icsg3d: str = ""

    def __post_init__(self) -> None:
        if self.n_each < 1:
            raise ConfigError(
                f"n_each = {self.n_each}: at least 1 crystal of each kind is expected"
            )


def ranking(materials: pd.DataFrame) -> np.ndarray:
    """Return the rows of `nesf.metrics.Metrics.materials` by `RULE`, the best crystal first."""
    keys = materials.assign(
        n_atoms_error=(materials["n_atoms_detected"] - materials["n_atoms_actual"]).abs()
    )
    keys = keys.fillna({RULE[0]: np.inf}).reset_index(drop=True)
    return keys.sort_values(list(RULE), kind="stable").index.to_numpy()


def choose(order: np.ndarray, n_each: int) -> dict[str, np.ndarray]:
    """Return the first n of a ranking [B], the n around place B / 2 and the last n, none twice.

    Raises:
        DataError: fewer crystals than three times n.
    """
    n = len(order)
    if n < 3 * n_each:
        raise DataError(
            f"{n} crystals are too few for {n_each} of each kind (best, median, worst); take another split, more crystals, or a smaller n_each"
        )
    middle = (n - n_each) // 2
    return dict(
        zip(
            PLACES,
            (order[:n_each], order[middle : middle + n_each], order[n - n_each :]),
            strict=True,
        )
    )


def read_baseline(path: str, split: str, actual: Crystals) -> Crystals:
    """Return crystals as the voxel baseline reconstructs them: its run folder, or a packed file.

    Only these crystals are decoded where the folder holds weights and no reconstruction of the
    split.

    Raises:
        DataError: there is neither, or the reconstruction lacks some of the crystals.
    """
    folder = Path(path)
    file = (
        folder
        if folder.suffix == ".safetensors"
        else folder / "reconstruction" / split / "crystals.safetensors"
    )
    if not file.exists() and (folder / "model.json").exists():
        baseline = VoxelBaseline.load(folder)
        return baseline.reconstruct(actual, seed=baseline.info["seed"]).crystals
    theirs = Crystals.load(file)
    known = np.flatnonzero(np.isin(theirs.ids, actual.ids))
    if len(known) < len(actual):
        raise DataError(
            f"{path}: holds {len(known)} of the {len(actual)} examples; reconstruct the whole {split} split"
        )
    return align(actual, theirs.select(known))


def compare(
    crystals: Crystals,
    detected: Crystals,
    train: Crystals,
    model: TrainedModel,
    parameters: Parameters,
) -> dict[str, pd.DataFrame | Crystals]:
    """Choose examples among B crystals of a split and compare all methods on them.

    The model gave `detected` for them, same ids and order; `copy` takes the nearest crystals of
    `train`.

    Returns:
        `examples`: a row per crystal and method, best first, with `place`, `rank` (1 is the best),
            `of` (B), errors as in `materials.csv`; `actual`, `nesf`,
        `copy` and, if it is given, `icsg3d`: these crystals (those of the oracle are the actual
            ones wherever its errors are zero).
    """
    order = ranking(evaluate(crystals, detected, match=False).materials)
    places = choose(order, parameters.n_each)
    rows = np.concatenate(list(places.values()))
    actual = crystals.select(rows)
    config = replace(model.config.decoding, mode=parameters.mode)
    perfect = oracle(actual, model.box, model.vocabulary, config).crystals
    methods = {
        "nesf": detected.select(rows),
        "copy": copy_nearest(train, actual),
        "oracle": perfect,
    }
    if parameters.icsg3d:
        methods["icsg3d"] = read_baseline(parameters.icsg3d, parameters.split, actual)
    place, rank = np.repeat(list(places), parameters.n_each), order.argsort()[rows] + 1
    tables = []
    for method, found in methods.items():
        errors = evaluate(actual, found).materials
        formulas = [s.composition.reduced_formula if len(s) else "" for s in found.to_structures()]
        about = pd.DataFrame({"place": place, "rank": rank, "of": len(order), "method": method})
        named = errors[["id", "formula"]].assign(formula_detected=formulas)
        tables.append(pd.concat([about, named, errors[list(SHOWN)]], axis=1))
    table = pd.concat(tables, ignore_index=True).sort_values(
        "rank", kind="stable", ignore_index=True
    )
    shown = {"actual": actual} | {
        method: found for method, found in methods.items() if method != "oracle"
    }
    return {
        "examples": table,
        **{method: replace(found, properties={}) for method, found in shown.items()},
    }


def analyse(
    model: TrainedModel, dataset: Dataset, parameters: Parameters, *, progress: bool = True
) -> dict[str, pd.DataFrame | Crystals]:
    """Reconstruct a split and `compare` all methods on its best, median and worst crystals."""
    crystals = dataset.split(parameters.split)
    if parameters.n_crystals:
        crystals = crystals.select(range(min(parameters.n_crystals, len(crystals))))
    # too few crystals are refused before anything is computed
    choose(np.arange(len(crystals)), parameters.n_each)
    detected = reconstruct(
        model, crystals, replace(model.config.decoding, mode=parameters.mode), progress=progress
    ).crystals
    return compare(crystals, detected, dataset.split("train"), model, parameters)


def example_grid(
    table: pd.DataFrame,
    crystals: Mapping[str, Crystals],
    names: Mapping[str, str],
    *,
    title: str = "",
) -> Figure:
    """Draw Figure 3: a row an example of `compare`, a column the true crystal or a method's."""
    ids = table["id"].unique()
    figure, axes = subplots(
        len(crystals), 2.2 * max(4, len(crystals)), 2.5 * len(ids), n_rows=len(ids)
    )
    for ax, (identifier, (method, batch)) in zip(
        axes, itertools.product(ids, crystals.items()), strict=True
    ):
        (structure,) = batch.select([batch.ids.index(identifier)]).to_structures()
        draw_crystal(ax, structure)
        ax.set_title(example_caption(table, identifier, method).replace("; ", "\n"), fontsize=8)
    for ax, method in zip(axes, crystals, strict=False):
        ax.annotate(
            names[method],
            (0.5, 1),
            (0, 46),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="center",
            fontweight="bold",
        )
    figure.suptitle(title)
    return figure


def examples_view(
    table: pd.DataFrame, crystals: Mapping[str, Crystals], names: Mapping[str, str], caption: str
) -> HTML:
    """Show the crystals of `example_grid` in 3-D, one example at a time, with a caption.

    In the book it is a numbered figure.
    """
    rows, titles = {}, {}
    for row in table.drop_duplicates("id").itertuples():
        label = f"{row.place}: {row.formula}, {row.id}"
        rows[label] = [
            structure
            for batch in crystals.values()
            for structure in batch.select([batch.ids.index(row.id)]).to_structures()
        ]
        titles[label] = [
            f"{names[method]}: {example_caption(table, row.id, method)}" for method in crystals
        ]
    return captioned_view(crystal_choice(rows, titles), caption)


def example_caption(table: pd.DataFrame, identifier: str, method: str) -> str:
    """Return a crystal's caption: of the true one the rank, of a method's formula and errors."""
    row = table[
        (table["id"] == identifier) & ((table["method"] == method) | (method == "actual"))
    ].iloc[0]
    if method == "actual":
        return f"{row['place']} ({row['rank']} of {row['of']}); {row['formula']}, {row['n_atoms_actual']} atoms; {row['id']}"
    if not row["n_atoms_detected"]:
        return "nothing detected"
    errors = f"position {row['position_error_actual_angstrom']:.3f} Å; species {row['species_error_actual_percent']:.0f} %"
    return f"{row['formula_detected']}, {row['n_atoms_detected']} atoms; {errors}"
