"""`python -m benchmarks.streaming`: memory and speed of training from disk, against from memory."""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.records import write_benchmark
from benchmarks.setting import RECORDS, REPOSITORY
from nesf.config import PRESETS
from nesf.crystals import Crystals, standard_lattice
from nesf.data.dataset import load_packed
from nesf.data.streaming import PackedWriter, PaddedStream, StreamedDataset, open_streamed
from nesf.hardware import keep_freed_memory
from nesf.records import command_line, environment
from nesf.training import FieldTrainer

SIZES = (10_000, 100_000, 1_000_000)
PART = 10_000  # crystals in memory while the dataset is written
VALIDATION = 200
CONFIG = PRESETS["cpu"].with_values({"training.compile": False, "training.precision": "fp32"})
TURNS, STEPS = 4, 4  # streamed and in memory take turns, of so many steps


def synthetic(n: int, first: int) -> Crystals:
    """Return random crystals of 1 to 30 atoms, of which only the number means something."""
    random = np.random.default_rng(first)
    counts = random.integers(1, 31, n)
    lattice = standard_lattice(
        random.uniform(3, 6, (n, 3)), np.radians(random.uniform(80, 100, (n, 3)))
    )
    atoms = int(counts.sum())
    positions = np.einsum(
        "ni,nij->nj", random.random((atoms, 3)), np.repeat(lattice, counts, axis=0)
    )
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Crystals(
        tuple(f"s-{first + k}" for k in range(n)),
        positions,
        random.integers(1, 90, atoms),
        lattice,
        offsets,
    )


def memory(kind: str) -> int:
    """Return this process's memory, bytes: `RssAnon` (no mapped files) or `VmHWM` (peak); Linux."""
    found = re.search(rf"^{kind}:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def make(folder: Path, n: int) -> dict[str, Any]:
    """Write the dataset."""
    begin, anonymous = time.perf_counter(), 0
    with PackedWriter(folder, f"synthetic-{n}") as writer:
        writer.append("val", synthetic(VALIDATION, 10**9))
        for first in range(0, n, PART):
            writer.append("train", synthetic(min(PART, n - first), first))
            anonymous = max(anonymous, memory("RssAnon"))
    size = sum(p.stat().st_size for p in folder.iterdir())
    return {
        "seconds": time.perf_counter() - begin,
        "peak_anonymous_bytes": anonymous,
        "peak_memory_bytes": memory("VmHWM"),
        "bytes_on_disk": size,
    }


class Steps:
    """Steps of a training, and the most memory of the process seen so far."""

    def __init__(self, folder: Path, streamed: bool) -> None:
        begin = time.perf_counter()
        self.trainer = FieldTrainer(
            open_streamed(folder) if streamed else load_packed(folder), CONFIG
        )
        self.seconds_to_open, self.done, self.times = time.perf_counter() - begin, 0, list[float]()
        self.anonymous = memory("RssAnon")

    def take(self, n: int, timed: bool, epoch: int = 0) -> None:
        """Take n further steps."""
        for _ in range(n):
            begin = time.perf_counter()
            self.trainer.step(epoch, self.done % self.trainer.steps)
            if timed:
                self.times.append(time.perf_counter() - begin)
            self.done += 1
            self.anonymous = max(self.anonymous, memory("RssAnon"))

    def numbers(self) -> dict[str, Any]:
        """Return memory, bytes, and seconds, so far."""
        return {
            "seconds_to_open": self.seconds_to_open,
            "peak_anonymous_bytes": self.anonymous,
            "peak_memory_bytes": memory("VmHWM"),
        }


def stream(folder: Path) -> dict[str, Any]:
    """Take steps, a validation and steps of the next epoch, in a process that does only this."""
    steps = Steps(folder, True)
    steps.take(STEPS, False)
    steps.trainer.validate()
    assert isinstance(steps.trainer.train_split, PaddedStream)
    # as at the end of an epoch: nothing of it is announced any more
    steps.trainer.train_split.expect(())
    steps.take(STEPS, False, epoch=1)
    return steps.numbers()


def compare(folder: Path) -> dict[str, Any]:
    """Take the same steps in memory and streamed, in turn; the memory is that before streaming."""
    resident = Steps(folder, False)
    resident.take(STEPS, False)
    resident.trainer.validate()
    resident.take(STEPS, False)
    numbers = resident.numbers()
    streamed = Steps(folder, True)
    streamed.take(2 * STEPS, False)
    for _ in range(TURNS):
        resident.take(STEPS, True)
        streamed.take(STEPS, True)
    assert torch.equal(resident.trainer.sums, streamed.trainer.sums), (
        "streamed training differs from that in memory"
    )
    medians = {
        "resident": statistics.median(resident.times),
        "streamed": statistics.median(streamed.times),
    }
    return (
        numbers
        | {f"{k}_step_seconds": v for k, v in medians.items()}
        | {"environment": environment()}
    )


def child(task: str, folder: Path, n: int) -> dict[str, Any]:
    """Run one of the above in a process of its own."""
    words = [
        sys.executable,
        "-m",
        "benchmarks.streaming",
        "--task",
        task,
        "--folder",
        str(folder),
        "--crystals",
        str(n),
    ]
    done = subprocess.run(words, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(
    n: int, parent: Path | None
) -> tuple[list[dict[str, Any]], StreamedDataset, dict[str, Any]]:
    """Measure everything at one size; the crystals are deleted at the end."""
    with tempfile.TemporaryDirectory(dir=parent, prefix="nesf-streaming-") as temporary:
        folder = Path(temporary) / "data"
        made, streamed, resident = (
            child(task, folder, n) for task in ("make", "stream", "compare")
        )
        dataset, around = open_streamed(folder, check=False), resident.pop("environment")
    seconds: dict[str, float] = {
        kind: resident.pop(f"{kind}_step_seconds") for kind in ("resident", "streamed")
    }
    rows: list[dict[str, Any]] = [
        {"case": "written part by part", "crystals": n} | made,
        {"case": "streamed", "crystals": n}
        | streamed
        | {"step_seconds": seconds["streamed"], "steps_per_second": 1 / seconds["streamed"]},
        {"case": "in memory", "crystals": n}
        | resident
        | {"step_seconds": seconds["resident"], "steps_per_second": 1 / seconds["resident"]},
    ]
    rows[1]["speed_against_memory"] = seconds["resident"] / seconds["streamed"]
    for row in rows:
        print(
            f"{row['case']:22s} {n:11,d} crystals {row['peak_anonymous_bytes'] / 1e6:8.0f} MB of its own",
            end="",
        )
        print(
            f" {row['steps_per_second']:6.2f} steps/s"
            if "steps_per_second" in row
            else f" {row['seconds']:6.1f} s",
            flush=True,
        )
    return rows, dataset, around


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.streaming", description=(__doc__ or "").split(": ", 1)[1]
    )
    parser.add_argument(
        "--crystals",
        type=int,
        nargs="+",
        default=SIZES,
        metavar="N",
        help="sizes of the training split",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="for the synthetic crystals, which are deleted at the end (default: the system's temporary one)",
    )
    parser.add_argument(
        "--out", type=Path, default=RECORDS / "streaming", help="folder of the record"
    )
    parser.add_argument("--task", choices=("make", "stream", "compare"), help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.task:
        keep_freed_memory()
        work = {
            "make": lambda: make(options.folder, options.crystals[0]),
            "stream": lambda: stream(options.folder),
            "compare": lambda: compare(options.folder),
        }
        print(json.dumps(work[options.task]()))
        return
    started, rows = datetime.now(UTC), list[dict[str, Any]]()
    for n in options.crystals:
        new, dataset, around = measure(n, options.folder)
        rows += new
    grown = {}
    if len(options.crystals) > 1:
        for case in ("streamed", "in memory"):
            small, large = (
                next(r for r in rows if r["case"] == case and r["crystals"] == f(options.crystals))
                for f in (min, max)
            )
            grown[case] = (large["peak_anonymous_bytes"] - small["peak_anonymous_bytes"]) / (
                large["crystals"] - small["crystals"]
            )
            print(f"{case}: {grown[case]:.1f} bytes more for each crystal more")
    about: dict[str, Any] = {
        "command": command_line(words, ("python", "-m", "benchmarks.streaming")),
        "started": started,
        "measured": around,
    }
    write_benchmark(
        options.out, "streaming", dataset, **about, training=rows, bytes_a_crystal=grown
    )
    print(f"written: {options.out / 'streaming.json'}")


if __name__ == "__main__":
    main()
