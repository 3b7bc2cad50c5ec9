"""Space groups of reconstructed crystals, as decoded and made symmetric (`--symmetrise`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from nesf.config import with_fields
from nesf.data.dataset import Dataset
from nesf.decode import reconstruct
from nesf.saved import TrainedModel
from nesf_design.symmetry import check_tolerance, space_groups, symmetrised
from nesf_studies.record import recorded_analysis

TIGHT = 0.01  # Å; pymatgen's default tolerance


@dataclass(frozen=True)
class Parameters:
    """What is decoded, and how it is made symmetric."""

    split: Literal["train", "val", "test"] = "test"
    modes: str = "fast, consistent"  # of decoding, separated by commas
    tolerances: str = "0.01, 0.1, 0.3"  # Å, of `--symmetrise`, separated by commas
    n: int = 0  # the first crystals of the split; 0: all

    def listed(self) -> list[float]:
        """Return the tolerances, Å; ConfigError: one is none."""
        values = [float(t) for t in self.tolerances.split(",")]
        for value in values:
            check_tolerance(value)
        return values


def analyse(
    model: TrainedModel, dataset: Dataset, parameters: Parameters, *, progress: bool = True
) -> dict[str, pd.DataFrame]:
    """Reconstruct a split, and compare space groups with those of the crystals themselves.

    `recovered`: a row per mode and tolerance (0: as decoded): number of crystals, and the share
    whose space group is the actual one, both found at `TIGHT` Å and at 0.1 Å; `moved`: median of
    the largest way of an atom, Å. `groups`: a row per crystal, mode and tolerance.
    """
    actual = dataset.split(parameters.split)
    if 0 < parameters.n < len(actual):
        actual = actual.select(range(parameters.n))
    true = {t: space_groups(actual, t) for t in (TIGHT, 0.1)}
    rows, tables = [], []
    for mode in (m.strip() for m in parameters.modes.split(",")):
        config = with_fields(model.config.decoding, {"mode": mode, "particles": "cell"})
        made = reconstruct(model, actual, config, progress=progress)
        for tolerance in (0.0, *parameters.listed()):
            better = symmetrised(made, tolerance) if tolerance else made
            found = {t: space_groups(better.crystals, t) for t in true}
            right = {t: found[t] == true[t] for t in true}
            moved = [r["symmetry"]["moved"] for r in better.reports] if tolerance else [0.0]
            rows.append(
                {
                    "mode": mode,
                    "tolerance": tolerance,
                    "n": len(actual),
                    **{f"right_at_{t:g}_percent": 100 * r.mean() for t, r in right.items()},
                    "p1_at_0.01_percent": 100 * float(np.mean(found[TIGHT] <= 1)),
                    "moved": float(np.median(moved)),
                }
            )
            tables.append(
                pd.DataFrame(
                    {
                        "id": actual.ids,
                        "mode": mode,
                        "tolerance": tolerance,
                        "actual": true[TIGHT],
                        "decoded": found[TIGHT],
                    }
                )
            )
    return {"recovered": pd.DataFrame(rows), "groups": pd.concat(tables, ignore_index=True)}


def recovered_table(run: Path) -> pd.DataFrame:
    """Return what is recorded of a run, a row per mode and tolerance, with words."""
    table = recorded_analysis("symmetry", run).table("recovered")
    words = {
        "n": "crystals",
        "right_at_0.01_percent": "recovered at 0.01 Å, %",
        "right_at_0.1_percent": "recovered at 0.1 Å, %",
        "p1_at_0.01_percent": "P1 at 0.01 Å, %",
        "moved": "largest way of an atom, median, Å",
    }
    shown = table.set_index(["mode", "tolerance"])[[*words]].rename(columns=words)
    return shown.rename_axis(["decoding", "symmetrise, Å"]).round(3)
