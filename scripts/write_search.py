"""Write the search of Supplementary Note 7 as configurations of the workflow: `python scripts/write_search.py`.

snakemake --cores 2 table1 --configfile workflow/search/starter.yaml
snakemake table1 --profile workflow/profiles/slurm --configfile workflow/search/lcs6.yaml
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nesf.analysis.search import entries
from nesf.files import write_atomically

FOLDER = Path(__file__).resolve().parent.parent / "workflow" / "search"
SMALL = {"training.epochs": 20, "training.compile": False, "sampling.n_position": 48, "sampling.n_species": 24}
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


def text_of(name: str) -> str:
    """Content of one file: YAML with one run a line."""
    comment, arguments = SEARCHES[name]
    lines = [f"  - {json.dumps(entry)}" for entry in entries(**arguments)]
    head = f"# Written by scripts/write_search.py from nesf/analysis/search_steps.json (Supplementary Note 7).\n# {comment}\n"
    return head + "runs: []\npredictors: []\nmore:\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    for name in SEARCHES:
        write_atomically(FOLDER / f"{name}.yaml", text_of(name))
        print(f"written: workflow/search/{name}.yaml, {text_of(name).count('  - ')} runs")
