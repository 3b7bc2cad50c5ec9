"""Records of benchmarks: results/benchmarks/<name>/<kind>.json (schema/benchmark.json)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nesf.data.dataset import Dataset
from nesf.data.streaming import StreamedDataset
from nesf.records import FORMAT, commit, environment, write_checked
from nesf.saved import identity


def write_benchmark(
    folder: Path,
    kind: str,
    dataset: Dataset | StreamedDataset,
    *,
    command: str,
    started: datetime,
    model: str | None = None,
    measured: Mapping[str, Any] | None = None,
    **content: Any,
) -> dict[str, Any]:
    """Write `<kind>.json` of a benchmark after it has ended, and return its content.

    Args:
        folder: `results/benchmarks/<name>`.
        command: what to type to repeat it.
        started: UTC.
        model: folder of the trained model, as in the command.
        measured: `environment` of the process that computed; None: of this one, on a CPU.
        content: the measurements.

    Raises:
        DataError: the content is not valid; the message says where.
    """
    record = {
        "format": FORMAT,
        "kind": kind,
        "command": command,
        "commit": commit(),
        "started": started.isoformat(timespec="seconds"),
        "wall_time_seconds": (datetime.now(UTC) - started).total_seconds(),
        **(measured or environment()),
        "dataset": identity(dataset),
        "model": model,
        **content,
    }
    write_checked(Path(folder) / f"{kind}.json", record, "benchmark")
    return record
