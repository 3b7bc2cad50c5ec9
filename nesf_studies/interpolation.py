"""Crystals on a line between two latent vectors (Section 2.4; Figures 5, 6, S1-S4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pymatgen.core import Composition, Lattice, Structure
from scipy.optimize import linear_sum_assignment

from nesf.crystals import Crystals, concatenate, standard_lattice
from nesf.data.dataset import SPLITS, Dataset
from nesf.data.files import read_structures
from nesf.decode import decode_latent, latent_path
from nesf.records import read_csv
from nesf.saved import TrainedModel
from nesf_io.errors import ConfigError, DataError
from nesf_studies.crystals import (
    NOTHING,
    charge_balanced,
    in_our_spelling,
    reduced_formula,
    smallest_distance,
    space_group,
    space_group_symbol,
    structure_distance,
)
from nesf_studies.style import (
    NESF,
    ORACLE,
    SECOND,
    TRIVIAL,
    element_colour,
    ink_on,
    name_rows,
    on_any_ground,
    subplots,
)

GALENA = "mp-21276"  # PbS, for which there is a textbook cell
# Å; rock salt, measured at room temperature; the relaxed cell of the Materials Project is another
GALENA_LATTICE = 5.936


@dataclass(frozen=True)
class Parameters:
    """What is interpolated, and how finely."""

    # the six of the figures; or "A to B; C to D", where an end is an id of the dataset or a file
    # that holds one structure
    paths: str = "paper"
    # latent vectors on a path, both ends included; paper: not given, Figure S1 names 12 different
    # formulas
    n_frames: int = 41
    # of decoding (ReconstructionConfig.mode); exact: the paper's
    mode: Literal["exact", "fast"] = "exact"
    # of ends from a file; the paper's datasets hold conventional cells
    cell: Literal["as-given", "conventional"] = "conventional"
    # a paper's path for which the dataset lacks `GALENA` alone is run with the textbook cell, under
    # a name that says so
    stand_ins: bool = True
    # Å, of the space group: decoded atoms lie some hundredths of an Å beside their sites
    symprec: float = 0.1
    min_distance: float = 0.5  # Å; nearer atoms make a frame invalid

    def __post_init__(self) -> None:
        if self.n_frames < 2:
            raise ConfigError(f"n_frames = {self.n_frames}: at least 2 are needed, the two ends")
        if not self.symprec > 0:
            raise ConfigError(f"symprec = {self.symprec}: a number above 0 is needed")


class LatentPath(NamedTuple):
    """A path between two crystals."""

    name: str  # in tables and figures
    ends: Crystals  # source and destination
    splits: tuple[str, ...]  # of the ends: a split of the dataset, `file` or `textbook`
    figure: str = ""  # the paper's
    formulas: str = ""  # the paper's sequence


def analyse(
    model: TrainedModel, dataset: Dataset, parameters: Parameters, *, progress: bool
) -> dict[str, pd.DataFrame | Crystals]:
    """Decode and describe the crystals along every path, beside the trivial path (`linear_path`).

    `paths`: a row per path and method (`summary`), and per path that was not run, with the reason.
    `frames`: a row per path, method and frame (`describe`). `decoded`: the crystals of the frames
    of method nesf. `ends`: the crystals that were encoded.

    Raises:
        DataError: no path can be run.
    """
    runnable, refused = requested_paths(dataset, parameters)
    if not runnable:
        raise DataError(
            f"no path can be run on {dataset.label} ({refused[0]['status']}); choose two of its crystals, for example "
            f"--set 'paths={dataset.split('train').ids[0]} to {dataset.split('train').ids[-1]}'"
        )
    t = np.linspace(0, 1, parameters.n_frames)
    z = torch.cat([latent_path(model, path.ends, t) for path in runnable])
    ids = [f"{path.name} | {i}" for path in runnable for i in range(len(t))]
    decoded = decode_latent(
        model, z, ids, replace(model.config.decoding, mode=parameters.mode), progress=progress
    ).crystals
    rows, frames = [], {}
    for k, path in enumerate(runnable):
        own = decoded.select(range(k * len(t), (k + 1) * len(t)))
        for method, crystals in (("nesf", own), ("linear", linear_path(path.ends, t))):
            frames[path.name, method] = described = describe(crystals, t, parameters)
            ends = zip(
                ("source", "destination", "source_split", "destination_split"),
                (*path.ends.ids, *path.splits),
                strict=True,
            )
            about = {
                "path": path.name,
                "figure": path.figure,
                "method": method,
                "status": "run",
                **dict(ends),
            }
            rows.append(about | summary(described, path))
    encoded = [
        replace(path.ends, ids=tuple(f"{path.name} | {i}" for i in path.ends.ids))
        for path in runnable
    ]  # two paths may share an end
    table = pd.concat(frames, names=["path", "method"]).droplevel(-1).reset_index()
    return {
        "paths": pd.DataFrame(rows + refused),
        "frames": table,
        "decoded": decoded,
        "ends": concatenate(encoded),
    }


def paper_paths() -> pd.DataFrame:
    """Read the paper's six paths and their sequences of formulas, as printed."""
    return read_csv(Path(__file__).with_name("paper_interpolation.csv")).astype(str)


def requested_paths(
    dataset: Dataset, parameters: Parameters
) -> tuple[list[LatentPath], list[dict[str, Any]]]:
    """Return the paths to run, and a row for each path of the paper that lacks an end.

    Raises:
        ConfigError: `paths` cannot be read.
        DataError: an end does not exist.
    """
    if parameters.paths == "paper":
        return _paths_of_the_paper(dataset, parameters.stand_ins)
    found: list[LatentPath] = []
    for text in filter(None, (part.strip() for part in parameters.paths.split(";"))):
        names = [end.strip() for end in text.split(" to ")]
        if len(names) != 2 or not all(names):
            raise ConfigError(
                f"paths = {text!r}: 'A to B' is expected, two ids or files; several are parted by ';'"
            )
        crystals, splits = zip(*(_end(dataset, end, parameters.cell) for end in names), strict=True)
        ends = concatenate(crystals)
        name = " → ".join(reduced_formula(structure) for structure in ends.to_structures())
        name += f" ({len(found) + 1})" if name in {path.name for path in found} else ""
        found.append(LatentPath(name, ends, splits))
    if not found:
        raise ConfigError(f"paths = {parameters.paths!r}: 'paper' or 'A to B' is expected")
    return found, []


def _paths_of_the_paper(
    dataset: Dataset, stand_ins: bool
) -> tuple[list[LatentPath], list[dict[str, Any]]]:
    runnable, refused = [], []
    for row in paper_paths().itertuples():
        ends = {
            identifier: _of_dataset(dataset, identifier)
            for identifier in (row.source, row.destination)
        }
        lacking = [identifier for identifier, end in ends.items() if end is None]
        if lacking:
            reason = f"not run: {' and '.join(lacking)} not in {dataset.label}"
            about = {
                "path": row.path,
                "figure": row.figure,
                "status": reason,
                "source": row.source,
                "destination": row.destination,
            }
            refused.append(about | {"formulas_paper": " ".join(in_our_spelling(row.formulas))})
        if not lacking or (stand_ins and lacking == [GALENA]):
            crystals, splits = zip(*(end or _galena() for end in ends.values()), strict=True)
            name = f"{row.path}, textbook PbS" if lacking else row.path
            runnable.append(
                LatentPath(name, concatenate(crystals), splits, row.figure, row.formulas)
            )
    return runnable, refused


def _of_dataset(dataset: Dataset, identifier: str) -> tuple[Crystals, str] | None:
    for split in SPLITS:
        crystals = dataset.split(split)
        if identifier in crystals.ids:
            return replace(crystals.select([crystals.ids.index(identifier)]), properties={}), split
    return None


def _galena() -> tuple[Crystals, str]:
    structure = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(GALENA_LATTICE), ["Pb", "S"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    return Crystals.from_structures([structure], ["PbS-textbook"]).in_standard_setting(), "textbook"


def _end(
    dataset: Dataset, text: str, cell: Literal["as-given", "conventional"]
) -> tuple[Crystals, str]:
    if found := _of_dataset(dataset, text):
        return found
    if not Path(text).is_file():
        raise DataError(
            f"{text!r} is neither an id in {dataset.label} nor a file; its ids are like {dataset.split('train').ids[0]}"
        )
    crystals = read_structures(Path(text), cell=cell).crystals
    if len(crystals) != 1:
        raise DataError(f"{text}: holds {len(crystals)} structures where the end of a path is one")
    return replace(crystals, properties={}), "file"


def similar_pair(crystals: Crystals) -> tuple[str, str]:
    """Return the ids of the first two crystals of one kind that share no element.

    Both are charge-balanced, and have the same number of atoms and the same formula but for the
    elements (ABC3).

    Raises:
        DataError: there are no two.
    """
    earlier: list[tuple[str, Composition]] = []
    for identifier, structure in zip(crystals.ids, crystals.to_structures(), strict=True):
        b = structure.composition
        if len(b) > 1 and charge_balanced(reduced_formula(structure)):
            for other, a in earlier:
                if (
                    a.num_atoms == b.num_atoms
                    and a.anonymized_formula == b.anonymized_formula
                    and not {*a} & {*b}
                ):
                    return other, identifier
            earlier.append((identifier, b))
    raise DataError(
        "no two crystals are of one kind without an element in common; name two with `paths`"
    )


def linear_path(ends: Crystals, t: np.ndarray) -> Crystals:
    """Return the path without a network: the cell changes linearly, species are the nearer end's.

    Where both ends have as many atoms, atom is paired with atom so that they move least (periodic),
    and fractional coordinates change linearly too; else the atoms are the nearer end's.
    """
    weight = t[:, None]
    lengths, angles = ((1 - weight) * v[0] + weight * v[1] for v in (ends.lengths, ends.angles))
    lattice = standard_lattice(lengths, angles)
    fractional = [ends.positions[ends.atoms(i)] @ np.linalg.inv(ends.lattice[i]) for i in range(2)]
    species = [ends.species[ends.atoms(i)] for i in range(2)]
    nearer = (t > 0.5).astype(int)
    coordinates = [fractional[end] for end in nearer]
    if len(fractional[0]) == len(fractional[1]):
        move = fractional[1][None] - fractional[0][:, None]
        move -= np.round(move)
        rows, columns = linear_sum_assignment(np.linalg.norm(move @ lattice[len(t) // 2], axis=-1))
        species[1] = species[1][columns]
        coordinates = [fractional[0] + x * move[rows, columns] for x in t]
    positions = [c @ matrix for c, matrix in zip(coordinates, lattice, strict=True)]
    return Crystals.from_arrays(
        [str(i) for i in range(len(t))], positions, [species[end] for end in nearer], lattice
    )


def describe(crystals: Crystals, t: np.ndarray, parameters: Parameters) -> pd.DataFrame:
    """Describe each frame, a row each; Å, Å³ and degrees.

    `cell`: the formula of all atoms; `valid`: charge-balanced, and no distance below
    `min_distance`; `length_step`: the largest change of a, b or c since the frame before;
    `structure_step`: `structure_distance` to it.
    """
    structures = crystals.to_structures()
    formulas, groups = (
        [reduced_formula(s) for s in structures],
        [space_group(s, parameters.symprec) for s in structures],
    )
    nearest, balanced = (
        np.array([smallest_distance(s) for s in structures]),
        np.array([charge_balanced(f) for f in formulas]),
    )
    lattice = pd.DataFrame(
        [s.lattice.parameters for s in structures],
        columns=["a", "b", "c", "alpha", "beta", "gamma"],
    )
    return pd.DataFrame(
        {
            "frame": range(len(structures)),
            "t": t,
            "formula": formulas,
            "cell": [s.composition.formula.replace(" ", "") or NOTHING for s in structures],
            "n_atoms": crystals.n_atoms,
            **lattice,
            "volume": [s.volume for s in structures],
            "space_group": groups,
            "symbol": [space_group_symbol(group) for group in groups],
            "smallest_distance": nearest,
            "charge_balanced": balanced,
            "valid": (nearest > parameters.min_distance) & balanced,
            "length_step": lattice[["a", "b", "c"]].diff().abs().max(axis=1),
            "structure_step": [math.nan, *map(structure_distance, structures, structures[1:])],
        }
    )


def sequence(formulas: Sequence[str]) -> list[str]:
    """Return the formulas in order, repeats in a row as one."""
    return [formula for formula, _ in groupby(formulas)]


def longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    """Return the length of the longest common subsequence (in order, with anything between)."""
    best = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            best[i + 1, j + 1] = best[i, j] + 1 if x == y else max(best[i, j + 1], best[i + 1, j])
    return int(best[-1, -1])


def summary(frames: pd.DataFrame, path: LatentPath) -> dict[str, Any]:
    """Summarise the frames of a path and method: formulas beside the paper's, smoothness, validity.

    Formulas between the ends are counted: the different ones of the paper and of ours, those in
    both, and how many of the paper's sequence are in ours in the same order. `ends_right` (0-2):
    the decoded ends have the formula of the crystals. `length_step_to_even`: the largest step
    relative to a path whose steps are all equal; NaN where the ends' lengths agree to 0.05 Å.
    """
    ours = sequence(frames["formula"].tolist())
    paper = in_our_spelling(path.formulas)
    actual = [reduced_formula(s) for s in path.ends.to_structures()]
    whole, step = (
        float(np.abs(np.diff(path.ends.lengths, axis=0)).max()),
        float(frames["length_step"].max()),
    )
    between = set(paper) - set(actual)
    return {
        "formulas": " ".join(ours),
        "formulas_paper": " ".join(paper),
        "changes": len(ours) - 1,
        "between_paper": len(between) if paper else math.nan,
        "between_ours": len(set(ours) - set(actual)),
        "between_common": len(between & set(ours)) if paper else math.nan,
        "between_in_order": longest_common([f for f in paper if f in between], ours)
        if paper
        else math.nan,
        "ends_right": int(frames["formula"].iloc[0] == actual[0])
        + int(frames["formula"].iloc[-1] == actual[1]),
        "largest_length_step": step,
        "length_step_to_even": step * (len(frames) - 1) / whole if whole > 0.05 else math.nan,
        "mean_structure_step": float(frames["structure_step"].mean()),
        "largest_structure_step": float(frames["structure_step"].max()),
        "charge_balanced_percent": 100 * float(frames["charge_balanced"].mean()),
        "valid_percent": 100 * float(frames["valid"].mean()),
        "space_groups": frames["space_group"].nunique(),
    }


def _draw_composition(left: Axes, ours: pd.DataFrame) -> None:
    t = ours["t"].to_numpy()
    compositions = [
        Composition(f if n else {}) for f, n in zip(ours["cell"], ours["n_atoms"], strict=True)
    ]
    elements = sorted(
        {e for c in compositions for e in c.elements}, key=lambda e: e.X if e.X == e.X else 10.0
    )
    shares = np.array([[c.get_atomic_fraction(e) for c in compositions] for e in elements]).reshape(
        len(elements), len(t)
    )
    edges = np.concatenate([t[:1], (t[1:] + t[:-1]) / 2, t[-1:]])
    below = np.zeros(len(t))
    for element, share in zip(elements, shares, strict=True):
        top = below + share
        colour = element_colour(element.Z)
        left.stairs(
            top,
            edges,
            baseline=below,
            fill=True,
            facecolor=colour,
            edgecolor="#555555",
            linewidth=0.6,
        )
        at = int(np.abs(t - (share * t).sum() / share.sum()).argmin())  # the middle of the band
        at = at if share[at] else int(share.argmax())
        left.text(
            t[at],
            (below + share / 2)[at],
            element.symbol,
            ha="center",
            va="center",
            fontsize=9,
            color=ink_on(colour),
        )
        below = top
    left.set(ylim=(0, 1), xlim=(0, 1), xlabel="t", ylabel="share of the atoms")
    atoms = left.twinx()
    atoms.step(t, ours["n_atoms"], where="mid", linewidth=1.2, **on_any_ground())
    atoms.set(ylabel="atoms in the cell (line)", ylim=(0, 1.15 * max(1, ours["n_atoms"].max())))
    atoms.spines[["top"]].set_visible(False)


def path_chart(frames: pd.DataFrame, *, title: str = "") -> Figure:
    """Draw the frames of a path: shares of the elements with the number of atoms, lattice, moves.

    Right: how far the structure moved since the frame before, above it the frames: valid (filled)
    or not (hollow).
    """
    ours, linear = (frames[frames["method"] == m].sort_values("t") for m in ("nesf", "linear"))
    figure, (left, middle, right) = subplots(3, 9.2, 3.1)
    figure.get_layout_engine().set(wspace=0.06)  # type: ignore[union-attr, call-arg]
    t = ours["t"].to_numpy()
    _draw_composition(left, ours)
    for name, marker, size, colour in (
        ("a", "o", 7, NESF),
        ("b", "s", 4.5, SECOND),
        ("c", "^", 2.5, ORACLE),
    ):
        middle.plot(
            t,
            ours[name],
            marker=marker,
            markersize=size,
            linewidth=0.8,
            label=name,
            color=colour,
            markerfacecolor="none",
        )
        middle.plot(
            linear["t"],
            linear[name],
            color=TRIVIAL,
            linestyle="--",
            linewidth=0.9,
            label="linear" if name == "a" else None,
            zorder=0,
        )
    middle.set(xlabel="t", ylabel="lattice lengths, Å")
    low, high = middle.get_ylim()
    if high - low < 0.2:
        middle.set_ylim((low + high) / 2 - 0.1, (low + high) / 2 + 0.1)
    middle.legend(
        frameon=False,
        fontsize="small",
        ncols=4,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        handlelength=1.2,
        columnspacing=1,
    )
    right.plot(
        t[1:],
        ours["structure_step"].iloc[1:],
        color=NESF,
        marker="o",
        markersize=3.5,
        linewidth=0.8,
        label="atoms, NeSF",
    )
    right.plot(
        linear["t"].iloc[1:],
        linear["structure_step"].iloc[1:],
        color=TRIVIAL,
        linestyle="--",
        label="atoms, linear",
    )
    valid = ours["valid"].to_numpy(bool)
    top = max(0.01, 1.25 * np.nanmax(ours["structure_step"].to_numpy(float), initial=0))
    for which, face, label in ((valid, NESF, "valid frame"), (~valid, "white", "not valid")):
        right.scatter(
            t[which],
            np.full(which.sum(), 0.95 * top),
            marker="s",
            s=14,
            facecolor=face,
            edgecolor=NESF,
            label=label,
        )
    right.set(xlabel="t", ylabel="moved per frame, Å", ylim=(-0.03 * top, 1.02 * top))
    right.legend(
        frameon=False, fontsize="small", ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0)
    )
    figure.suptitle(title)
    return figure


def path_summary(counts: pd.DataFrame, *, title: str = "") -> Figure:
    """Draw how smooth and how valid the paths are that were run, by method."""
    panels = {
        "changes": "changes of\nthe formula",
        "length_step_to_even": "largest step of a length\n(1: an even path)",
        "mean_structure_step": "mean step\nof the atoms, Å",
        "charge_balanced_percent": "charge-balanced\nframes, %",
    }
    marks = {"linear": (TRIVIAL, "D"), "nesf": (NESF, "o"), "nesf+": (SECOND, "s")}
    names = list(dict.fromkeys(counts["path"]))
    figure, axes = subplots(len(panels), 9.2, 1.0 + 0.34 * len(names))
    name_rows(axes, names)
    for ax, (column, label) in zip(axes, panels.items(), strict=True):
        for method, (colour, marker) in marks.items():
            rows = counts[counts["method"] == method].set_index("path")[column].reindex(names)
            style: dict[str, Any] = {
                "color": colour,
                "markersize": 7,
                "label": {"nesf": "NeSF"}.get(method, method),
            }
            if rows.notna().any():
                ax.plot(rows.to_numpy(float), range(len(names)), marker, **style)
        ax.set(xlabel=label)
        ax.set_xlim(left=min(0, ax.get_xlim()[0]))
    axes[-1].set_xlim(0, 105)
    handles = axes[-1].get_legend_handles_labels()
    figure.legend(*handles, frameon=False, loc="outside lower center", ncols=len(marks))
    figure.suptitle(title)
    return figure
