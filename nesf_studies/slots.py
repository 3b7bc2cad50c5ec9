"""Fields against slots: the same latent vectors of a trained model, decoded in both ways.

A slot decoder (`nesf_design.slots`) is trained on the model's frozen encoder; then a split is
decoded by the five steps and by the slots, each alone and made consistent, and by the five steps
with the slots as a second proposal where the first is not certified.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
import torch

from nesf.config import ReconstructionConfig
from nesf.crystals import Crystals, concatenate
from nesf.data.dataset import Dataset
from nesf.decode import decode_latent
from nesf.metrics import evaluate
from nesf.saved import TrainedModel
from nesf_design.slots import SlotConfig, confirmed, decode_slots, train_slots
from nesf_studies.page import TABLE1

ERRORS = (*TABLE1[:5], "match_rate_percent")


@dataclass(frozen=True)
class Parameters:
    """What is trained and decoded."""

    split: Literal["val", "test"] = "val"
    epochs: int = 100
    seed: int = 0


def analyse(
    model: TrainedModel, dataset: Dataset, parameters: Parameters, *, progress: bool = True
) -> dict[str, pd.DataFrame]:
    """Train the slot decoder and decode a split in each way.

    `slots`: a row a decoder, with `ERRORS` (%, Å), how many crystals are right in number of atoms
    and elements (`n_types_exact`), certified (missing: nothing is), and the `cpu_seconds` of
    decoding. `second`: the crystals that the five steps do not get certified, with number of atoms,
    true and by each decoder, and whether the slots' proposal is. `log`: of the training.
    """
    slots, log = train_slots(
        model, dataset, SlotConfig(epochs=parameters.epochs), seed=parameters.seed
    )
    crystals = dataset.split(parameters.split)
    z = model.encode(crystals)
    config = replace(ReconstructionConfig(), mode="consistent", particles="cell")
    plain = replace(config, mode="fast")
    made: dict[str, tuple[Crystals, np.ndarray | None, float]] = {}

    def timed(name: str, decode: Callable[[], tuple[Crystals, np.ndarray | None]]) -> None:
        begin = time.process_time()
        found, certified = decode()
        made[name] = (found, certified, time.process_time() - begin)

    timed("fields", lambda: (decode_latent(model, z, crystals.ids, plain).crystals, None))
    timed("slots", lambda: (decode_slots(slots, model, z, crystals.ids), None))
    timed("fields, consistent", lambda: confirmed(model, z, made["fields"][0], config))
    timed("slots, consistent", lambda: confirmed(model, z, made["slots"][0], config))
    first, certified, seconds = made["fields, consistent"]
    assert certified is not None
    left = np.flatnonzero(~certified)
    both, second, also = first, certified.copy(), 0.0
    if len(left):
        begin = time.process_time()
        again, repaired = confirmed(
            model, z[torch.as_tensor(left)], made["slots"][0].select(left), config
        )
        also = time.process_time() - begin
        second[left] = repaired
        # where neither is certified the fields' answer stands
        parts = {int(i): again.select([k]) for k, i in enumerate(left) if repaired[k]}
        both = concatenate([parts.get(i, first.select([i])) for i in range(len(crystals))])
    made["fields, then slots"] = (both, second, seconds + also)
    rows = [
        _row(name, crystals, found, known, seconds)
        for name, (found, known, seconds) in made.items()
    ]
    table = pd.DataFrame(rows).astype(dict.fromkeys(ERRORS, float) | {"n_certified": "Int64"})
    return {
        "slots": table,
        "second": pd.DataFrame(
            {
                "id": [crystals.ids[i] for i in left],
                "n_atoms": crystals.n_atoms[left],
                "fields": made["fields"][0].n_atoms[left],
                "slots": made["slots"][0].n_atoms[left],
                "certified": second[left],
            }
        ),
        "log": log,
    }


def _row(
    name: str, actual: Crystals, found: Crystals, certified: np.ndarray | None, seconds: float
) -> dict[str, object]:
    metrics = evaluate(actual, found)
    materials = metrics.materials
    exact = (materials["n_atoms_actual"] == materials["n_atoms_detected"]) & (
        materials["species_error_actual_percent"] == 0
    )
    return {
        "decoder": name,
        "n_crystals": len(actual),
        **{error: metrics.summary[error] for error in ERRORS},
        "n_types_exact": int(exact.sum()),
        "n_certified": None if certified is None else int(certified.sum()),
        "cpu_seconds": seconds,
    }
