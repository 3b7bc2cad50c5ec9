"""The workflow beyond one machine: what is recorded of it, the plan, and a machine without Slurm."""

from __future__ import annotations

import pandas as pd
import pytest

from nesf_studies.cluster import (
    jobs_table,
    manifests_table,
    measured_costs,
    plan,
    recorded_kubernetes,
    recorded_slurm,
)
from scripts import single_node_slurm
from scripts.kubernetes_manifests import RULES, problems


def test_the_recorded_job_was_killed_and_went_on_from_its_checkpoint() -> None:
    record = recorded_slurm()
    killed = record["killed"]
    ended = [job["state"] for job in record["jobs"] if job["what"] == killed["what"]]
    assert ended[0] in ("CANCELLED", "FAILED") and ended[1:] == ["COMPLETED"]
    assert 0 < killed["epoch"] <= record["resumed_after"]
    assert record["same_weights"] and record["table_rows"] > 0
    table = jobs_table(record)
    assert list(table["ended"]).count("killed") == 1
    assert list(table["ended"]).count("completed, from its checkpoint") == 1
    assert {"train", "reconstruct", "evaluate", "predict", "aggregate"} <= set(table["rule"])


def test_recorded_manifests_are_those_that_the_api_takes() -> None:
    record = recorded_kubernetes()
    for one in record["manifests"]:
        assert problems(one["kind"], one["manifest"]) == one["problems"] == []
    table = manifests_table(record)
    assert set(table.index) == set(RULES)
    assert table.loc["train", "GPUs"] == "1" and table.loc["predict", "GPUs"] == "–"


def test_a_plan_is_costs_times_crystals_shared_by_devices() -> None:
    costs = pd.Series(
        {"bytes": 500, "write": 0, "encode": 0.0864, "decode": 0.864, "train": 0.0864}
    )
    days = plan(costs, 10**6, epochs=(1, 10), devices=(1, 2))
    assert days.loc["encode all"].tolist() == pytest.approx([1, 0.5])
    assert days.loc["train, 10 epochs"].tolist() == pytest.approx([10, 5])
    assert days.loc["decode all, mode fast"].tolist() == pytest.approx([10, 5])
    measured = measured_costs()
    assert 100 < measured["bytes"] < 10_000 and (measured > 0).all()
    assert measured["encode"] < measured["train"] < measured["decode"]


def test_without_slurm_the_packages_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(single_node_slurm.shutil, "which", lambda name: None)
    assert single_node_slurm.main([]) == 2
    assert "slurmctld" in (said := capsys.readouterr().err) and "apt install munge" in said
