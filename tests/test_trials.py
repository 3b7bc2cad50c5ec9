"""Controlled runs: what was changed, and how large the effect is beside the spread of seeds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from nesf.config import CPU
from nesf.errors import DataError
from nesf.records import RecordedRun
from nesf_studies.analysis.trials import ERRORS, changed, effects


def run(label: str, atoms: float, seed: int = 0, dataset: str = "lcs6", split: str = "val", **settings: Any) -> RecordedRun:
    config = CPU.with_values({key.replace("__", "."): value for key, value in settings.items()}).to_dict()
    about = {"dataset": {"name": dataset}, "method": "nesf", "preset": label, "seed": seed, "config": config, "wall_time_seconds": {"train": 120.0}}
    return RecordedRun(Path("r"), about, {split: dict.fromkeys(ERRORS, atoms)})


def test_effects_are_measured_in_spreads_of_the_reference() -> None:
    runs = [
        run("short-wide", 13.0, sampling__local_sigma=0.5),
        run("short", 10.0),
        run("short", 12.0, seed=1),
        run("shorter", 99.0),
        run("short-other", 99.0, dataset="starter"),
        run("short-test", 99.0, split="test"),
    ]
    table = effects(runs, "lcs6", "short")
    assert table.index.tolist() == ["short", "short-wide"] and table["n"].tolist() == [2, 1] and table["minutes"].tolist() == [2.0, 2.0]
    assert table["changed"].tolist() == ["", "local_sigma: 0.15 → 0.5"]
    assert table[ERRORS[0]].tolist() == [11.0, 13.0]
    shift = table[f"{ERRORS[0]} shift"].tolist()
    assert math.isnan(shift[0]) and shift[1] == pytest.approx(math.sqrt(2))
    assert effects(runs[:2], "lcs6", "short")[f"{ERRORS[0]} shift"].isna().all()  # one seed has no spread


def test_without_the_reference_nothing_is_compared() -> None:
    with pytest.raises(DataError, match=r"lcs6: no run with the label 'short' is recorded with its test split"):
        effects([run("short-wide", 1.0), run("short", 1.0)], "lcs6", "short", split="test")


def test_all_changes_are_named() -> None:
    text = changed(run("a", 1.0), run("b", 1.0, sampling__half_open=False, sampling__global_share=None, model__latent_size=64))
    assert text == "latent_size: 192 → 64; half_open: true → false; global_share: 0.5 → none"
