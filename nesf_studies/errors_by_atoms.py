"""Errors against the number of atoms in the cell (Figure 4), from recorded runs alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from nesf.records import MATERIAL_COLUMNS, RecordedRun
from nesf_studies.links import from_runs
from nesf_studies.record import shown_method
from nesf_studies.style import DRAWN, METHOD_COLOURS, NESF, subplots

# materials; the paper leaves numbers of atoms out that fewer have (caption of Figure 4)
FEWEST = 10
# The rows of Figure 4. The paper shows the errors «actual», for both methods find the right number
# of atoms or too few in most cases.
ERRORS = {
    "n_atoms_difference": "detected − actual, atoms",
    "position_error_actual_angstrom": "position (actual), Å",
    "species_error_actual_percent": "species (actual), %",
}
_MARKERS = {"nesf": "o", "copy": "s", "oracle": "^"}


def materials_of(
    runs: Sequence[RecordedRun],
    dataset: str,
    method: str,
    *,
    preset: str | None = None,
    splits: Sequence[str] = ("test",),
) -> pd.DataFrame:
    """Join the materials of all recorded seeds or folds of a method, named by `shown_method`.

    Without a `preset`, trials of a recipe are left out, and of NeSF all but the preset `cpu`; so
    are splits that a run does not have.

    Returns:
        `nesf.records.MATERIAL_COLUMNS`, `run` (seed-N or fold-K) and `n_atoms_difference` =
        detected − actual. `attrs["folders"]`: of the runs.
    """
    if method == "nesf" and preset is None:
        preset = "cpu"
    chosen = [
        r
        for r in runs
        if (r.run["dataset"]["name"], shown_method(r.run["method"], r.run["preset"]))
        == (dataset, method)
        and r.metrics
    ]
    chosen = [
        r
        for r in chosen
        if (r.run["preset"] == preset if preset else not r.run["preset"].startswith("trial-"))
    ]
    if not chosen:
        return pd.DataFrame(columns=[*MATERIAL_COLUMNS, "run", "n_atoms_difference"])
    materials = pd.concat(
        [r.materials().assign(run=r.folder.name) for r in chosen], ignore_index=True
    )
    materials = materials[materials["split"].isin(splits)].reset_index(drop=True)
    materials.attrs["folders"] = [r.folder for r in chosen]
    return materials.assign(
        n_atoms_difference=materials["n_atoms_detected"] - materials["n_atoms_actual"]
    )


def by_number_of_atoms(materials: pd.DataFrame, *, fewest: int = FEWEST) -> pd.DataFrame:
    """Return median and 68 % range of each error of Figure 4, by the number of atoms in the cell.

    paper: «x-axis points counting less than 10 materials samples» are left out / here: different
    materials are counted, however many seeds there are.

    Returns:
        `error` (of `ERRORS`), `n_atoms`, `n_materials` (different ones), `n_samples` (over all
        seeds, where the error is defined: without a detected atom there is no position error),
        `low`, `median`, `high` (16th, 50th, 84th percentile), `shown` (at least `fewest`
        materials).
    """
    rows = []
    for error, (n, group) in itertools.product(ERRORS, materials.groupby("n_atoms_actual")):
        values = group[error].dropna().to_numpy(float)
        range_68 = np.percentile(values, [16, 50, 84]) if len(values) else (np.nan,) * 3
        count = group["id"].nunique()
        rows.append((error, int(n), count, len(values), *range_68, count >= fewest))
    return pd.DataFrame(
        rows,
        columns=["error", "n_atoms", "n_materials", "n_samples", "low", "median", "high", "shown"],
    )


def left_out(table: pd.DataFrame) -> str:
    """Tell in words what `by_number_of_atoms` does not show."""
    classes = table[table["error"] == "n_atoms_difference"]
    hidden = classes[~classes["shown"]]
    if hidden.empty:
        return "none left out"
    numbers = ", ".join(map(str, hidden["n_atoms"]))
    return f"left out: {hidden['n_materials'].sum()} of {classes['n_materials'].sum()} materials (with {numbers} atoms)"


def claims(materials: pd.DataFrame, *, fewest: int = FEWEST) -> dict[str, float]:
    """Return the numbers that check what the paper says of Figure 4.

    Returns:
        Percent over all seeds: `right`, `too few`, `too many` atoms; `least right`: materials with
        the right number of atoms in the shown class where they are fewest; `both species right`: of
        the materials with two atoms. `position trend`, `species trend`: Spearman's rank correlation
        of the error with the number of atoms. NaN where there is nothing to count.
    """
    difference, sizes = materials["n_atoms_difference"], materials["n_atoms_actual"]
    classes = [
        g["n_atoms_difference"]
        for _, g in materials.groupby("n_atoms_actual")
        if g["id"].nunique() >= fewest
    ]

    def percent(holds: pd.Series) -> float:
        return 100 * float(holds.mean())

    return {
        "right": percent(difference == 0),
        "too few": percent(difference < 0),
        "too many": percent(difference > 0),
        "least right": min((percent(of_class == 0) for of_class in classes), default=float("nan")),
        "both species right": percent(materials["species_error_actual_percent"][sizes == 2] == 0),
        "position trend": trend(materials, "position_error_actual_angstrom")[0],
        "species trend": trend(materials, "species_error_actual_percent")[0],
    }


def trend(materials: pd.DataFrame, error: str) -> tuple[float, float, float]:
    """Return Spearman's ρ of an error with the number of atoms, and its 95 % interval.

    The interval is Fisher's with the variance for ranks (Fieller and others, 1957) over different
    materials: the seeds of one material are averaged, for they are no further evidence. NaN where
    nothing varies.
    """
    known = materials[["id", error, "n_atoms_actual"]].dropna()
    means = known.groupby("id")[[error, "n_atoms_actual"]].mean()
    if len(means) < 5 or means.nunique().min() < 2:
        return (float("nan"),) * 3
    rho = float(spearmanr(means).statistic)
    half = 1.96 * math.sqrt(1.06 / (len(means) - 3))
    middle = math.atanh(min(max(rho, -0.999999), 0.999999))
    return rho, math.tanh(middle - half), math.tanh(middle + half)


def verdicts(materials: pd.DataFrame, *, fewest: int = FEWEST) -> pd.DataFrame:
    """Compare the paper's claims about Figure 4 with the materials of one dataset and method.

    A row a claim, columns `ours` and `verdict`: agrees, differs, not told apart from no trend
    (the interval of ρ holds 0), or – where there is nothing to say it of.
    """
    found, table = claims(materials, fewest=fewest), by_number_of_atoms(materials, fewest=fewest)
    positions = table[(table["error"] == "position_error_actual_angstrom") & table["shown"]][
        "median"
    ].to_numpy()
    ends = (
        f"; medians {positions[0]:.3f} Å (fewest atoms), {positions[-1]:.3f} Å (most)"
        if len(positions) > 1
        else ""
    )
    rows: dict[str, tuple[str, bool | None]] = {
        "right number of atoms for more than 68 % (smallest class)": (
            f"{found['least right']:.0f} %",
            found["least right"] > 68,
        ),
        "too few atoms rather than too many": (
            f"{found['too few']:.1f} %, {found['too many']:.1f} %",
            found["too few"] > found["too many"],
        ),
        "position error grows with the number of atoms": _grows(
            materials, "position_error_actual_angstrom", ends
        ),
        "species error grows with the number of atoms": _grows(
            materials, "species_error_actual_percent"
        ),
        "both elements right for more than 68 % with two atoms": (
            f"{found['both species right']:.0f} %",
            found["both species right"] > 68,
        ),
    }
    words = {True: "agrees", False: "differs", None: "not told apart from no trend"}
    texts = {
        claim: ("–", "–") if "nan" in text else (text, words[holds])
        for claim, (text, holds) in rows.items()
    }
    table = pd.DataFrame(texts, index=["ours", "verdict"]).T.rename_axis("the paper says")
    return from_runs(table, {"ours": materials.attrs.get("folders", [])})


def _grows(materials: pd.DataFrame, error: str, ends: str = "") -> tuple[str, bool | None]:
    rho, low, high = trend(materials, error)
    return f"ρ = {rho:+.2f} [{low:+.2f}, {high:+.2f}]{ends}", None if low <= 0 <= high else low > 0


def errors_by_atoms(tables: Mapping[str, Mapping[str, pd.DataFrame]]) -> Figure:
    """Draw Figure 4: a column a dataset, a row an error; medians and 68 % ranges of each method.

    The tables, title of the dataset to method to table, are of `by_number_of_atoms`; classes that
    are not `shown` are left out.
    """
    figure, axes = subplots(
        len(tables), 4.6 * len(tables), 2.3 * len(ERRORS) + 0.6, n_rows=len(ERRORS)
    )
    handles = {}
    for ax, (error, methods) in zip(axes, itertools.product(ERRORS, tables.values()), strict=True):
        shown = {
            method: table[(table["error"] == error) & table["shown"]].sort_values("n_atoms")
            for method, table in methods.items()
        }
        numbers = np.unique(np.concatenate([part["n_atoms"] for part in shown.values()]))
        for i, (method, part) in enumerate(shown.items()):
            # evenly spaced: the small numbers of atoms are the frequent ones
            x = np.searchsorted(numbers, part["n_atoms"]) + 0.07 * (i - (len(methods) - 1) / 2)
            colour, marker = METHOD_COLOURS.get(method, NESF), _MARKERS.get(method, "D")
            low, middle, high = part[["low", "median", "high"]].to_numpy(float).T
            if len(part) > 1:
                ax.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
            ax.vlines(x, low, high, color=colour, linewidth=1)
            (handles[method],) = ax.plot(
                x,
                middle,
                marker=marker,
                color=colour,
                markersize=5,
                linewidth=1,
                label=DRAWN.get(method, method),
            )
        if error == "n_atoms_difference":
            ax.axhline(0, color="black", linewidth=0.6, zorder=0)
            bottom, top = ax.get_ylim()
            ax.set_ylim(min(bottom, -1.2), max(top, 1.2))
        elif error.startswith("position"):  # medians of hundredths, ranges of the copy up to 1 Å
            ax.set_yscale("symlog", linthresh=0.01)
            ax.set_ylim(bottom=-0.001)
            ax.set_yticks([0, 0.01, 0.1, 1], ["0", "0.01", "0.1", "1"], minor=False)
        else:
            ax.set_ylim(bottom=-0.03 * ax.get_ylim()[1])
        ax.set_xticks(range(len(numbers)), [str(n) for n in numbers])
        if len(numbers) == 1:
            ax.set_xlim(-1, 1)
        ax.grid(axis="y", alpha=0.3)
    for ax, title in zip(axes, tables, strict=False):
        ax.set_title(title, fontsize="medium")
    for ax, label in zip(axes[:: len(tables)], ERRORS.values(), strict=True):
        ax.set_ylabel(label)
    for ax in axes[-len(tables) :]:
        ax.set_xlabel("atoms in the cell")
    figure.legend(
        handles=list(handles.values()),
        loc="outside upper center",
        ncols=len(handles),
        frameon=False,
    )
    return figure
