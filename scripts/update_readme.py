"""Write the tables of README.md from the recorded runs: `python scripts/update_readme.py` (`--check` only compares, for the tests)."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from nesf.methods import METHODS
from nesf.records import RecordedRun, all_runs, seconds
from nesf_studies.pages import LABELS
from nesf_studies.paper import paper_table, table

ROOT = Path(__file__).resolve().parent.parent
SHOWN = (
    "number_of_atoms_error_percent",
    "position_error_actual_angstrom",
    "position_error_detected_angstrom",
    "species_error_actual_percent",
    "species_error_detected_percent",
    "lattice_length_error_angstrom",
    "lattice_angle_error_degree",
    "match_rate_percent",
)
TITLES = {"starter": "starter (embedded)", "lcs6": "LCS6Å", "ybco": "YBCO-like", "icsg3d": "ICSG3D", "icsg3d-recovered": "ICSG3D, recovered 70 %"}
NAMES = {
    "nesf": "ours",
    "icsg3d": "ICSG3D, written anew",
    "icsg3d-oracle": "ICSG3D's true maps segmented (oracle)",
    "copy": "copy of the nearest training crystal",
    "constant": "constant",
    "oracle": "oracle (ground-truth fields decoded)",
}

ORDER = [*NAMES, *(m for m in METHODS if m not in NAMES)]


def results_table(runs: list[RecordedRun]) -> str:
    """Test split: paper, ours, trivial predictors and oracle, a row each; mean ± standard deviation over n runs."""
    recorded, paper = table(runs, "test"), paper_table().query("split == 'test' and method == 'nesf'")
    lines = ["| dataset, test split | | " + " | ".join(LABELS[k] for k in SHOWN) + " |", "|" + "---|" * (len(SHOWN) + 2)]
    for dataset in [d for d in TITLES if d in set(recorded["dataset"])]:
        # Predictors are compared on the folds that ours has been recorded on, not on others.
        folds = {r.run["dataset"]["fold"] for r in runs if r.run["dataset"]["name"] == dataset and r.run["method"] == "nesf"}
        same = table([r for r in runs if r.run["dataset"]["name"] == dataset and (not folds or r.run["dataset"]["fold"] in folds)], "test")
        published = (
            dict(zip(*paper.query("dataset == @dataset")[["metric", "text"]].values.T, strict=True))
            if len(paper.query("dataset == @dataset"))
            else {}
        )
        if published:
            lines.append(f"| {TITLES[dataset]} | paper | " + " | ".join(published.get(k, "–") for k in SHOWN) + " |")
        for (method, preset), group in sorted(same.groupby(["method", "preset"]), key=lambda item: ORDER.index(item[0][0])):
            values, n = dict(zip(group["metric"], group["text"], strict=True)), int(group["n"].max())
            which = f", fold {', '.join(map(str, sorted(folds)))} only" if folds - {None} and len(folds) < 20 else ""
            label = f"{NAMES.get(str(method), str(method))}{f', preset {preset}' if preset != 'default' else ''} (n = {n}{which})"
            lines.append(f"| {TITLES[dataset]} | {label} | " + " | ".join(values.get(k, "–") for k in SHOWN) + " |")
    return "\n".join(lines)


def cost_table(runs: list[RecordedRun]) -> str:
    """What recorded trainings with their reconstruction and evaluation took, and oracles; a row for all seeds or folds of one recipe."""
    lines = ["| recorded command | runs | minutes a run, mean | peak memory | device |", "|---|---|---|---|---|"]
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for run in runs:
        r = run.run
        if r["method"] in ("nesf", "oracle"):  # other predictors take seconds
            device = f"{r['threads']} thread{'s' if r['threads'] > 1 else ''} of {r['cpu']}" if r["device"] == "cpu" else r["device_name"]
            groups.setdefault((r["dataset"]["name"], r["method"], r["preset"], device), []).append(r)
    for (*_, device), same in groups.items():
        stages: dict[str, float] = {}
        for r in same:
            wall = r["wall_time_seconds"] if isinstance(r["wall_time_seconds"], dict) else {"": r["wall_time_seconds"]}
            for stage, spent in wall.items():
                stages[stage] = stages.get(stage, 0.0) + spent / 60 / len(same)
        split = ", ".join(f"{k} {v:.1f}" for k, v in stages.items()) if len(stages) > 1 else ""
        time = f"{sum(seconds(r) for r in same) / 60 / len(same):.1f}" + (f" ({split})" if split else "")
        memory = max(r["peak_memory_bytes"] for r in same) / 1e9
        more = f" and {len(same) - 1} more" if len(same) > 1 else ""
        lines.append(f"| `{same[0]['command']}`{more} | {len(same)} | {time} | {memory:.1f} GB | {device} |")
    return "\n".join(lines)


def updated(text: str, runs: list[RecordedRun]) -> str:
    """The README with its generated parts made anew; trials of a recipe, which are compared on validation crystals, are on the pages of the book."""
    runs = [run for run in runs if not run.run["preset"].startswith(("trial-", "label-frac-")) and "test" in run.metrics]
    runs = [run for run in runs if not run.run["preset"].endswith("-reduced")]  # demonstrations
    for name, content in (("results", results_table(runs)), ("cost", cost_table(runs))):
        pattern = re.compile(rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"README.md: the markers of {name!r} are missing")
        escaped = content.replace("\\", r"\\")
        text = pattern.sub(rf"\g<1>{escaped}\n\g<2>", text)
    return text


def main() -> int:
    """Update, or with --check compare."""
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
