"""Crystals on a straight line between two latent vectors (Section 2.4, Supplementary Note 2; Figures 5, 6, S1-S4)."""

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
from matplotlib.figure import Figure
from pymatgen.core import Composition, Lattice, Structure
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from nesf.config import ReconstructionConfig
from nesf.crystals import Crystals, concatenate, standard_lattice
from nesf.data.dataset import SPLITS, Dataset
from nesf.data.files import read_structures
from nesf.decode import decode_latent
from nesf.errors import ConfigError, DataError
from nesf.records import read_csv
from nesf.saved import TrainedModel
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
from nesf_studies.style import NESF, ORACLE, SECOND, TRIVIAL, element_colour, subplots

PBS_LATTICE = 5.936  # Å; rock salt, measured at room temperature (galena)


@dataclass(frozen=True)
class Parameters:
    """What is interpolated, and how finely."""

    # "paper": the six of Figures 5, 6, S1-S4; else "A to B" or "A to B; C to D", where each end is an id of any split of the dataset, or a file
    # that holds one structure
    paths: str = "paper"
    n_frames: int = 41  # latent vectors on a path, both ends included; paper: not given, Figure S1 names 12 different formulas
    mode: Literal["exact", "fast"] = "exact"  # of decoding (ReconstructionConfig.mode); exact: the paper's
    cell: Literal["as-given", "conventional"] = "conventional"  # of ends from a file; the paper's datasets hold conventional cells
    # Where the dataset lacks an end of a paper's path for which `_stand_in` has a textbook cell, that path is run too, under a name that says so
    stand_ins: bool = True
    symprec: float = 0.1  # Å, of the space group: decoded atoms lie some hundredths of an Å beside their sites
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
    splits: tuple[str, str]  # of the ends: a split of the dataset, `file` or `textbook`
    figure: str = ""  # the paper's
    formulas: str = ""  # the paper's sequence


def analyse(model: TrainedModel, dataset: Dataset, parameters: Parameters, *, progress: bool) -> dict[str, pd.DataFrame | Crystals]:
    """Walk along every path, decode, and describe what comes out, beside the trivial path (`linear_path`).

    Returns:
        `paths`: a row per path and method, also of paths that could not be run, with the reason. `frames`: a row per path, method and frame (`describe`).
        `decoded`: the crystals of the frames of method nesf. `ends`: the crystals that were encoded.

    Raises:
        ConfigError: `paths` cannot be read.
        DataError: an end does not exist, or no path can be run.
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
    decoded = decode_latent(model, z, ids, ReconstructionConfig(mode=parameters.mode), progress=progress).crystals
    rows, frames = [], []
    for k, path in enumerate(runnable):
        own = decoded.select(range(k * len(t), (k + 1) * len(t)))
        for method, crystals in (("nesf", own), ("linear", linear_path(path.ends, t))):
            described = describe(crystals, t, parameters)
            described.insert(0, "path", path.name)
            described.insert(1, "method", method)
            frames.append(described)
            ends = zip(("source", "destination", "source_split", "destination_split"), (*path.ends.ids, *path.splits), strict=True)
            about = {"path": path.name, "figure": path.figure, "method": method, "status": "run", **dict(ends)}
            rows.append(about | summary(described, path))
    encoded = [replace(path.ends, ids=tuple(f"{path.name} | {i}" for i in path.ends.ids)) for path in runnable]  # two paths may share an end
    return {"paths": pd.DataFrame(rows + refused), "frames": pd.concat(frames, ignore_index=True), "decoded": decoded, "ends": concatenate(encoded)}


def paper_paths() -> pd.DataFrame:
    """Read the paper's six paths and their sequences of formulas, as printed (Section 2.4, Supplementary Note 2)."""
    return read_csv(Path(__file__).with_name("paper_interpolation.csv")).astype(str)


def requested_paths(dataset: Dataset, parameters: Parameters) -> tuple[list[LatentPath], list[dict[str, Any]]]:
    """Return the paths that `paths` names, and a row of the table `paths` for each path of the paper whose crystals the dataset lacks.

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
            raise ConfigError(f"paths = {text!r}: 'A to B' is expected, two ids or files; several are parted by ';'")
        (source, source_split), (destination, destination_split) = (_end(dataset, end, parameters.cell) for end in names)
        ends = concatenate([source, destination])
        name = " → ".join(reduced_formula(structure) for structure in ends.to_structures())
        name += f" ({len(found) + 1})" if name in {path.name for path in found} else ""
        found.append(LatentPath(name, ends, (source_split, destination_split)))
    if not found:
        raise ConfigError(f"paths = {parameters.paths!r}: 'paper' or 'A to B' is expected")
    return found, []


def _paths_of_the_paper(dataset: Dataset, stand_ins: bool) -> tuple[list[LatentPath], list[dict[str, Any]]]:
    runnable: list[LatentPath] = []
    refused: list[dict[str, Any]] = []
    for row in paper_paths().itertuples():
        ids, name = (row.source, row.destination), row.path
        ends = [_of_dataset(dataset, identifier) for identifier in ids]
        lacking = [identifier for identifier, end in zip(ids, ends, strict=True) if end is None]
        if lacking:
            reason = f"not run: {' and '.join(lacking)} not in {dataset.label}"
            about = {"path": row.path, "figure": row.figure, "status": reason, "source": row.source, "destination": row.destination}
            refused.append(about | {"formulas_paper": " ".join(in_our_spelling(row.formulas))})
            if len(lacking) == 2 or not stand_ins:
                continue
            ends = [end or _stand_in(identifier) for identifier, end in zip(ids, ends, strict=True)]
            name = f"{row.path}, textbook {row.path.split(' → ')[ids.index(lacking[0])]}"
        source, destination = ends
        if source and destination:
            crystals, splits = concatenate([source[0], destination[0]]), (source[1], destination[1])
            runnable.append(LatentPath(name, crystals, splits, row.figure, row.formulas))
    return runnable, refused


def _of_dataset(dataset: Dataset, identifier: str) -> tuple[Crystals, str] | None:
    """Return a crystal of the dataset without its properties, and its split."""
    for split in SPLITS:
        crystals = dataset.split(split)
        if identifier in crystals.ids:
            return replace(crystals.select([crystals.ids.index(identifier)]), properties={}), split
    return None


def _stand_in(identifier: str) -> tuple[Crystals, str] | None:
    """Return rock salt PbS of the measured lattice constant in place of mp-21276; the relaxed cell of the Materials Project is another."""
    if identifier != "mp-21276":
        return None
    structure = Structure.from_spacegroup("Fm-3m", Lattice.cubic(PBS_LATTICE), ["Pb", "S"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    return Crystals.from_structures([structure], ["PbS-textbook"]).in_standard_setting(), "textbook"


def _end(dataset: Dataset, text: str, cell: Literal["as-given", "conventional"]) -> tuple[Crystals, str]:
    """Return a crystal of the dataset, or of a file, and where it comes from."""
    if found := _of_dataset(dataset, text):
        return found
    if not Path(text).is_file():
        raise DataError(f"{text!r} is neither an id in {dataset.label} nor a file; its ids are like {dataset.split('train').ids[0]}")
    crystals, _ = read_structures(Path(text), cell=cell)
    if len(crystals) != 1:
        raise DataError(f"{text}: holds {len(crystals)} structures where the end of a path is one")
    return replace(crystals, properties={}), "file"


def similar_pair(crystals: Crystals) -> tuple[str, str]:
    """Return the ids of the first two crystals that are charge-balanced, of one kind (formula ABC3, number of atoms), and share no element.

    Raises:
        DataError: there are no two.
    """
    structures = crystals.to_structures()
    usable = [i for i, s in enumerate(structures) if len(s.composition) > 1 and charge_balanced(reduced_formula(s))]
    for j in usable:
        for i in usable[: usable.index(j)]:
            a, b = structures[i].composition, structures[j].composition
            if a.num_atoms == b.num_atoms and a.anonymized_formula == b.anonymized_formula and not {*a} & {*b}:
                return crystals.ids[i], crystals.ids[j]
    raise DataError("no two crystals are of one kind without an element in common; name two with `paths`")


def latent_path(model: TrainedModel, ends: Crystals, t: np.ndarray) -> Tensor:
    """Return z(t) = (1 - t) z_src + t z_dst, [n, latent_size], for t [n] between 0 and 1; `ends` are source and destination."""
    source, destination = model.encode(ends)
    weight = torch.as_tensor(t, dtype=source.dtype, device=source.device)[:, None]
    return (1 - weight) * source + weight * destination


def linear_path(ends: Crystals, t: np.ndarray) -> Crystals:
    """Return the path without a network: lattice lengths and angles change linearly, species are those of the nearer end.

    Where both ends have as many atoms, atom is paired with atom so that they move least (periodic), and fractional coordinates change linearly too; else
    the atoms are the nearer end's.
    """
    weight = t[:, None]
    lengths, angles = ((1 - weight) * v[0] + weight * v[1] for v in (ends.lengths, ends.angles))
    lattice = standard_lattice(lengths, angles)
    fractional = [ends.positions[ends.atoms(i)] @ np.linalg.inv(ends.lattice[i]) for i in range(2)]
    species = [ends.species[ends.atoms(i)] for i in range(2)]
    moved = np.zeros_like(fractional[0])
    paired = len(fractional[0]) == len(fractional[1])
    if paired:
        move = fractional[1][None] - fractional[0][:, None]
        move -= np.round(move)
        middle = lattice[len(t) // 2]
        rows, columns = linear_sum_assignment(np.linalg.norm(move @ middle, axis=-1))
        moved, species[1] = move[rows, columns], species[1][columns]
    nearer = (t > 0.5).astype(int)
    coordinates = [fractional[0] + x * moved if paired else fractional[end] for x, end in zip(t, nearer, strict=True)]
    positions = [c @ matrix for c, matrix in zip(coordinates, lattice, strict=True)]
    return Crystals.from_arrays([str(i) for i in range(len(t))], positions, [species[end] for end in nearer], lattice)


def describe(crystals: Crystals, t: np.ndarray, parameters: Parameters) -> pd.DataFrame:
    """Describe each frame: formula, number of atoms, lattice, space group, validity, and the steps from the frame before.

    Returns:
        A row per frame: frame, t, formula (reduced), cell (all atoms), n_atoms; a, b, c (Å); alpha, beta, gamma (degrees); volume (Å³); space_group,
        symbol; smallest_distance (Å), charge_balanced, valid (both: distance above `min_distance`, and balanced); length_step (Å; largest change of a, b
        or c since the frame before), structure_step (Å; `structure_distance` to it).
    """
    structures = crystals.to_structures()
    formulas, groups = [reduced_formula(s) for s in structures], [space_group(s, parameters.symprec) for s in structures]
    nearest, balanced = np.array([smallest_distance(s) for s in structures]), np.array([charge_balanced(f) for f in formulas])
    lattice = pd.DataFrame([s.lattice.parameters for s in structures], columns=["a", "b", "c", "alpha", "beta", "gamma"])
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
    """Return the length of the longest common subsequence: in both, in order, with anything between."""
    best = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            best[i + 1, j + 1] = best[i, j] + 1 if x == y else max(best[i, j + 1], best[i + 1, j])
    return int(best[-1, -1])


def summary(frames: pd.DataFrame, path: LatentPath) -> dict[str, Any]:
    """Summarise a path: formulas beside the paper's, smoothness, validity.

    Args:
        frames: `describe` of one path and method.
        path: its ends, and the paper's sequence.

    Returns:
        formulas, formulas_paper (sequences; the paper's in our spelling); changes (of the formula); between_paper, between_ours, between_common,
        between_in_order (formulas between the ends: how many different ones the paper has and ours has, how many are in both, and how many of the paper's
        sequence are in ours in the same order); ends_right (0-2: the decoded ends have the formula of the crystals); largest_length_step (Å) and the same
        relative to an even path, whose steps are all equal (1: even; NaN where the ends' lengths agree to 0.05 Å); mean_structure_step,
        largest_structure_step (Å); charge_balanced_percent, valid_percent; space_groups (different ones).
    """
    ours = sequence(frames["formula"].tolist())
    paper = in_our_spelling(path.formulas)
    actual = [reduced_formula(s) for s in path.ends.to_structures()]
    whole, step = float(np.abs(np.diff(path.ends.lengths, axis=0)).max()), float(frames["length_step"].max())
    between = set(paper) - set(actual)
    return {
        "formulas": " ".join(ours),
        "formulas_paper": " ".join(paper),
        "changes": len(ours) - 1,
        "between_paper": len(between) if paper else math.nan,
        "between_ours": len(set(ours) - set(actual)),
        "between_common": len(between & set(ours)) if paper else math.nan,
        "between_in_order": longest_common([f for f in paper if f in between], ours) if paper else math.nan,
        "ends_right": int(frames["formula"].iloc[0] == actual[0]) + int(frames["formula"].iloc[-1] == actual[1]),
        "largest_length_step": step,
        "length_step_to_even": step * (len(frames) - 1) / whole if whole > 0.05 else math.nan,
        "mean_structure_step": float(frames["structure_step"].mean()),
        "largest_structure_step": float(frames["structure_step"].max()),
        "charge_balanced_percent": 100 * float(frames["charge_balanced"].mean()),
        "valid_percent": 100 * float(frames["valid"].mean()),
        "space_groups": frames["space_group"].nunique(),
    }


def path_chart(frames: pd.DataFrame, *, title: str = "") -> Figure:
    """Draw composition, lattice and validity along one path.

    Left: share of each element, bands in the elements' colours, with the number of atoms. Middle: lattice lengths. Right: how far the structure moved since
    the frame before, above it the frames: valid (filled) or not (hollow).

    Args:
        frames: `frames` of `analyse` for one path; method nesf is drawn, and of method linear the lattice.
        title: path, model, seed.
    """
    ours, linear = (frames[frames["method"] == m].sort_values("t") for m in ("nesf", "linear"))
    figure, (left, middle, right) = subplots(3, 9.2, 3.1)
    figure.get_layout_engine().set(wspace=0.06)  # type: ignore[union-attr, call-arg]
    t = ours["t"].to_numpy()
    compositions = [Composition(f) if n else Composition({}) for f, n in zip(ours["cell"], ours["n_atoms"], strict=True)]
    elements = sorted({e for c in compositions for e in c.elements}, key=lambda e: e.X if e.X == e.X else 10.0)
    shares = np.array([[c.get_atomic_fraction(e) for c in compositions] for e in elements]).reshape(len(elements), len(t))
    edges = np.concatenate([t[:1], (t[1:] + t[:-1]) / 2, t[-1:]])
    below = np.zeros(len(t))
    for element, share in zip(elements, shares, strict=True):
        top = below + share
        colour = element_colour(element.Z)
        left.stairs(top, edges, baseline=below, fill=True, facecolor=colour, edgecolor="#555555", linewidth=0.6)
        at = int(np.abs(t - (share * t).sum() / share.sum()).argmin())  # the middle of the band
        at = at if share[at] else int(share.argmax())
        left.text(t[at], (below + share / 2)[at], element.symbol, ha="center", va="center", fontsize=9, color=_readable(colour))
        below = top
    left.set(ylim=(0, 1), xlim=(0, 1), xlabel="t", ylabel="share of the atoms")
    atoms = left.twinx()
    atoms.step(t, ours["n_atoms"], where="mid", color="black", linewidth=1.2)
    atoms.set(ylabel="atoms in the cell (line)", ylim=(0, 1.15 * max(1, ours["n_atoms"].max())))
    atoms.spines[["top"]].set_visible(False)
    for name, marker, size, colour in (("a", "o", 7, NESF), ("b", "s", 4.5, SECOND), ("c", "^", 2.5, ORACLE)):
        middle.plot(t, ours[name], marker=marker, markersize=size, linewidth=0.8, label=name, color=colour, markerfacecolor="none")
        middle.plot(linear["t"], linear[name], color=TRIVIAL, linestyle="--", linewidth=0.9, label="linear" if name == "a" else None, zorder=0)
    middle.set(xlabel="t", ylabel="lattice lengths, Å")
    low, high = middle.get_ylim()
    if high - low < 0.2:
        middle.set_ylim((low + high) / 2 - 0.1, (low + high) / 2 + 0.1)
    middle.legend(frameon=False, fontsize="small", ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), handlelength=1.2, columnspacing=1)
    right.plot(t[1:], ours["structure_step"].iloc[1:], color=NESF, marker="o", markersize=3.5, linewidth=0.8, label="atoms, NeSF")
    right.plot(linear["t"].iloc[1:], linear["structure_step"].iloc[1:], color=TRIVIAL, linestyle="--", label="atoms, linear")
    valid = ours["valid"].to_numpy(bool)
    top = max(0.01, 1.25 * np.nanmax(ours["structure_step"].to_numpy(float), initial=0))
    right.scatter(t[valid], np.full(valid.sum(), 0.95 * top), marker="s", s=14, color=NESF, label="valid frame")
    right.scatter(t[~valid], np.full((~valid).sum(), 0.95 * top), marker="s", s=14, facecolor="white", edgecolor=NESF, label="not valid")
    right.set(xlabel="t", ylabel="moved per frame, Å", ylim=(-0.03 * top, 1.02 * top))
    right.legend(frameon=False, fontsize="small", ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.suptitle(title)
    return figure


def _readable(background: str) -> str:
    """Return black or white, whichever is seen better on a colour `#rrggbb`."""
    red, green, blue = (int(background[i : i + 2], 16) for i in (1, 3, 5))
    return "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 128 else "white"


def path_summary(counts: pd.DataFrame, *, title: str = "") -> Figure:
    """Draw how smooth and how valid whole paths are (the rows of `paths` that were run), NeSF beside the linear path."""
    panels = {
        "changes": "changes of\nthe formula",
        "length_step_to_even": "largest step of a length\n(1: an even path)",
        "mean_structure_step": "mean step\nof the atoms, Å",
        "charge_balanced_percent": "charge-balanced\nframes, %",
    }
    names = list(dict.fromkeys(counts["path"]))
    figure, axes = subplots(len(panels), 9.2, 1.0 + 0.34 * len(names))
    for i, (ax, (column, label)) in enumerate(zip(axes, panels.items(), strict=True)):
        for method, colour, marker in (("linear", TRIVIAL, "D"), ("nesf", NESF, "o")):
            rows = counts[counts["method"] == method].set_index("path")[column].reindex(names)
            ax.plot(rows.to_numpy(float), range(len(names)), marker, color=colour, markersize=7, label={"nesf": "NeSF"}.get(method, method))
        ax.set(yticks=range(len(names)), ylim=(len(names) - 0.5, -0.5), xlabel=label)
        ax.set_yticklabels(names if not i else [])
        ax.set_xlim(left=min(0, ax.get_xlim()[0]))
        ax.grid(axis="x", alpha=0.3)
    axes[-1].set_xlim(0, 105)
    axes[-1].legend(frameon=False, loc="lower left")
    figure.suptitle(title)
    return figure
