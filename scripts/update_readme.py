"""Write the table of README.md from the recorded runs; `--check` only compares, for the tests."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pandas as pd

from nesf.records import RecordedRun, all_runs
from nesf_studies.page import LABELS
from nesf_studies.paper import paper_table, table
from nesf_studies.record import PAPERS_NAME

ROOT = Path(__file__).resolve().parent.parent
SHOWN = tuple(LABELS)[:8]  # Table 1 and the match rate
TITLES = {
    "lcs6": "LCS6Å",
    "ybco": "YBCO-like",
    "icsg3d": "ICSG3D",
    "icsg3d-recovered": "ICSG3D, recovered 70 %",
}
RECORDED = ("lcs6", "ybco", "icsg3d-recovered")
N_FOLDS = 20


def results_table(runs: list[RecordedRun]) -> str:
    """Write the headline errors on the test split as Markdown: the paper's and ours, a row each.

    Each number of ours is a link to the folder of its runs; the paper's are in italics.
    """
    paper = paper_table().query("split == 'test' and method == 'nesf'")
    rows = [
        ["dataset, test split", "", *(LABELS[metric] for metric in SHOWN)],
        ["---"] * (len(SHOWN) + 2),
    ]
    targets = {}
    for dataset in RECORDED:
        published = PAPERS_NAME.get(dataset, dataset)
        cells = _cells(paper[paper["dataset"] == published])
        rows.append([TITLES[published], "paper", *(c if c == "–" else f"*{c}*" for c in cells)])
        same = [
            run
            for run in runs
            if run.run["dataset"]["name"] == dataset and run.run["method"] == "nesf"
        ]
        folds = sorted({run.run["dataset"]["fold"] for run in same} - {None})
        which = (
            f", fold {', '.join(map(str, folds))} only" if folds and len(folds) < N_FOLDS else ""
        )
        for preset, part in table(same, "test").groupby("preset", sort=False):
            key = f"{dataset}, {preset}"
            targets[key] = f"results/{dataset}/nesf/{preset}"
            label = f"ours, preset {preset} (n = {part['n'].max()}{which})"
            cells = [c if c == "–" else f"[{c}][{key}]" for c in _cells(part)]
            rows.append([TITLES[dataset], label, *cells])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", *(f"[{key}]: {path}" for key, path in targets.items())])


def _cells(rows: pd.DataFrame) -> list[str]:
    return list(rows.set_index("metric")["text"].reindex(SHOWN, fill_value="–"))


def updated(text: str, runs: list[RecordedRun]) -> str:
    """Return the README with its table made anew; trials are left to the pages of the book.

    Raises:
        SystemExit: the markers of the table are missing.
    """
    content = results_table([run for run in runs if not run.run["preset"].startswith("trial-")])
    pattern = re.compile(r"(<!-- results: [^\n]*-->\n).*?(<!-- end of results -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit("README.md: the markers of 'results' are missing")
    return pattern.sub(lambda found: f"{found[1]}{content}\n{found[2]}", text)


def main() -> int:
    """Update README.md, or with --check compare it."""
    path = ROOT / "README.md"
    old = path.read_text(encoding="utf-8")
    new = updated(old, all_runs(ROOT / "results"))
    if "--check" in sys.argv[1:]:
        if new != old:
            print("README.md does not agree with results/; run: python scripts/update_readme.py")
        return int(new != old)
    path.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
