"""The workflow beyond one machine: what was run where, and a plan for ten million crystals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import pandas as pd
from matplotlib.figure import Figure

from nesf.config import PRESETS
from nesf.forms import read_form
from nesf_io.errors import DataError
from nesf_studies.page import RESULTS
from nesf_studies.speed import read_benchmark
from nesf_studies.style import ICSG3D, NESF, ORACLE, subplots

DAY = 86400.0
PLUGINS = ("snakemake-executor-plugin-slurm", "snakemake-executor-plugin-kubernetes")


class Job(TypedDict):
    """A job as Slurm lists it."""

    job: str
    what: str
    state: str


class Killed(Job):
    """The job that was killed, after `epoch` epochs."""

    epoch: int


class SlurmRecord(TypedDict):
    """What `scripts/single_node_slurm.py` records."""

    command: str
    commit: str
    started: str
    wall_time_seconds: float
    versions: dict[str, str]
    dataset: str
    runs: list[str]
    changes: dict[str, str]
    options: list[str]
    killed: Killed
    jobs: list[Job]
    resumed_after: int
    same_weights: bool
    table_rows: int


class Manifest(TypedDict):
    """A manifest that arrived at the stand-in, and what the API would refuse of it."""

    kind: str
    rule: str
    manifest: dict[str, Any]
    problems: list[str]


class KubernetesRecord(TypedDict):
    """What `scripts/kubernetes_manifests.py` records."""

    command: str
    commit: str
    started: str
    wall_time_seconds: float
    versions: dict[str, str]
    api: str
    manifests: list[Manifest]


def recorded_slurm() -> SlurmRecord:
    """Read the recorded run on Slurm.

    Raises:
        DataError: there is none, or it is broken.
    """
    remedy = "make it again with `make test-cluster OUT=results/workflow/slurm.json`"
    return read_form(RESULTS / "workflow" / "slurm.json", SlurmRecord, remedy)


def recorded_kubernetes() -> KubernetesRecord:
    """Read the recorded manifests for Kubernetes.

    Raises:
        DataError: there are none, or they are broken.
    """
    remedy = "make it again with scripts/kubernetes_manifests.py"
    return read_form(RESULTS / "workflow" / "kubernetes.json", KubernetesRecord, remedy)


def records_table(records: Mapping[str, SlurmRecord | KubernetesRecord]) -> pd.DataFrame:
    """Return how records came about, a column each, by title; text."""
    shown = ("slurm", "snakemake", "kubernetes", *PLUGINS)
    columns = {
        title: {
            "command": one["command"],
            "commit": one["commit"][:12],
            "started": one["started"],
            "minutes": f"{one['wall_time_seconds'] / 60:.1f}",
            "versions": ", ".join(f"{k} {v}" for k, v in one["versions"].items() if k in shown),
        }
        for title, one in records.items()
    }
    return pd.DataFrame(columns)


def jobs_table(record: SlurmRecord) -> pd.DataFrame:
    """Return the jobs of a recorded run on Slurm, in their order: rule, what for, state."""
    rows = []
    for one in record["jobs"]:
        rule, _, of = one["what"].partition("_wildcards_")
        again = one["what"] == record["killed"]["what"] and one["job"] != record["killed"]["job"]
        state = "completed" if one["state"] == "COMPLETED" else "killed"
        note = ", from its checkpoint" if again else ""
        rows.append((one["job"], rule, of.replace("_", " ") or "–", state + note))
    return pd.DataFrame(rows, columns=["job", "rule", "for", "ended"]).set_index("job")


def manifests_table(record: KubernetesRecord) -> pd.DataFrame:
    """Return what the recorded jobs ask a Kubernetes cluster for, a row a rule."""
    rows = {}
    for one in record["manifests"]:
        if one["kind"] != "jobs":
            continue
        (container,) = one["manifest"]["spec"]["template"]["spec"]["containers"]
        limits = container["resources"]["limits"]
        mounts = [m["mountPath"] for m in container["volumeMounts"] if m["name"] == "nesf"]
        rows[one["rule"]] = {
            "image": container["image"],
            "processors": limits["cpu"],
            "memory": limits["memory"],
            "GPUs": limits.get("nvidia.com/gpu", "–"),
            "volume": ", ".join(mounts),
            "by the schema": "; ".join(one["problems"]) or "valid",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("rule")


def measured_costs(benchmark: str = "cpu-lcs6") -> pd.Series:
    """Return what one crystal costs, from recorded benchmarks.

    Args:
        benchmark: folder of `results/benchmarks/` with `speed.json`.

    Returns:
        `bytes` on disk, and `write`, `encode`, `decode`
        (mode fast) and `train` (a crystal's share of a step, preset cpu) in seconds on one device
        of the benchmark.

    Raises:
        DataError: a measurement is not recorded.
    """
    timings = read_benchmark(RESULTS / "benchmarks" / benchmark, "speed")["timings"]
    seconds = {(t["group"], t["case"]): float(t["median"]) for t in timings}
    streamed = read_benchmark(RESULTS / "benchmarks" / "streaming", "streaming")["training"]
    written = [row for row in streamed if row["case"] == "written part by part"]
    try:
        largest = max(written, key=lambda row: row["crystals"])
        step = min(v for (g, _), v in seconds.items() if g == "training step, preset cpu")
        return pd.Series(
            {
                "bytes": largest["bytes_on_disk"] / largest["crystals"],
                "write": largest["seconds"] / largest["crystals"],
                "encode": seconds["encode", "ours"],
                "decode": seconds["decode", "fast"],
                "train": step / PRESETS["cpu"].training.batch_size,
            }
        )
    except (KeyError, ValueError) as error:
        raise DataError(f"results/benchmarks/{benchmark}: {error} is not measured") from None


def plan(
    costs: pd.Series, n_crystals: int, epochs: Sequence[int], devices: Sequence[int]
) -> pd.DataFrame:
    """Return how long the steps of a study of so many crystals take, in days.

    Args:
        costs: of `measured_costs`.
        n_crystals: in all splits.
        epochs: passes through the crystals; a row each.
        devices: as the one of the benchmark; a column each, sharing the work without loss.

    Returns:
        Rows: write, train for each number of epochs, encode, decode.
    """
    work = {"write the packed dataset": costs["write"]}
    work |= {f"train, {n:,} epoch{'s' if n > 1 else ''}": n * costs["train"] for n in epochs}
    work |= {"encode all": costs["encode"], "decode all, mode fast": costs["decode"]}
    days = {name: n_crystals * seconds / DAY for name, seconds in work.items()}
    return pd.DataFrame({n: {name: d / n for name, d in days.items()} for n in devices})


def plan_chart(
    costs: pd.Series, sizes: Sequence[int], n_epochs: int, devices: Sequence[int]
) -> Figure:
    """Draw the days of a training against the number of crystals, a line a number of devices."""
    figure, (ax,) = subplots(1, 5.6, 3.6)
    for n, colour in zip(devices, (NESF, ICSG3D, ORACLE), strict=False):
        days = [size * n_epochs * costs["train"] / DAY / n for size in sizes]
        ax.plot(sizes, days, color=colour, marker="o", label=f"{n:,} device{'s' * (n > 1)}")
    ax.axhline(1, color="black", linewidth=0.8, linestyle=":")
    ax.set(xscale="log", yscale="log", xlabel="crystals", ylabel=f"days, {n_epochs} epochs")
    ax.legend(frameon=False)
    return figure
