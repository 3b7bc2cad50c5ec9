"""Crystals designed for a property, beside random search and the choice of training crystals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nesf.crystals import Crystals, concatenate
from nesf.data.dataset import SPLITS, Dataset
from nesf.saved import TrainedModel
from nesf_design.density import fit
from nesf_design.design import Goal, Predictor, best, decoded, known_values, looked_up
from nesf_design.quality import matched, unique
from nesf_design.sample import PASSES
from nesf_io.errors import ConfigError
from nesf_studies.style import NESF, SECOND, TRIVIAL, subplots
from nesf_studies.trust import wilson

STRATEGIES = {
    "design": "chosen by the regression",
    "random": "random search: drawn, not chosen",
    "training": "the best training crystals",
}
COLOURS = {"design": NESF, "random": SECOND, "training": TRIVIAL}


@dataclass(frozen=True)
class Parameters:
    """What is designed."""

    target: str = "energy_above_hull=min"  # PROPERTY=min, max or a number
    n: int = 50  # crystals of each strategy
    pool: int = 2000  # latent vectors of which they are chosen
    passes: int = PASSES
    seed: int = 0
    # a value is a success if it is among this share of the training crystals nearest to the goal
    best_share: float = 0.05

    def __post_init__(self) -> None:
        Goal.of(self.target)
        if not 0 < self.n <= self.pool or not 0 < self.best_share < 1:
            raise ConfigError(
                f"n = {self.n}, pool = {self.pool}, best_share = {self.best_share}: 0 < n ≤ pool and a share between 0 and 1 are expected"
            )


def analyse(
    model: TrainedModel, dataset: Dataset, parameters: Parameters, *, progress: bool = True
) -> dict[str, pd.DataFrame | Crystals]:
    """Design crystals for a target, and look up what is known of them.

    The truth of a crystal is the value of the crystal of the dataset, of any split, that
    StructureMatcher maps it onto; `held_out` says that it is none of training.

    `strategies`: a row per strategy (`counted`). `crystals`: a row per crystal. `regression`: R² and
    the share of values within one deviation, per split. `values`: success begins at `threshold`.
    `designed`: the crystals of the first two strategies.

    Raises:
        DataError: the property is not known of enough crystals.
    """
    goal, p = Goal.of(parameters.target), parameters
    z = {s: model.encode(dataset.split(s)).cpu().double().numpy() for s in SPLITS}
    values = {s: known_values(dataset, goal, split=s) for s in SPLITS}
    predictor = Predictor.fitted(z["train"], values["train"], p.seed)
    drawn = fit(z["train"], z["val"], "flow", p.seed).sample(p.pool, p.seed)
    train = dataset.split("train")
    badness = goal.badness(values["train"])
    limit = float(np.nanquantile(badness, p.best_share))
    chosen = {"design": drawn[best(drawn, predictor, goal)[: p.n]], "random": drawn[: p.n]}
    made = {
        name: decoded(model, vectors, predictor, name, passes=p.passes, progress=progress)
        for name, vectors in chosen.items()
    }
    order = np.argsort(np.where(np.isfinite(badness), badness, np.inf), kind="stable")[: p.n]
    parts = {k: d.samples.crystals for k, d in made.items()} | {"training": train.select(order)}
    known = concatenate([_plain(dataset.split(s)) for s in SPLITS])
    of_known = np.concatenate([values[s] for s in SPLITS])
    tables = []
    for name, crystals in parts.items():
        found = looked_up(crystals, known, of_known)
        about = made[name].table if name in made else pd.DataFrame({"id": crystals.ids})
        tables.append(
            about.assign(
                strategy=name,
                formula=[s.composition.reduced_formula for s in crystals.to_structures()],
                value=found,
                success=goal.badness(found) <= limit,
                in_training=matched(crystals, train),
                unique=unique(crystals),
            )
        )
    table = pd.concat(tables, ignore_index=True)
    rows = [
        {"strategy": name, **counted(part)} for name, part in table.groupby("strategy", sort=False)
    ]
    return {
        "strategies": pd.DataFrame(rows),
        "crystals": table,
        "regression": _regression(predictor, z, values),
        "values": pd.DataFrame(
            [
                {
                    "target": p.target,
                    "limit_badness": limit,
                    "known": int(np.isfinite(values["train"]).sum()),
                }
            ]
        ),
        "designed": concatenate([d.samples.crystals for d in made.values()]),
    }


def _plain(crystals: Crystals) -> Crystals:
    return Crystals(
        crystals.ids, crystals.positions, crystals.species, crystals.lattice, crystals.offsets
    )


def counted(table: pd.DataFrame) -> dict[str, float]:
    """Count a strategy's crystals.

    `n`; `unique`; `known`: unique, and found in the dataset with a value; `success`: of these, at the
    goal; `new`: known, but not in training; `new_success`: of these, at the goal; `unknown`: unique
    and in no split, so that nothing is known of them.
    """
    own = table[table["unique"]]
    known = own[own["value"].notna()]
    new = known[~known["in_training"].astype(bool)]
    return {
        "n": len(table),
        "unique": len(own),
        "known": len(known),
        "success": int(known["success"].sum()),
        "new": len(new),
        "new_success": int(new["success"].sum()),
        "unknown": int((own["value"].isna() & ~own["in_training"].astype(bool)).sum()),
    }


def _regression(
    predictor: Predictor, z: dict[str, np.ndarray], values: dict[str, np.ndarray]
) -> pd.DataFrame:
    rows = []
    for split in SPLITS:
        known = np.flatnonzero(np.isfinite(values[split]))
        if len(known) < 2:
            continue
        y, (mean, deviation) = values[split][known], predictor(z[split][known])
        rows.append(
            {
                "split": split,
                "n": len(known),
                "r2": 1 - np.square(y - mean).mean() / np.var(y),
                "mae": np.abs(y - mean).mean(),
                "within_one_deviation_percent": 100 * np.mean(np.abs(y - mean) <= deviation),
            }
        )
    return pd.DataFrame(rows)


def strategies_table(strategies: pd.DataFrame) -> pd.DataFrame:
    """Return the counts of each strategy with words."""
    words = {
        "n": "crystals",
        "unique": "unique",
        "known": "found in the dataset",
        "success": "of these at the goal",
        "new": "found, not in training",
        "new_success": "of these at the goal ",
        "unknown": "found nowhere",
    }
    table = strategies.set_index("strategy").rename(index=STRATEGIES, columns=words)
    return table[[*words.values()]].rename_axis(None)


def success_chart(strategies: pd.DataFrame, *, title: str = "") -> Figure:
    """Draw the share of found crystals at the goal, with 95 % intervals; hollow: not in training."""
    figure, (ax,) = subplots(1, 7, 2.4)
    for row, part in enumerate(strategies.itertuples()):
        for shift, n, hits, fill in (
            (-0.12, part.known, part.success, COLOURS[part.strategy]),
            (0.12, part.new, part.new_success, "white"),
        ):
            if not n:
                continue
            low, high = wilson(hits / n, n, z=1.96)
            colour = COLOURS[part.strategy]
            ax.plot([100 * low, 100 * high], [row + shift] * 2, color=colour)
            ax.plot(100 * hits / n, row + shift, "o", color=colour, markerfacecolor=fill)
            ax.text(103, row + shift, f"{hits} of {n}", va="center", fontsize=8)
    ax.set(
        yticks=range(len(strategies)),
        yticklabels=[STRATEGIES[s] for s in strategies["strategy"]],
        ylim=(len(strategies) - 0.5, -0.5),
        xlim=(-2, 100),
        xlabel="at the goal, % of the crystals that are found in the dataset",
    )
    figure.suptitle(title)
    return figure
