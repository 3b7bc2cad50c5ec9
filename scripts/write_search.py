"""Write the search of Supplementary Note 7 as configurations of the workflow.

python scripts/write_search.py
snakemake --cores 2 table1 --configfile workflow/search/starter.yaml
snakemake table1 --profile workflow/profiles/slurm --configfile workflow/search/lcs6.yaml

One step after the other, each from the winners that are recorded of the steps before, as in the
paper: the next step with `--next`, then the workflow, and again.

python scripts/write_search.py --next starter
snakemake --cores 2 table1 --configfile build/search-starter.yaml
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from nesf.files import write_atomically
from nesf.records import all_runs
from nesf_studies.search import Winners, entries, followed, steps, unchanged

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "workflow" / "search"
SMALL = {
    "training.epochs": 20,
    "training.compile": False,
    "sampling.n_position": 48,
    "sampling.n_species": 24,
    # what the preset `cpu` drew when the search was run
    "sampling.global_region": "box",
    "sampling.local_sigma": 0.15,
    "sampling.species_range": 0.6,
    "sampling.species_sigma": 0.05,
    "sampling.half_open": True,
}
SEARCHES: dict[str, tuple[str, dict[str, Any]]] = {
    "starter": (
        "Steps 1 to 7 at small size: the embedded dataset, 20 epochs a candidate on half of the usual queries. For two processor cores. It shows how a search is run; with so few\n"
        "# epochs the winners say little about long trainings. Not compiled: that would take longer than the training.",
        {"dataset": "starter", "preset": "cpu", "numbers": range(1, 8), "further": SMALL},
    ),
    "lcs6": (
        "All eight steps as in the paper: LCS6Å, the paper's sampling and schedule (3200 epochs a candidate). For a cluster with GPUs.",
        {"dataset": "lcs6", "preset": "paper"},
    ),
}


def text_of(name: str, winners: Winners | None = None) -> str:
    """Return a configuration, a run a line; with the winners of some steps the next step alone."""
    comment, arguments = SEARCHES[name]
    if winners is not None:
        comment = f"Step {len(winners) + 1}, from the winners of those before."
        arguments = arguments | {"numbers": [len(winners) + 1], "winners": winners}
    listed = entries(**arguments)
    if winners is None:
        listed.append(
            unchanged(
                arguments["dataset"], preset=arguments["preset"], further=arguments.get("further")
            )
        )
    lines = [f"  - {json.dumps(entry)}" for entry in listed]
    head = f"# Written by scripts/write_search.py from nesf_studies/search_steps.json (Supplementary Note 7).\n# {comment}\n"
    return head + "runs: []\npredictors: []\nmore:\n" + "\n".join(lines) + "\n"


def write_next(name: str, results: Path = ROOT / "results", out: Path | None = None) -> Path | None:
    """Write the next step of a search one step after the other; None where all are recorded."""
    winners = followed(all_runs(results), name)
    if len(winners) == max(SEARCHES[name][1].get("numbers", [s.number for s in steps()])):
        return None
    path = out or ROOT / "build" / f"search-{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text_of(name, winners))
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--next",
        choices=SEARCHES,
        help="write the next step of this search alone, from the winners recorded of those before",
    )
    next_of = parser.parse_args().next
    if next_of:
        written = write_next(next_of)
        print(
            f"written: {written.relative_to(ROOT)}"
            if written
            else f"{next_of}: all steps are recorded"
        )
    else:
        for name in SEARCHES:
            write_atomically(FOLDER / f"{name}.yaml", text_of(name))
            print(f"written: workflow/search/{name}.yaml, {text_of(name).count('  - ')} runs")
