"""Crystals on a straight line between two latent vectors (Section 2.4, Supplementary Note 2; Figures 5, 6, S1-S4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nesf.config import ReconstructionConfig
from nesf.crystals import Crystals, concatenate, standard_lattice
from nesf.data.dataset import SPLITS, Dataset
from nesf.decode import decode_latent
from nesf.errors import ConfigError, DataError
from nesf.saved import TrainedModel
from nesf_studies.analysis.chemistry import NOTHING, charge_balanced, in_our_spelling, reduced_formula, smallest_distance, structure_distance
from nesf_studies.analysis.symmetry import space_group, symbol

if TYPE_CHECKING:
    from pandas import DataFrame

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
    # Where the dataset lacks an end of a paper's path for which `stand_in` has a textbook cell, that path is run too, under a name that says so
    stand_ins: bool = True
    symprec: float = 0.1  # Å, of the space group: decoded atoms lie some hundredths of an Å beside their sites
    min_distance: float = 0.5  # Å; nearer atoms make a frame invalid

    def __post_init__(self) -> None:
        if self.n_frames < 2:
            raise ConfigError(f"n_frames = {self.n_frames}: at least 2 are needed, the two ends")
        if not self.symprec > 0:
            raise ConfigError(f"symprec = {self.symprec}: a number above 0 is needed")


class LatentPath(NamedTuple):
    """One path.

    Attributes:
        name: what it is called in tables and figures.
        ends: the two crystals, source and destination.
        splits: where they come from: a split of the dataset, `file` or `textbook`.
        figure: the paper's, or empty.
        formulas: the paper's sequence, or empty.
    """

    name: str
    ends: Crystals
    splits: tuple[str, str]
    figure: str
    formulas: str


def analyse(model: TrainedModel, dataset: Dataset, parameters: Parameters, *, progress: bool) -> dict[str, DataFrame | Crystals]:
    """Walk along every path, decode, and describe what comes out, beside the trivial path (`linear_path`).

    Returns:
        `paths`: a row per path and method, also of paths that could not be run, with the reason. `frames`: a row per path, method and frame
        (`describe`). `decoded`: the crystals of the frames of method nesf. `ends`: the crystals that were encoded.

    Raises:
        ConfigError: `paths` cannot be read.
        DataError: an end does not exist, or no path can be run.
    """
    import pandas as pd

    runnable, refused = chosen_paths(dataset, parameters)
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
            rows.append(about(path, method) | summary(described, path))
    table = pd.concat(frames, ignore_index=True)
    return {"paths": pd.DataFrame(rows + refused), "frames": table, "decoded": decoded, "ends": concatenate([_named(p) for p in runnable])}


def about(path: LatentPath, method: str) -> dict[str, Any]:
    """The first columns of a row of `paths`."""
    return {
        "path": path.name,
        "figure": path.figure,
        "method": method,
        "status": "run",
        "source": path.ends.ids[0],
        "destination": path.ends.ids[1],
        "source_split": path.splits[0],
        "destination_split": path.splits[1],
    }


def _named(path: LatentPath) -> Crystals:
    """The ends of a path, with ids that are its own: two paths may share an end."""
    ids = tuple(f"{path.name} | {i}" for i in path.ends.ids)
    return Crystals(ids, path.ends.positions, path.ends.species, path.ends.lattice, path.ends.offsets)


# --- which paths ---


def paper_paths() -> DataFrame:
    """The paper's six paths and their sequences of formulas, as printed (Section 2.4, Supplementary Note 2)."""
    from nesf.records import read_csv

    return read_csv(Path(__file__).with_name("paper_interpolation.csv")).astype(str)


def chosen_paths(dataset: Dataset, parameters: Parameters) -> tuple[list[LatentPath], list[dict[str, Any]]]:
    """The paths that `paths` asks for, and rows (`about`) for those of the paper that the dataset has not got the crystals for."""
    if parameters.paths != "paper":
        own: list[LatentPath] = []
        for text in filter(None, (part.strip() for part in parameters.paths.split(";"))):
            names = [end.strip() for end in text.split(" to ")]
            if len(names) != 2 or not all(names):
                raise ConfigError(f"paths = {text!r}: 'A to B' is expected, two ids or files; several are parted by ';'")
            found = [_end(dataset, end, parameters.cell) for end in names]
            formulas = [reduced_formula(crystal.to_structures()[0]) for crystal, _ in found]
            name = f"{formulas[0]} → {formulas[1]}"
            name += f" ({len(own) + 1})" if name in {p.name for p in own} else ""
            own.append(LatentPath(name, concatenate([c for c, _ in found]), (found[0][1], found[1][1]), "", ""))
        if not own:
            raise ConfigError(f"paths = {parameters.paths!r}: 'paper' or 'A to B' is expected")
        return own, []
    runnable: list[LatentPath] = []
    refused: list[dict[str, Any]] = []
    for row in paper_paths().itertuples():
        ends = (row.source, row.destination)
        crystals = [_of_dataset(dataset, end) for end in ends]
        lacking = [end for end, found in zip(ends, crystals, strict=True) if found is None]
        if lacking:
            reason = f"not run: {' and '.join(lacking)} not in {dataset.label}"
            refused.append(
                {
                    "path": row.path,
                    "figure": row.figure,
                    "status": reason,
                    "source": ends[0],
                    "destination": ends[1],
                    "formulas_paper": " ".join(in_our_spelling(row.formulas)),
                }
            )
            in_their_place = [found or _stand_in(end) for end, found in zip(ends, crystals, strict=True)]
            if len(lacking) == 2 or not parameters.stand_ins or None in in_their_place:
                continue
            crystals, name = in_their_place, f"{row.path}, textbook {row.path.split(' → ')[ends.index(lacking[0])]}"
        else:
            name = row.path
        (source, of_source), (destination, of_destination) = (found for found in crystals if found is not None)
        runnable.append(LatentPath(name, concatenate([source, destination]), (of_source, of_destination), row.figure, row.formulas))
    return runnable, refused


def _of_dataset(dataset: Dataset, identifier: str) -> tuple[Crystals, str] | None:
    for split in SPLITS:
        crystals = dataset.split(split)
        if identifier in crystals.ids:
            found = crystals.select([crystals.ids.index(identifier)])
            return Crystals(found.ids, found.positions, found.species, found.lattice, found.offsets), split
    return None


def _stand_in(identifier: str) -> tuple[Crystals, str] | None:
    """Rock salt PbS of the measured lattice constant in place of mp-21276; the relaxed cell of the Materials Project is another."""
    from pymatgen.core import Lattice, Structure

    if identifier != "mp-21276":
        return None
    structure = Structure.from_spacegroup("Fm-3m", Lattice.cubic(PBS_LATTICE), ["Pb", "S"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    return Crystals.from_structures([structure], ["PbS-textbook"]).in_standard_setting(), "textbook"


def _end(dataset: Dataset, text: str, cell: Literal["as-given", "conventional"]) -> tuple[Crystals, str]:
    """A crystal of the dataset, or of a file."""
    found = _of_dataset(dataset, text)
    if found is not None:
        return found
    if not Path(text).is_file():
        raise DataError(f"{text!r} is neither an id in {dataset.label} nor a file; its ids are like {dataset.split('train').ids[0]}")
    from nesf.data.files import read_structures

    crystals, _ = read_structures(Path(text), cell=cell)
    if len(crystals) != 1:
        raise DataError(f"{text}: holds {len(crystals)} structures where the end of a path is one")
    return Crystals(crystals.ids, crystals.positions, crystals.species, crystals.lattice, crystals.offsets), "file"


def similar_pair(crystals: Crystals) -> tuple[str, str]:
    """Ids of the first two crystals that are charge-balanced and of one kind: formula (ABC3) and number of atoms; no element in common.

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


# --- the path in latent space, and the trivial one ---


def latent_path(model: TrainedModel, ends: Crystals, t: np.ndarray) -> Tensor:
    """z(t) = (1 - t) z_src + t z_dst.

    Args:
        model: encodes the ends.
        ends: source and destination.
        t: [n], between 0 and 1.

    Returns:
        [n, latent_size].
    """
    source, destination = model.encode(ends)
    weight = torch.as_tensor(t, dtype=source.dtype, device=source.device)[:, None]
    return (1 - weight) * source + weight * destination


def linear_path(ends: Crystals, t: np.ndarray) -> Crystals:
    """The path without a network: lattice lengths and angles change linearly, species are those of the nearer end.

    Where both ends have as many atoms, atom is paired with atom so that they move least (periodic), and fractional coordinates change
    linearly too; else the atoms are the nearer end's.
    """
    from scipy.optimize import linear_sum_assignment

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
    coordinates = [fractional[0] + x * moved if paired else fractional[int(x > 0.5)] for x in t]
    return Crystals.from_arrays(
        [str(i) for i in range(len(t))],
        [c @ matrix for c, matrix in zip(coordinates, lattice, strict=True)],
        [species[int(x > 0.5)] for x in t],
        lattice,
    )


# --- what the frames are ---


def describe(crystals: Crystals, t: np.ndarray, parameters: Parameters) -> DataFrame:
    """A row per frame: formula, number of atoms, lattice, space group, validity, and the steps from the frame before.

    Returns:
        frame, t, formula (reduced), cell (all atoms), n_atoms; a, b, c (Å); alpha, beta, gamma (degrees); volume (Å³); space_group, symbol;
        smallest_distance (Å), charge_balanced, valid (both: distance above `min_distance`, and balanced); length_step (Å; largest change of
        a, b or c since the frame before), structure_step (Å; `structure_distance` to it).
    """
    import pandas as pd

    structures = crystals.to_structures()
    rows = []
    for i, structure in enumerate(structures):
        formula, nearest, group = reduced_formula(structure), smallest_distance(structure), space_group(structure, parameters.symprec)
        before = structures[i - 1] if i else None
        rows.append(
            {
                "frame": i,
                "t": float(t[i]),
                "formula": formula,
                "cell": structure.composition.formula.replace(" ", "") or NOTHING,
                "n_atoms": len(structure),
                **dict(zip(("a", "b", "c", "alpha", "beta", "gamma"), structure.lattice.parameters, strict=True)),
                "volume": structure.volume,
                "space_group": group,
                "symbol": symbol(group),
                "smallest_distance": nearest,
                "charge_balanced": charge_balanced(formula),
                "valid": bool(nearest > parameters.min_distance) and charge_balanced(formula),
                "length_step": math.nan if before is None else float(np.abs(np.subtract(structure.lattice.abc, before.lattice.abc)).max()),
                "structure_step": math.nan if before is None else structure_distance(before, structure),
            }
        )
    return pd.DataFrame(rows)


# --- what the path is ---


def sequence(formulas: Sequence[str]) -> list[str]:
    """Formulas in order, repeats in a row as one."""
    return [f for i, f in enumerate(formulas) if not i or f != formulas[i - 1]]


def longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest sequence that is part of both, in order, with anything between."""
    best = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            best[i + 1, j + 1] = best[i, j] + 1 if x == y else max(best[i, j + 1], best[i + 1, j])
    return int(best[-1, -1])


def summary(frames: DataFrame, path: LatentPath) -> dict[str, Any]:
    """What a path is as a whole: formulas beside the paper's, smoothness, validity.

    Args:
        frames: `describe` of one path and method.
        path: its ends, and the paper's sequence.

    Returns:
        formulas, formulas_paper (sequences; the paper's in our spelling); changes (of the formula); between_paper, between_common,
        between_in_order (formulas between the ends: how many different ones the paper has, how many of them are among ours, and how many
        of the paper's sequence are in ours in the same order); ends_right (0-2: the decoded ends have the formula of the crystals); largest_length_step
        (Å) and the same relative to an even path, whose steps are all equal (1: even; not a number where the ends' lengths agree to 0.05 Å);
        mean_structure_step, largest_structure_step (Å); atoms_right, charge_balanced_percent, valid_percent; space_groups (different ones).
    """
    ours = sequence(frames["formula"].tolist())
    paper = in_our_spelling(path.formulas)
    actual = [reduced_formula(s) for s in path.ends.to_structures()]
    whole = float(np.abs(np.diff(path.ends.lengths, axis=0)).max())
    between = set(paper) - set(actual)
    step = float(frames["length_step"].max())
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
