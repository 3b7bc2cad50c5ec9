"""`python -m benchmarks.consistent`: what a certificate costs, beside the five steps alone.

All cases decode the same crystals, a few at a time and in turn, so that a busy machine disturbs
them alike. `processor_seconds`: of all threads of this process, which other programs do not lengthen.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.setting import parse, spread
from nesf.config import ReconstructionConfig
from nesf.decode import reconstruct

TOGETHER = 32  # crystals decoded in one call


def cases(config: ReconstructionConfig) -> dict[str, ReconstructionConfig]:
    """Return what is timed: the five steps, exact and fast, and consistent decoding in parts."""
    consistent = dataclasses.replace(config, mode="consistent")
    return {
        "five steps, exact": dataclasses.replace(config, mode="exact"),
        "five steps, fast": dataclasses.replace(config, mode="fast"),
        "consistent, without the search": dataclasses.replace(consistent, search_rounds=0),
        "consistent": consistent,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""

    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--split", default="test", help="train, val or test (default: test)")
        parser.add_argument(
            "--limit", type=int, metavar="N", help="only N crystals, evenly over the split"
        )

    options, setting = parse(
        "benchmarks.consistent", "Time consistent decoding beside the five steps.", arguments, more
    )
    crystals = setting.dataset.split(options.split)
    crystals = crystals.select(spread(len(crystals), options.limit or len(crystals)))
    rows: dict[str, dict[str, Any]] = {}
    for start in range(0, len(crystals), TOGETHER):
        part = crystals.select(range(start, min(start + TOGETHER, len(crystals))))
        for name, config in cases(setting.model.config.decoding).items():
            wall, processor = time.perf_counter(), time.process_time()
            made = reconstruct(setting.model, part, config)
            setting.finish()
            row = rows.setdefault(
                name, {"case": name, "seconds": 0.0, "processor_seconds": 0.0, "certified": 0}
            )
            row["seconds"] += time.perf_counter() - wall
            row["processor_seconds"] += time.process_time() - processor
            row["certified"] += sum(
                report.get("certificate", {}).get("certified", False) for report in made.reports
            )
    for row in rows.values():
        row["crystals"] = len(crystals)
        for key in ("seconds", "processor_seconds"):
            row[f"{key}_per_crystal"] = row.pop(key) / len(crystals)
        print(
            f"{row['case']:32s} {row['seconds_per_crystal']:.3f} s a crystal, {row['processor_seconds_per_crystal']:.3f} s of a processor; {row['certified']} of {len(crystals)} certified"
        )
    print(f"written: {setting.write('consistent', split=options.split, decoding=[*rows.values()])}")


if __name__ == "__main__":
    main()
