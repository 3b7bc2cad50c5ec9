"""The field's reconstruction benchmark: match rate and RMSE, with all that tempers them.

A crystal is reconstructed when pymatgen's StructureMatcher maps the decoded one onto the true one.
CDVAE (Xie et al. 2022, Table 1) made its tolerances the field's; its script also calls a decoded
crystal a miss that is not *valid* (`nesf_design.validity`), a rule that the truth itself does not
always pass. So each number stands for both rules, for two sets of tolerances, and for the **truth
scored against itself**: the ceiling.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from nesf.crystals import Crystals
from nesf.matching import MATCHER, match_rmse
from nesf.metrics import align
from nesf.records import read_csv
from nesf_design.validity import compositionally_valid, formula, structurally_valid

TOLERANCES: Mapping[str, Mapping[str, float]] = {
    "field": MATCHER,
    "pymatgen": {"ltol": 0.2, "stol": 0.3, "angle_tol": 5},  # pymatgen's defaults
}
PUBLISHED = Path(__file__).with_name("published.csv")


def crystal_scores(actual: Crystals, detected: Crystals, *, progress: bool = False) -> pd.DataFrame:
    """Score each detected crystal against the actual one of the same id.

    Returns:
        A row a crystal: `id`; `rmse_field` and `rmse_pymatgen` (RMS displacement over (V/N)^(1/3)
        of the matched crystals, NaN: no match, `nesf.matching`); `structurally_valid` and
        `compositionally_valid` of the detected one; `count_exact`, as many atoms; `type_exact`, as
        many of each element.

    Raises:
        DataError: an id that is not among the actual ones, or twice.
        NesfError: SMACT is not installed.
    """
    detected = align(actual, detected)
    table = pd.DataFrame({"id": actual.ids})
    for name, tolerances in TOLERANCES.items():
        table[f"rmse_{name}"] = match_rmse(actual, detected, tolerances, progress=progress)
    table["structurally_valid"] = structurally_valid(detected)
    table["compositionally_valid"] = compositionally_valid(detected)
    table["count_exact"] = actual.n_atoms == detected.n_atoms
    species = zip(_species(actual), _species(detected), strict=True)
    same = np.array([formula(a) == formula(d) for a, d in species], dtype=bool)
    table["type_exact"] = table["count_exact"] & same
    return table


def _species(crystals: Crystals) -> list[np.ndarray]:
    return [crystals.species[crystals.atoms(i)] for i in range(len(crystals))]


def summarised(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the benchmark's numbers of the rows of `crystal_scores`.

    Returns:
        A row for each set of tolerances and each rule (`any`: every match counts; `valid`: as
        CDVAE's script, only those of valid crystals): `n_crystals`, `match_percent`, `rmse` (mean
        over the matched; None where nothing matches), and, the same in every row, `valid_percent`,
        `count_exact_percent` and `type_exact_percent`.
    """
    passed = scores["structurally_valid"] & scores["compositionally_valid"]
    rows = []
    for name in TOLERANCES:
        for rule, counted in (("any", np.ones(len(scores), bool)), ("valid", passed.to_numpy())):
            rmse = scores.loc[counted, f"rmse_{name}"].dropna()
            rows.append(
                {
                    "tolerances": name,
                    "rule": rule,
                    "n_crystals": len(scores),
                    "match_percent": 100 * len(rmse) / len(scores),
                    "rmse": float(rmse.mean()) if len(rmse) else None,
                    "valid_percent": 100 * float(passed.mean()),
                    "count_exact_percent": 100 * float(scores["count_exact"].mean()),
                    "type_exact_percent": 100 * float(scores["type_exact"].mean()),
                }
            )
    return pd.DataFrame(rows).astype({"rmse": float})


def benchmark(actual: Crystals, detected: Crystals, *, progress: bool = False) -> pd.DataFrame:
    """Return `summarised` scores of detected crystals, and of the truth against itself.

    Column `crystals`: `decoded` or `ceiling`. Arguments and errors as of `crystal_scores`.
    """
    parts = {
        "decoded": crystal_scores(actual, detected, progress=progress),
        "ceiling": crystal_scores(actual, actual, progress=progress),
    }
    return pd.concat(
        [summarised(scores).assign(crystals=name) for name, scores in parts.items()],
        ignore_index=True,
    )


def published() -> pd.DataFrame:
    """Return published results of fixed-size latent vectors, composition not given.

    Columns `dataset` (perov5 or mp20), `model`, `latent_numbers` (missing: not stated),
    `match_percent` and `rmse` by the field's tolerances, and `source`.
    """
    return read_csv(PUBLISHED)
