"""The workflow's jobs for Kubernetes: the real manifests of Snakemake's executor, against the API's
schema."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts.kubernetes_manifests import RULES, problems, rule_of, submitted


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    received = submitted(tmp_path_factory.mktemp("kubernetes"))
    assert not [text for kind, manifest in received for text in problems(kind, manifest)]
    return {rule_of(manifest): manifest for kind, manifest in received if kind == "jobs"}


def container(job: Any) -> Any:
    return job["spec"]["template"]["spec"]["containers"][0]


def test_trainings_ask_for_a_gpu_and_all_jobs_see_the_volume(jobs: dict[str, Any]) -> None:
    assert set(jobs) == set(RULES)
    limits = {rule: container(job)["resources"]["limits"] for rule, job in jobs.items()}
    assert limits["train"]["nvidia.com/gpu"] == "1" and limits["train"]["memory"] == "16000M"
    assert "nvidia.com/gpu" not in limits["predict"]
    for job in jobs.values():
        mounts = {m["name"]: m["mountPath"] for m in container(job)["volumeMounts"]}
        claims = [
            v.get("persistentVolumeClaim") for v in job["spec"]["template"]["spec"]["volumes"]
        ]
        assert mounts["nesf"] == "/nesf" and {"claimName": "nesf"} in claims
        assert container(job)["image"] == "nesf:0.1.0"
        # a job starts in the clone on the volume, where the workflow is
        start, _, command = container(job)["args"][1].partition(" && ")
        assert Path(start.removeprefix("cd ")).name == "repository"
        shared = command.split("--shared-fs-usage ")[1].split(" --")[0]
        assert {"input-output", "persistence", "sources"} <= set(shared.split())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda job: container(job).update(memory="1G"), "'memory' was unexpected"),
        (lambda job: job["spec"].update(backoffLimit="none"), "'none' is not of type"),
        (lambda job: container(job).pop("name"), "'name' is a required property"),
        (lambda job: container(job)["resources"].pop("limits"), "limits['nvidia.com/gpu']"),
    ],
)
def test_a_wrong_manifest_is_refused(
    jobs: dict[str, Any], change: Callable[[Any], Any], said: str
) -> None:
    job = copy.deepcopy(jobs["train"])
    change(job)
    assert said in problems("jobs", job)[0]
