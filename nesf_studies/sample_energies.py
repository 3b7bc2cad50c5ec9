"""The crystals that `nesf analyse sampling` has recorded, judged by CHGNet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nesf.crystals import Crystals
from nesf.data.dataset import Dataset
from nesf.saved import TrainedModel
from nesf_design.plausibility import STEPS, above_training, energies, relaxations
from nesf_io.errors import ConfigError
from nesf_studies.sample_quality import COLOURS, GENERATORS, groups, recorded_samples
from nesf_studies.style import subplots

JUDGED = ("flow", "flow 0", "mixture", "noise", "exchanged", "copy")
RELAXED = ("flow", "mixture", "exchanged", "copy")  # relaxing takes seconds a crystal
SHOWN = {
    "force": "largest force, eV/Å",
    "above_training": "energy above training's hull, eV/atom",
    "moved": "way of the atoms while relaxing, Å",
}


@dataclass(frozen=True)
class Parameters:
    """What is judged."""

    samples: str = ""  # folder of the recorded analysis `sampling`
    # of each generator; the first ones, for the order is random
    n_energies: int = 300
    n_relaxed: int = 20
    steps: int = STEPS  # of a relaxation, at most

    def __post_init__(self) -> None:
        for name in ("n_energies", "n_relaxed", "steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}: at least 1 is needed")


def analyse(
    model: TrainedModel, dataset: Dataset, parameters: Parameters, *, progress: bool = True
) -> dict[str, pd.DataFrame]:
    """Judge recorded crystals of the generators `JUDGED`.

    `energies`: a row per crystal (`nesf_design.plausibility.energies`), with `above_training`, its
    energy above the convex hull of the training crystals of its elements (eV/atom).
    `relaxations`: a row per relaxed crystal. `hull`: how many training crystals spanned hulls.

    Raises:
        DataError: no samples are recorded in the folder.
    """
    folder, n = recorded_samples(parameters.samples), parameters
    parts = {k: c for k, c in groups(folder) if k in JUDGED}
    certified = {i for k, c in groups(folder) if k.endswith(" certified") for i in c.ids}
    judged = {k: c.select(range(min(n.n_energies, len(c)))) for k, c in parts.items()}
    train = dataset.split("train")
    rows = spanning(train, judged.values())
    reference = train.select(rows)
    known = energies(reference, forces=False, progress=progress)["energy"].to_numpy()
    structures = reference.to_structures()
    tables, relaxed = [], []
    for name, crystals in judged.items():
        table = energies(crystals, progress=progress)
        table["above_training"] = above_training(
            crystals.to_structures(), table["energy"], structures, known
        )
        sure = [i in certified for i in table["id"]]  # of earlier stages, whose ids differ, none
        tables.append(table.assign(generator=name, certified=sure))
        if name not in RELAXED:
            continue
        first = crystals.select(range(min(n.n_relaxed, len(crystals))))
        made = relaxations(first, n.steps, progress=progress)
        relaxed.append(made.assign(generator=name, certified=sure[: len(made)]))
    return {
        "energies": pd.concat(tables, ignore_index=True),
        "relaxations": pd.concat(relaxed, ignore_index=True),
        "hull": pd.DataFrame([{"training_crystals": len(train), "of_these_computed": len(rows)}]),
    }


def spanning(train: Crystals, generated: object) -> np.ndarray:
    """Return the training crystals whose elements are all in one of the generated crystals."""
    wanted = {
        frozenset(c.species[c.atoms(i)].tolist())
        for c in generated  # type: ignore[attr-defined]
        for i in range(len(c))
    }
    own = [frozenset(train.species[train.atoms(i)].tolist()) for i in range(len(train))]
    found = {elements: any(elements <= w for w in wanted) for elements in set(own)}
    return np.flatnonzero([found[elements] for elements in own])


def energies_table(energies: pd.DataFrame, relaxed: pd.DataFrame) -> pd.DataFrame:
    """Return what CHGNet says of each generator: medians, and shares in percent."""
    rows = {}
    for name in [g for g in GENERATORS if g.removesuffix(" certified") in {*energies["generator"]}]:
        one, two = (_of(table, name) for table in (energies, relaxed))
        hull = one["above_training"].dropna()
        rows[GENERATORS[name]] = {
            "n": len(one),
            "judged, %": 100 * one["energy"].notna().mean(),
            "median force, eV/Å": one["force"].median(),
            "force < 0.5 eV/Å, %": 100 * (one["force"] < 0.5).mean(),
            "with a hull": len(hull),
            "above hull, median, eV/atom": hull.median(),
            "below 0.1 eV/atom, %": 100 * (hull < 0.1).mean() if len(hull) else np.nan,
            "relaxed of": len(two),
            "relaxes, %": 100 * two["relaxed"].mean(),
            "median way, Å": two["moved"].median(),
            "median energy drop, eV/atom": two["energy_drop"].median(),
        }
    return pd.DataFrame(rows).T.round(3)


def _of(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the rows of a generator, or of its certified crystals (`<generator> certified`)."""
    own = table[table["generator"] == name.removesuffix(" certified")]
    return own[own["certified"]] if name.endswith(" certified") else own


def energies_chart(energies: pd.DataFrame, relaxed: pd.DataFrame, *, title: str = "") -> Figure:
    """Draw distributions as shares of crystals below a value; dashed: decoded once."""
    figure, axes = subplots(len(SHOWN), 12, 3.8)
    for ax, (column, label) in zip(axes, SHOWN.items(), strict=True):
        table = relaxed if column == "moved" else energies
        for name in [g for g in GENERATORS if g in set(table["generator"])]:
            values = table.loc[table["generator"] == name, column].to_numpy(float)
            known = np.sort(values[np.isfinite(values)])
            # of all that have the number asked of them; without a hull there is none
            total = len(known) if column == "above_training" else len(values)
            share = 100 * np.arange(1, len(known) + 1) / max(total, 1)
            ax.plot(
                known,
                share,
                color=COLOURS[name.split()[0]],
                linestyle="--" if name.endswith(" 0") else "-",
                label=GENERATORS[name],
            )
        ax.set(xlabel=label, ylim=(0, 101))
        if column == "force":
            ax.set_xscale("log")
            ax.set_xlim(1e-3, 1e2)
        elif column == "above_training":
            ax.set_xlim(-0.5, 3)
        else:
            ax.set_xlim(0, 2)
    axes[0].set_ylabel("share of crystals below, %")
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=9,
    )
    figure.suptitle(title)
    return figure
