"""Errors against the number of atoms in the cell (Figure 4), from recorded runs; no model is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pandas import DataFrame

    from nesf.records import RecordedRun

FEWEST = 10  # materials; the paper leaves numbers of atoms out that fewer have (caption of Figure 4)
# The rows of Figure 4. The paper shows the errors «actual», for both methods find the right number of atoms or too few in most cases.
ERRORS = {
    "n_atoms_difference": "detected − actual, atoms",
    "position_error_actual_angstrom": "position (actual), Å",
    "species_error_actual_percent": "species (actual), %",
}


def materials_of(
    runs: Sequence[RecordedRun], dataset: str, method: str, *, preset: str | None = None, splits: Sequence[str] = ("test",)
) -> DataFrame:
    """Materials of all recorded seeds or folds of a method, one under the other.

    Args:
        runs: recorded runs.
        dataset: name.
        method: as in comparisons (`nesf.records.shown_method`): nesf, copy, oracle, icsg3d-repaired, ...
        preset: None for any but trials of a recipe.
        splits: train, val, test; those that a run does not have are left out.

    Returns:
        `nesf.records.MATERIAL_COLUMNS`, `run` (seed-N or fold-K) and `n_atoms_difference` = detected − actual; without a row where nothing is recorded.
    """
    import pandas as pd

    from nesf.records import MATERIAL_COLUMNS
    from nesf_studies.paper import shown_method

    chosen = [r for r in runs if (r.run["dataset"]["name"], shown_method(r.run["method"], r.run["preset"])) == (dataset, method) and r.metrics]
    chosen = [r for r in chosen if (r.run["preset"] == preset if preset else not r.run["preset"].startswith("trial-"))]
    if not chosen:
        return pd.DataFrame(columns=[*MATERIAL_COLUMNS, "run", "n_atoms_difference"])
    materials = pd.concat([r.materials().assign(run=r.folder.name) for r in chosen], ignore_index=True)
    materials = materials[materials["split"].isin(splits)].reset_index(drop=True)
    return materials.assign(n_atoms_difference=materials["n_atoms_detected"] - materials["n_atoms_actual"])


def by_number_of_atoms(materials: DataFrame, *, fewest: int = FEWEST) -> DataFrame:
    """Median and 68 % range of each error of Figure 4, by the number of atoms in the cell.

    paper: «x-axis points counting less than 10 materials samples» are left out / here: different materials are counted, however many seeds there are.

    Args:
        materials: of `materials_of`.
        fewest: materials that a number of atoms needs to be shown.

    Returns:
        One row per error (`ERRORS`) and number of atoms: `error`, `n_atoms`, `n_materials` (different ones), `n_samples` (over all seeds, those for
        which the error is defined: without a detected atom there is no position error), `low`, `median`, `high` (16th, 50th and 84th percentile),
        `shown`.
    """
    import pandas as pd

    rows = []
    for error in ERRORS:
        for n, group in materials.groupby("n_atoms_actual"):
            values = group[error].dropna().to_numpy(float)
            low, median, high = np.percentile(values, [16, 50, 84]) if len(values) else (np.nan,) * 3
            count = group["id"].nunique()
            rows.append((error, int(n), count, len(values), low, median, high, count >= fewest))
    return pd.DataFrame(rows, columns=["error", "n_atoms", "n_materials", "n_samples", "low", "median", "high", "shown"])


def left_out(table: DataFrame) -> str:
    """What `by_number_of_atoms` does not show, in words."""
    classes = table[table["error"] == "n_atoms_difference"]
    hidden = classes[~classes["shown"]]
    if hidden.empty:
        return "none left out"
    numbers = ", ".join(map(str, hidden["n_atoms"]))
    return f"left out: {hidden['n_materials'].sum()} of {classes['n_materials'].sum()} materials (with {numbers} atoms)"


def claims(materials: DataFrame, *, fewest: int = FEWEST) -> dict[str, float]:
    """What the paper says of Figure 4, as numbers that can be checked.

    Args:
        materials: of `materials_of`.
        fewest: as of `by_number_of_atoms`.

    Returns:
        Shares in percent, over all seeds: `right`, `too few`, `too many` atoms among all materials; `least right`: the share of materials with the right
        number of atoms in the shown class where it is smallest; `both species right`: among the materials with two atoms. `position trend`,
        `species trend`: Spearman's rank correlation of the error with the number of atoms. NaN where there is nothing to count.
    """
    from scipy.stats import spearmanr

    difference = materials["n_atoms_difference"].to_numpy(float)
    classes = [g for _, g in materials.groupby("n_atoms_actual") if g["id"].nunique() >= fewest]
    two = materials[materials["n_atoms_actual"] == 2]

    def share(values: np.ndarray) -> float:
        return 100 * float(np.mean(values)) if len(values) else float("nan")

    def trend(error: str) -> float:
        known = materials[materials[error].notna()]
        if known["n_atoms_actual"].nunique() < 2 or known[error].nunique() < 2:
            return float("nan")
        return float(spearmanr(known["n_atoms_actual"], known[error]).statistic)

    return {
        "right": share(difference == 0),
        "too few": share(difference < 0),
        "too many": share(difference > 0),
        "least right": min((share(g["n_atoms_difference"].to_numpy() == 0) for g in classes), default=float("nan")),
        "both species right": share(two["species_error_actual_percent"].to_numpy(float) == 0),
        "position trend": trend("position_error_actual_angstrom"),
        "species trend": trend("species_error_actual_percent"),
    }


def verdicts(materials: DataFrame, *, fewest: int = FEWEST) -> DataFrame:
    """The paper's claims about Figure 4 beside what recorded runs say.

    Args:
        materials: of `materials_of`, of one dataset and method.
        fewest: as of `by_number_of_atoms`.

    Returns:
        One row per claim: `ours` (text) and `verdict`: agrees, differs or «–» where there is nothing to say it of.
    """
    import pandas as pd

    found, table = claims(materials, fewest=fewest), by_number_of_atoms(materials, fewest=fewest)
    positions = table[(table["error"] == "position_error_actual_angstrom") & table["shown"]]["median"].to_numpy()
    ends = f"; medians {positions[0]:.3f} Å (fewest atoms), {positions[-1]:.3f} Å (most)" if len(positions) > 1 else ""
    rows = {
        "right number of atoms for more than 68 % (smallest class)": (f"{found['least right']:.0f} %", found["least right"] > 68),
        "too few atoms rather than too many": (f"{found['too few']:.1f} %, {found['too many']:.1f} %", found["too few"] > found["too many"]),
        "position error grows with the number of atoms": (f"ρ = {found['position trend']:+.2f}{ends}", found["position trend"] > 0),
        "species error grows with the number of atoms": (f"ρ = {found['species trend']:+.2f}", found["species trend"] > 0),
        "both elements right for more than 68 % with two atoms": (f"{found['both species right']:.0f} %", found["both species right"] > 68),
    }
    texts = {claim: ("–", "–") if "nan" in text else (text, "agrees" if holds else "differs") for claim, (text, holds) in rows.items()}
    return pd.DataFrame(texts, index=["ours", "verdict"]).T.rename_axis("the paper says")
