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


def energies(crystals: Crystals, *, progress: bool = False) -> pd.DataFrame:
    """Return energies and forces of crystals as they are, a row each.

    Columns: `id`, `energy` (eV/atom), `bonding` (eV/atom; the energy without the part that CHGNet
    gives to each element alone, so that other compositions can be compared), `force` (largest,
    eV/Å), `stress` (largest entry, GPa); NaN where a crystal is not `judgeable`, or an atom has no neighbour within CHGNet's cutoff.
    """
    rows, ok = [], judgeable(crystals)
    structures = crystals.to_structures()
    for name, structure, good in tqdm(
        zip(crystals.ids, structures, ok, strict=True),
        total=len(ok),
        desc="energies",
        disable=not progress,
    ):
        rows.append({"id": name, **(energy(structure) if good else _UNKNOWN)})
    return pd.DataFrame(rows, columns=["id", *_UNKNOWN])


_UNKNOWN = {"energy": np.nan, "bonding": np.nan, "force": np.nan, "stress": np.nan}


def energy(structure: Structure) -> dict[str, float]:
    """Return the entries of a row of `energies` for one structure."""
    model = potential()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            graph = model.graph_converter(structure)
            made = model.predict_graph(graph, task="efs")
            of_elements = float(model.composition_model([graph])[0])
        except ValueError:  # an atom without neighbours
            return dict(_UNKNOWN)
    return {
        "energy": float(made["e"]),
        "bonding": float(made["e"]) - of_elements,
        "force": float(np.linalg.norm(made["f"], axis=-1).max()),
        "stress": float(np.abs(made["s"]).max()),
    }


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
