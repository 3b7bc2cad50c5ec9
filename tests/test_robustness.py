"""A small share of the campaign against bad input and faults, and whether it would notice them."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nesf.data.files import read_structures
from nesf.records import read_record
from nesf_io.errors import DataError
from nesf_studies.robustness import (
    campaign_table,
    campaigns_compared,
    inputs_table,
    recorded_campaign,
    recorded_inputs,
    recorded_newcomer,
    transcript,
)
from robustness import inputs as odd
from robustness import mutate, newcomer
from robustness.runner import FAULTS, Case, forked, full_disk, nesf, run_case, snapshot, still_there

ROOT = Path(__file__).resolve().parents[1]
RECORDED = sorted((ROOT / "results" / "robustness").glob("**/campaign.json"))


def test_a_share_of_the_campaign_finds_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "robustness", "--share", "0.02", "--out", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-2000:]
    record = read_record(tmp_path / "campaign.json", "robustness")
    counts = {row["kind"]: row["inputs"] for row in record["rows"]}
    assert counts["structure files"] == 40 and counts["models and records"] == 6
    assert len(counts) == 7 and min(counts.values()) >= 1 and not record["failures"]


def _raises() -> None:
    raise AttributeError("'list' object has no attribute 'get'")


def _executes() -> None:
    pickle.loads(pickle.dumps(mutate.Payload()))


def _loses() -> None:
    Path("mine.txt").write_text("a")
    before = snapshot(Path())
    Path("mine.txt").write_text("b")
    still_there(before, Path())


@pytest.mark.parametrize(
    ("does", "fault"),
    [
        (_raises, "crash"),
        (_executes, "executed"),
        (_loses, "lost"),
        (lambda: time.sleep(300), "hang"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "crash"),
        (lambda: None, None),
    ],
)
def test_the_campaign_notices(does: Callable[[], None], fault: str | None) -> None:
    def body(work: Path, random_: random.Random) -> str:
        does()
        return ""

    failure = run_case(Case("planted", 3, body, limit=1))
    assert (failure and (failure.fault, failure.seed)) == (fault and (fault, 3))
    assert fault is None or fault in FAULTS


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError("deep"), ValueError("bad")])
def test_a_traceback_of_a_command_is_noticed(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def main(words: list[str]) -> int:
        raise error

    monkeypatch.setattr("nesf_cli.main.main", main)
    failure = run_case(Case("planted", 0, lambda work, _: str(nesf("data", "list")), limit=30))
    assert failure is not None and failure.fault == "traceback"
    assert type(error).__name__ in failure.detail


def test_the_disk_is_full_for_the_case_alone(tmp_path: Path) -> None:
    def fill() -> None:
        full_disk(tmp_path, 8192)
        try:
            (tmp_path / "large").write_bytes(bytes(100_000))
        except OSError:
            return
        raise AssertionError("nothing has stopped it")

    assert os.waitpid(forked(fill), 0)[1] == 0
    (tmp_path / "large").write_bytes(bytes(100_000))


def test_damage_is_the_same_for_the_same_seed_and_differs_from_the_original() -> None:
    original = json.dumps({"a": [1, 2, {"b": "c"}], "d": 0.5})
    made = [
        [mutate.json_text(random.Random(seed), original) for seed in range(50)] for _ in range(2)
    ]
    assert made[0] == made[1]
    assert len(set(made[0])) > 30 and sum(m == original.encode() for m in made[0]) < 5


@pytest.mark.parametrize("path", RECORDED, ids=[p.parent.name for p in RECORDED])
def test_the_recorded_campaign_is_whole_and_nothing_is_lost(path: Path) -> None:
    record = read_record(path, "robustness")
    counts = {row["kind"]: row["inputs"] for row in record["rows"]}
    assert counts["structure files"] >= 2000 and counts["models and records"] >= 300
    assert counts["kills in training"] >= 50
    assert not record["failures"]


REFUSED = {"no_such_group.cif", "no_element.cif", "negative.vasp", "billion.vasp"}


@pytest.mark.parametrize("name", sorted(odd.inputs()))
def test_odd_inputs_are_read_or_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    _, content = odd.inputs()[name]
    (tmp_path / name).write_bytes(content)
    if name in REFUSED:
        with pytest.raises(DataError, match=name):
            read_structures(tmp_path / name)
        return
    crystals, _, notes = read_structures(tmp_path / name)
    n_atoms = {"two_blocks.cif": [8, 8], "blocks_of_one_name.cif": [8] * 3, "primitive.cif": [2]}
    n_atoms |= {"body_centred.cif": [1], "vacuum.cif": [1], "caesium.cif": [2], "rounded.cif": [2]}
    n_atoms |= {"empty_site.cif": [1], "structure.json": [2]}
    assert crystals.n_atoms.tolist() == n_atoms.get(name, [8])
    said = " ".join(note.text for note in notes)
    changed = {"deuterium.cif": "hydrogen", "empty_site.cif": "occupancy 0"}
    assert changed.get(name, "") in said


def test_what_is_recorded_of_odd_inputs_and_of_a_newcomer_is_what_must_be() -> None:
    outcomes = recorded_inputs()["outcomes"]
    assert [one["file"] for one in outcomes] == list(odd.inputs())
    assert {one["file"] for one in outcomes if one["exit_code"] == 2} == REFUSED
    assert not any("Traceback" in one["said"] for one in outcomes)
    table = inputs_table(recorded_inputs())
    assert (table["comes back"] == "refused").sum() == len(REFUSED) and table["said"].all()
    steps = recorded_newcomer()["steps"]
    assert [(step["command"], step["exit_code"]) for step in steps] == list(newcomer.COMMANDS)
    shown = transcript([{**steps[0], "command": "a < b", "printed": "<i>"}])
    assert "a &lt; b" in shown and "&lt;i&gt;" in shown


def test_campaigns_are_counted_by_kind() -> None:
    row = {"kind": "full disk", "inputs": 60, "seconds": 1.0, "faults": {"lost": 1, "left": 2}}
    table = campaign_table({"rows": [row]})
    assert table.loc["all", "inputs"] == 60 and table.loc["full disk", "leftovers"] == 2
    both = campaigns_compared({"before": {"rows": [row]}, "now": recorded_campaign()})
    assert both.loc["full disk", "before"] == "3 of 60"
