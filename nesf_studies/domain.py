"""How well the domain flag and the certificate tell failures, on crystals of several datasets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from nesf.config import with_fields
from nesf.crystals import Crystals
from nesf.data import load
from nesf.data.dataset import Dataset
from nesf.decode import reconstruct
from nesf.domain import in_cell, outside
from nesf.metrics import evaluate, is_right
from nesf.saved import TrainedModel
from nesf_io.errors import DataError
from nesf_studies.record import recorded_analysis
from nesf_studies.trust import wilson


@dataclass(frozen=True)
class Parameters:
    """Which held-out crystals are decoded, and how."""

    others: str = "icsg3d-recovered, perov5-third, mp20-binary-ternary"  # beside the model's own
    data: str = ""  # folder of these datasets; empty: the user's data folder
    split: Literal["val", "test"] = "test"
    n: int = 30  # crystals of each dataset, drawn at random
    seed: int = 0  # of the draw
    mode: Literal["exact", "fast", "consistent"] = "consistent"  # of decoding


def analyse(
    model: TrainedModel, dataset: Dataset, parameters: Parameters, *, progress: bool = True
) -> dict[str, pd.DataFrame]:
    """Reconstruct held-out crystals of the model's dataset and of others as own structures are.

    Crystals whose id is in the model's training split, or with an element that the model has no
    number for (they are refused), are left out.

    `crystals`: a row a crystal: `dataset`, `id`, `outside` (in what it is outside the training
    domain, in words; empty: inside), `certified` and `latent_distance` where the mode gives them,
    `n_atoms` (found), `matched` (StructureMatcher, against the crystal in the cell that was
    encoded) and `exact` (all atoms and elements right, positions within 0.01 Å).

    Raises:
        DataError: a dataset is missing, or has no crystal that is new to the model.
    """
    names = [name.strip() for name in parameters.others.split(",") if name.strip()]
    folder = Path(parameters.data) if parameters.data else None
    datasets = [dataset, *(load(name, data_dir=folder) for name in names)]
    config = with_fields(model.config.decoding, {"mode": parameters.mode})
    seen, tables = {*dataset.split("train").ids}, []
    for each in datasets:
        given = _drawn(each.split(parameters.split), model, seen, parameters)
        if not len(given):
            raise DataError(
                f"{each.name}: all of its {parameters.split} crystals were seen in training or cannot be read; choose other datasets"
            )
        used, _ = in_cell(given, "auto", model.domain)
        made = reconstruct(model, used, config, progress=progress)
        materials = evaluate(used, made.crystals).materials
        certificates = [report.get("certificate") or {} for report in made.reports]
        tables.append(
            pd.DataFrame(
                {
                    "dataset": each.name,
                    "id": used.ids,
                    "outside": ["; ".join(reasons) for reasons in outside(used, model.domain)],
                    "certified": [c.get("certified") for c in certificates],
                    "latent_distance": [c.get("latent_distance", np.nan) for c in certificates],
                    "n_atoms": materials["n_atoms_detected"].to_numpy(),
                    "matched": materials["matched"].to_numpy(bool),
                    "exact": is_right(materials).to_numpy(bool),
                }
            )
        )
    return {"crystals": pd.concat(tables, ignore_index=True)}


def _drawn(
    crystals: Crystals, model: TrainedModel, seen: set[str], parameters: Parameters
) -> Crystals:
    """Return crystals at random, without those that the model has seen or refuses to read."""
    known = [
        i
        for i, name in enumerate(crystals.ids)
        if name not in seen and {*crystals.species[crystals.atoms(i)]} <= {*model.vocabulary}
    ]
    rows = np.random.default_rng(parameters.seed).permutation(known)[: parameters.n]
    return crystals.select(sorted(rows.tolist()))


def domain_signals(run: Path) -> pd.DataFrame:
    """Return what is recorded of a run as signals and outcomes, for `trust.roc`.

    `outside` becomes the domain flag: 1 outside, 0 inside; a crystal with a certificate has its
    latent distance.
    """
    table = recorded_analysis("domain", run).table("crystals")
    return table.assign(outside=table["outside"].notna().astype(float))


def domain_reliability(table: pd.DataFrame) -> pd.DataFrame:
    """Return how many crystals are right, a row a dataset, flag and verdict of the certificate.

    `match` and `exact` with 95 % interval of the share (Wilson), in text; `crystals`: how many.
    """
    flag = table["outside"].map({0.0: "inside", 1.0: "outside"})
    verdict = table["certified"].map(lambda c: "certified" if c else "not certified")
    every = pd.Series("all", index=table.index)
    rows = {}
    for keys in ([table["dataset"], flag, every], [every, flag, every], [every, flag, verdict]):
        for key, part in table.groupby(keys, sort=False):
            rows[key] = {
                "crystals": len(part),
                "match, %": _share(part["matched"]),
                "exact, %": _share(part["exact"]),
            }
    index = pd.MultiIndex.from_tuples([*rows], names=["dataset", "training domain", "certificate"])
    return pd.DataFrame([*rows.values()], index=index)


def _share(right: pd.Series) -> str:
    share = float(right.mean())
    low, high = wilson(share, len(right), z=1.96)
    return f"{100 * share:.0f} ({max(100 * low, 0):.0f} to {100 * high:.0f})"
