"""Energies and forces of crystals by CHGNet, and what becomes of the crystals when they relax.

CHGNet (Deng et al., Nature Machine Intelligence 5, 1031 (2023)) is a potential trained on the
relaxations of the Materials Project; its weights come with the package (extra `design`). It was
trained on the very database that the paper's datasets are from. It says whether a crystal is
strained by its own measure, not whether it is stable in nature.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from pymatgen.core import Structure
from tqdm import tqdm

from nesf.crystals import Crystals
from nesf.data.dataset import needs_extra
from nesf_design.validity import structurally_valid

FORCE = 0.1  # eV/Å; a crystal whose largest force is below it is relaxed
STEPS = 100  # of a relaxation, at most
MOST_ATOMS = 40  # of a cell that is judged
LARGEST_CELL = 40.0  # Å, of a length
TOGETHER = 16  # crystals in one pass of the network


@cache
def potential() -> Any:
    """Load CHGNet on the CPU.

    Raises:
        NesfError: it is not installed; it comes with the extra `design`.
    """
    with needs_extra("design"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies
        from chgnet.model import CHGNet

        with redirect_stdout(io.StringIO()):  # it prints where it runs
            return CHGNet.load(use_device="cpu", verbose=False)


@cache
def optimizer() -> Any:
    """Return what relaxes structures with `potential`."""
    with needs_extra("design"), warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from chgnet.model import StructOptimizer

        return StructOptimizer(model=potential(), use_device="cpu")


def judgeable(crystals: Crystals) -> np.ndarray:
    """Tell which crystals [B] CHGNet is asked about: no atoms on each other, no absurd cell."""
    return (
        structurally_valid(crystals)
        & (crystals.n_atoms <= MOST_ATOMS)
        & (crystals.lengths.max(1) <= LARGEST_CELL)
    )


def energies(crystals: Crystals, *, forces: bool = True, progress: bool = False) -> pd.DataFrame:
    """Return energies and forces of crystals as they are, a row each.

    Columns: `id`, `energy` (eV/atom), `bonding` (eV/atom; the energy without the part that CHGNet
    gives to each element alone, so that other compositions can be compared) and, if asked for,
    `force` (largest, eV/Å) and `stress` (largest entry, GPa); NaN where a crystal is not
    `judgeable`, or an atom has no neighbour within CHGNet's cutoff.
    """
    model, columns = potential(), ["energy", "bonding", *(["force", "stress"] if forces else [])]
    made = pd.DataFrame(np.nan, range(len(crystals)), columns)
    structures = crystals.to_structures()
    good = np.flatnonzero(judgeable(crystals))
    parts = np.split(good, range(TOGETHER, len(good), TOGETHER))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for part in tqdm(parts, desc="energies", unit=f"{TOGETHER} crystals", disable=not progress):
            graphs = {i: _graph(structures[i]) for i in part}
            rows = [i for i, graph in graphs.items() if graph is not None]
            if not rows:
                continue
            known = [graphs[i] for i in rows]
            task = "efs" if forces else "e"
            found = model.predict_graph(known, task=task, batch_size=TOGETHER)
            of_elements = model.composition_model(known).detach().numpy()
            for i, one, part_of_elements in zip(
                rows, [found] if isinstance(found, dict) else found, of_elements, strict=True
            ):
                made.loc[i, ["energy", "bonding"]] = (
                    float(one["e"]),
                    float(one["e"]) - float(part_of_elements),
                )
                if forces:
                    largest = np.linalg.norm(one["f"], axis=-1).max(), np.abs(one["s"]).max()
                    made.loc[i, ["force", "stress"]] = largest
    made.insert(0, "id", crystals.ids)
    return made


def _graph(structure: Structure) -> Any:
    """Return CHGNet's graph of a structure; None: an atom has no neighbour."""
    try:
        return potential().graph_converter(structure)
    except ValueError:
        return None


def relaxations(crystals: Crystals, steps: int = STEPS, *, progress: bool = False) -> pd.DataFrame:
    """Relax atoms and cell of crystals with CHGNet (FIRE, up to `steps` steps), a row each.

    Columns: `id`, `relaxed` (largest force below `FORCE` within the steps), `steps`, `energy_drop`
    (eV/atom), `moved` (RMS way of the atoms in fractional coordinates times the mean cell, without
    a common shift, Å), `volume_change` (relative); NaN where a crystal is not `judgeable`.
    """
    rows, ok = [], judgeable(crystals)
    for name, structure, good in tqdm(
        zip(crystals.ids, crystals.to_structures(), ok, strict=True),
        total=len(ok),
        desc="relaxing",
        disable=not progress,
    ):
        rows.append({"id": name, **(relaxation(structure, steps) if good else {"relaxed": False})})
    columns = ["id", "relaxed", "steps", "energy_drop", "moved", "volume_change"]
    return pd.DataFrame(rows).reindex(columns=columns)


def relaxation(structure: Structure, steps: int = STEPS) -> dict[str, Any]:
    """Relax one structure; the entries of a row of `relaxations`."""
    relax = optimizer().relax
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            made = relax(structure, fmax=FORCE, steps=steps, verbose=False)
        except (ValueError, ArithmeticError, RuntimeError):  # the cell collapses, or flies apart
            return {"relaxed": False}
    path, final = made["trajectory"], made["final_structure"]
    taken = len(path.energies) - 1
    way = final.frac_coords - structure.frac_coords
    way -= np.round(way)
    way -= way.mean(0)
    mean_cell = (final.lattice.matrix + structure.lattice.matrix) / 2
    return {
        "relaxed": bool(taken < steps),
        "steps": taken,
        "energy_drop": float(path.energies[0] - path.energies[-1]) / len(structure),
        "moved": float(np.sqrt(np.square(way @ mean_cell).sum(-1).mean())),
        "volume_change": float(final.volume / structure.volume - 1),
    }


def above_training(
    structures: Sequence[Structure],
    energies_of: Sequence[float],
    train: Sequence[Structure],
    energies_of_train: Sequence[float],
) -> np.ndarray:
    """Return energies above the convex hull of training crystals [B], eV/atom, by one potential.

    Only training crystals of the elements of a crystal span its hull; NaN where these do not
    include one of each element alone, or an energy is unknown. Negative: below that hull.
    """
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram

    entries = [
        (frozenset(e.Z for e in s.composition), PDEntry(s.composition, e * len(s)))
        for s, e in zip(train, energies_of_train, strict=True)
        if np.isfinite(e)
    ]
    diagrams: dict[frozenset[int], Any] = {}
    made = np.full(len(structures), np.nan)
    for i, (structure, value) in enumerate(zip(structures, energies_of, strict=True)):
        elements = frozenset(e.Z for e in structure.composition)
        if not elements or not np.isfinite(value):
            continue
        if elements not in diagrams:
            own = [entry for has, entry in entries if has <= elements]
            alone = {next(iter(has)) for has, _ in entries if len(has) == 1 and has <= elements}
            diagrams[elements] = PhaseDiagram(own) if alone == elements else None
        if (diagram := diagrams[elements]) is not None:
            entry = PDEntry(structure.composition, value * len(structure))
            made[i] = diagram.get_e_above_hull(entry, allow_negative=True)
    return made
