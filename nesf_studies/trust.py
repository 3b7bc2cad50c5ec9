"""How well certificate, scores and distance from the training data tell a wrong reconstruction."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score, roc_curve

from nesf.data.dataset import Dataset
from nesf.forms import read_form
from nesf.metrics import is_right
from nesf.records import read_csv
from nesf.runs import Summary
from nesf.saved import TrainedModel
from nesf_io.errors import DataError
from nesf_studies.style import ICSG3D, NESF, ORACLE, SECOND, TRIVIAL, subplots

# each known without the truth, and larger where a reconstruction is to be doubted more
SIGNALS = {
    "latent_distance": "latent distance (certificate)",
    "mean_score": "mean score of the atoms, Å",
    "worst_score": "worst score of the atoms, Å",
    "training_distance": "distance from the training crystals",
    "n_atoms": "number of atoms found (trivial)",
    "outside": "outside the training domain (flag)",
}
OUTCOMES = {
    "matched": "the crystal matches (StructureMatcher)",
    "exact": "all atoms and elements right",
}
FLAG = "#CC79A7"  # Okabe and Ito
_COLOURS = dict(zip(SIGNALS, (NESF, ICSG3D, SECOND, ORACLE, TRIVIAL, FLAG), strict=True))


def signals(
    folder: Path,
    split: str,
    *,
    model: TrainedModel | None = None,
    dataset: Dataset | None = None,
) -> pd.DataFrame:
    """Return what is known about each decoded crystal of a split, and whether it is right.

    In a consistent decoding the scores of certified crystals are those at the corrected positions,
    of the others those of the five steps: compare scores within a run of mode exact or fast.

    Args:
        folder: of a run, with `materials.csv` and `reconstruction/<split>`.
        split: train, val or test.
        model: with `dataset`, to compute `training_distance`.
        dataset: what the model was trained on.

    Returns:
        A row a crystal: `id`, `certified` (None: no certificate), the `SIGNALS` that there are (NaN
        where nothing was detected), and the `OUTCOMES` as True or False.

    Raises:
        DataError: a file is missing, or the split's crystals are not those of `materials.csv`.
    """
    decoded = Path(folder) / "reconstruction" / split
    materials = read_csv(Path(folder) / "materials.csv")
    materials = materials[materials["split"] == split].reset_index(drop=True)
    structures = read_csv(decoded / "structures.csv").set_index("id")
    atoms = read_csv(decoded / "atoms.csv")
    if materials.empty or set(materials["id"]) != set(structures.index):
        raise DataError(
            f"{folder}: materials.csv and reconstruction/{split} hold different crystals; run `nesf evaluate` again"
        )
    structures = structures.loc[materials["id"]]
    table = pd.DataFrame(
        {
            "id": materials["id"],
            "certified": None,
            "mean_score": atoms.groupby("id")["score"].mean().reindex(materials["id"]).to_numpy(),
            "worst_score": structures["worst_score"].to_numpy(float),
            "matched": materials["matched"].astype(bool),
            "exact": is_right(materials),
        }
    )
    certificates = read_form(decoded / "summary.json", Summary, "reconstruct the split again").get(
        "certificates", {}
    )
    if certificates:
        of_each = [certificates[identifier] for identifier in table["id"]]
        table["certified"] = [c["certified"] for c in of_each]
        table["latent_distance"] = [c["latent_distance"] for c in of_each]
    if model is not None and dataset is not None:
        ids = dataset.split(split).ids
        distances = dict(zip(ids, training_distance(model, dataset, split), strict=True))
        table["training_distance"] = [distances[identifier] for identifier in table["id"]]
    return table


def training_distance(model: TrainedModel, dataset: Dataset, split: str) -> np.ndarray:
    """Return the distance [B] of a split's latent vectors to the nearest one of the training split.

    It is the root mean square over the entries of z, each in units of its standard deviation.
    """
    z, train = (
        model.encode(dataset.split(name)).cpu().double().numpy() for name in (split, "train")
    )
    scale = np.array(model.latent_scale) if model.latent_scale else train.std(0).clip(1e-3)
    return cdist(z / scale, train / scale).min(1) / np.sqrt(z.shape[1])


def roc(table: pd.DataFrame, outcome: str = "matched") -> pd.DataFrame:
    """Return the ROC curve of each signal as a detector of failures.

    Crystals without a value (nothing was detected) count as the most doubtful ones.

    Args:
        table: of `signals`.
        outcome: one of `OUTCOMES`; its absence is a failure.

    Returns:
        `signal`, `threshold`, `false_alarms` (share of the right crystals that are doubted),
        `caught` (share of the failures), and `area` under the curve: 0.5 for a signal that says
        nothing, 1 for one that tells all.

    Raises:
        DataError: all crystals are right, or all are wrong.
    """
    failed = ~table[outcome].to_numpy(bool)
    if failed.all() or not failed.any():
        raise DataError(
            f"{outcome}: holds for {'none' if failed.all() else 'all'} of {len(table)} crystals, so there is nothing to tell apart"
        )
    parts = []
    for signal in SIGNALS:
        if signal not in table:
            continue
        values = _with_missing_last(table[signal].to_numpy(float))
        false_alarms, caught, thresholds = roc_curve(failed, values, drop_intermediate=False)
        parts.append(
            pd.DataFrame(
                {
                    "signal": signal,
                    "threshold": thresholds,
                    "false_alarms": false_alarms,
                    "caught": caught,
                    "area": roc_auc_score(failed, values),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _with_missing_last(values: np.ndarray) -> np.ndarray:
    """Return values with NaN replaced by one beyond the largest."""
    known = values[np.isfinite(values)]
    beyond = known.max() + max(1.0, abs(known.max())) if len(known) else 1.0
    return np.where(np.isfinite(values), values, beyond)


def reliability(
    table: pd.DataFrame, outcome: str = "matched", signal: str = "latent_distance", bins: int = 5
) -> pd.DataFrame:
    """Return how many crystals are right, by a signal: in groups of about equal size.

    Returns:
        A row a group, the least doubtful first: `low` and `high` of the signal, `n`, `right` (share)
        and its 68 % interval `right_low`, `right_high` (Wilson). Equal values share a group.
    """
    values = _with_missing_last(table[signal].to_numpy(float))
    ranks = pd.Series(values).rank(method="min").to_numpy() - 1
    group = np.floor(ranks * bins / len(values)).astype(int)
    rows = []
    for k in np.unique(group):
        own = group == k
        share = float(table[outcome].to_numpy(bool)[own].mean())
        rows.append(
            (values[own].min(), values[own].max(), int(own.sum()), share, *wilson(share, own.sum()))
        )
    return pd.DataFrame(rows, columns=["low", "high", "n", "right", "right_low", "right_high"])


def wilson(share: float, n: int, z: float = 1.0) -> tuple[float, float]:
    """Return Wilson's interval of a share of n, z standard deviations wide on each side."""
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return float(min(share, centre - half)), float(max(share, centre + half))


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """Return how many crystals are right by the certificate's verdict.

    Returns:
        Rows certified, not certified (or no certificate) and all: `n`, and the number and share of
        each of `OUTCOMES` (`matched`, `matched_percent`, ...).
    """
    verdict = table["certified"].map(
        lambda c: "no certificate" if c is None else "certified" if c else "not certified"
    )
    rows = {name: table[verdict == name] for name in sorted(verdict.unique())} | {"all": table}
    return pd.DataFrame(
        {
            name: {"n": len(part)}
            | {o: int(part[o].sum()) for o in OUTCOMES}
            | {f"{o}_percent": 100 * float(part[o].mean()) for o in OUTCOMES}
            for name, part in rows.items()
        }
    ).T.rename_axis("verdict")


def roc_chart(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw ROC curves: a panel a title (of `OUTCOMES`, a dataset, ...), a line a signal of `roc`."""
    figure, axes = subplots(len(curves), 4.2 * len(curves), 4.8)
    for ax, (title, table) in zip(axes, curves.items(), strict=True):
        ax.plot([0, 1], [0, 1], color=TRIVIAL, linewidth=0.8, linestyle="--")
        for signal, part in table.groupby("signal", sort=False):
            ax.plot(  # straight between points: of equal values any share may be doubted
                part["false_alarms"],
                part["caught"],
                color=_COLOURS[signal],
                label=f"{SIGNALS[signal]}: {part['area'].iloc[0]:.2f}",
            )
        ax.set(xlabel="right crystals doubted", ylabel="failures caught", title=title)
        ax.set_aspect("equal")
        ax.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.16),  # below the panel
            fontsize=7,
            title="area under the curve",
            title_fontsize=7,
            frameon=False,
        )
    return figure


def reliability_chart(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw the share of right crystals by a signal: a panel a title, a point a group."""
    figure, axes = subplots(len(tables), 4.2 * len(tables), 3.4)
    for ax, (title, table) in zip(axes, tables.items(), strict=True):
        _draw_reliability(ax, table)
        ax.set(title=title, ylim=(-0.03, 1.03))
    axes[0].set_ylabel("share of right crystals")
    return figure


def _draw_reliability(ax: Axes, table: pd.DataFrame) -> None:
    places = np.arange(len(table))
    ax.vlines(places, table["right_low"], table["right_high"], color=NESF, linewidth=1)
    ax.plot(places, table["right"], color=NESF, marker="o", markersize=5, linewidth=1)
    labels = [f"{low:.1e}\nto {high:.1e}" for low, high in table[["low", "high"]].to_numpy()]
    ax.set_xticks(places, labels, fontsize=7)
    ax.set_xlabel("signal, from trusted to doubtful")
    ax.grid(axis="y", alpha=0.3)
