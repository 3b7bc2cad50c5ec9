"""`python -m benchmarks`: time everything, print the table, and record it with its parts."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.setting import PLAIN, REPOSITORY, Setting, parse

PARTS = ("speed", "scaling", "profile")


def timings_of(benchmarks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Put the turns of each case together, with its ratio to the plain case of its group.

    Args:
        benchmarks: the list of that name in pytest-benchmark's JSON.

    Returns:
        As schema/benchmark.json has them; seconds per unit.
    """
    turns: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for one in benchmarks:
        turns.setdefault((one["group"], one["extra_info"]["case"]), []).append(one)
    seconds = {
        key: [s / one["extra_info"]["per"] for one in parts for s in one["stats"]["data"]]
        for key, parts in turns.items()
    }
    timings = []
    for (group, case), parts in turns.items():
        own, plain = seconds[group, case], seconds.get((group, PLAIN))
        info = parts[0]["extra_info"]
        timing = {
            "group": group,
            "case": case,
            "unit": info["unit"],
            "minimum": min(own),
            "median": statistics.median(own),
            "rounds": len(own),
            "turns": len(parts),
            "ratio": statistics.median(plain) / statistics.median(own) if plain else None,
            "ratio_of_minima": min(plain) / min(own) if plain else None,
            "detail": {k: v for k, v in info.items() if k not in ("case", "unit", "per")},
        }
        timings.append(timing)
    return timings


def table_of(timings: Sequence[Mapping[str, Any]]) -> str:
    """Return group, case, seconds and ratio to the plain reference as text."""
    rows = [("what", "case", "seconds", "per", "times plain's speed")]
    for t in timings:
        rows.append(
            (
                t["group"],
                t["case"],
                f"{t['median']:.3g}",
                t["unit"],
                f"{t['ratio']:.1f}" if t["ratio"] else "–",
            )
        )
    widths = [max(len(row[k]) for row in rows) for k in range(5)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def speed(setting: Setting, options: Any) -> None:
    """Run benchmarks/test_speed.py in a process, and so memory, of its own; print and record."""
    shared = [
        f"--{k}={v}"
        for k in ("data", "dataset", "fold", "model", "device", "threads", "turns")
        if (v := getattr(options, k)) is not None
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "speed.json"
        quiet = [
            "-q",
            "--no-header",
            "-p",
            "no:cacheprovider",
            "--benchmark-quiet",
            "--benchmark-columns=median",
        ]
        selection = ["-k", options.select] if options.select else []
        tests = str(REPOSITORY / "benchmarks" / "test_speed.py")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-W",
            "default",  # in the tests warnings are errors, which would stop torch.compile
            tests,
            f"--rootdir={REPOSITORY}",
            *quiet,
            f"--benchmark-json={file}",
            *selection,
            *shared,
        ]
        code = subprocess.run(command, cwd=REPOSITORY).returncode
        if code:
            raise SystemExit(code)
        content = json.loads(file.read_text(encoding="utf-8"))
    timings = timings_of(content["benchmarks"])
    print(f"\n{table_of(timings)}\n")
    print(f"written: {setting.write('speed', measured=content['environment'], timings=timings)}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""

    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--only",
            nargs="+",
            choices=PARTS,
            default=PARTS,
            metavar="PART",
            help=f"of {', '.join(PARTS)}",
        )
        parser.add_argument(
            "--turns",
            type=int,
            default=3,
            metavar="N",
            help="how often the cases of a group take turns",
        )
        parser.add_argument(
            "--select",
            default="",
            metavar="WORDS",
            help="of the speed measurements, as pytest's -k; for a look, not for a record",
        )

    options, setting = parse(
        "benchmarks",
        "Time training and decoding against the plain reference, and record it.",
        arguments,
        more,
    )
    if "speed" in options.only:
        speed(setting, options)
    shared = [
        f"--{k}={v}"
        for k in ("data", "dataset", "fold", "model", "device", "threads")
        if (v := getattr(options, k)) is not None
    ]
    for part, module in (("scaling", "benchmarks.scaling"), ("profile", "benchmarks.profile_step")):
        if part in options.only:
            subprocess.run(
                [sys.executable, "-m", module, *shared, "--out", str(setting.out)], check=True
            )


if __name__ == "__main__":
    main()
