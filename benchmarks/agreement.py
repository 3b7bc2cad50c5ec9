"""`python -m benchmarks.agreement`: do all modes of decoding find the plain algorithm's atoms?

Plain: fp32, every particle moves all 64 times, none stays, none is merged (`converged = 0`;
tests/test_benchmarks.py compares that with `benchmarks/plain.py`, which is too slow for a whole
dataset). Two decoded crystals disagree when they differ in the number of atoms, in a species, or in
a position by more than a tolerance.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.setting import decode_configs, parse
from nesf.config import ReconstructionConfig
from nesf.crystals import Crystals
from nesf.decode import reconstruct

TOLERANCE = 0.05  # Å


def compare(ours: Crystals, plain: Crystals) -> tuple[list[str], list[float]]:
    """Return the ids that disagree, and for others the largest distance of matching atoms, Å."""
    disagree, largest = [], []
    for i, name in enumerate(plain.ids):
        a, b = plain.positions[plain.atoms(i)], ours.positions[ours.atoms(i)]
        if len(a) != len(b):
            disagree.append(name)
        elif len(a):
            distances = np.linalg.norm(a[:, None] - b[None], axis=-1)
            nearest = distances.argmin(1)
            same_species = np.array_equal(
                plain.species[plain.atoms(i)], ours.species[ours.atoms(i)][nearest]
            )
            if (
                distances.min(1).max() > TOLERANCE
                or len(set(nearest.tolist())) < len(a)
                or not same_species
            ):
                disagree.append(name)
            else:
                largest.append(float(distances.min(1).max()))
    return disagree, largest


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""

    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--split",
            action="append",
            help="train, val or test; may be repeated (default: val and test)",
        )
        parser.add_argument(
            "--limit",
            type=int,
            metavar="N",
            help="only the first N crystals of each split, for a look",
        )

    options, setting = parse(
        "benchmarks.agreement",
        "Compare the modes of decoding with the plain algorithm.",
        arguments,
        more,
    )
    rows: list[dict[str, Any]] = []
    for split in options.split or ("val", "test"):
        crystals = setting.dataset.split(split)
        crystals = crystals.select(range(min(len(crystals), options.limit or len(crystals))))

        def decoded(
            config: ReconstructionConfig, crystals: Crystals = crystals
        ) -> tuple[Crystals, float]:
            begin = time.perf_counter()
            result = reconstruct(setting.model, crystals, config).crystals
            return result, (time.perf_counter() - begin) / len(crystals)

        plain, seconds = decoded(dataclasses.replace(ReconstructionConfig(), converged=0.0))
        rows.append(
            {
                "split": split,
                "case": "64 moves for every particle",
                "crystals": len(crystals),
                "seconds_per_crystal": seconds,
            }
        )
        for mode, config in decode_configs().items():
            ours, seconds = decoded(config)
            disagree, largest = compare(ours, plain)
            row = {
                "split": split,
                "case": mode,
                "crystals": len(crystals),
                "seconds_per_crystal": seconds,
                "disagree": len(disagree),
            }
            row |= {
                "largest_distance": max(largest, default=0.0),
                "tolerance": TOLERANCE,
                "ids": disagree,
            }
            rows.append(row)
            print(
                f"{split:5s} {mode:6s} {len(disagree)} of {len(crystals)} disagree, others within {row['largest_distance']:.1e} Å",
                end=", ",
            )
            print(f"{seconds:.4f} s a crystal", flush=True)
    print(f"written: {setting.write('agreement', agreement=rows)}")


if __name__ == "__main__":
    main()
