"""Tables of errors, costs and what is recorded: Table 1, reconstruction, data."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nesf.files import read_json
from nesf.methods import run_folder
from nesf.records import RecordedRun, read_run
from nesf_studies.pages.common import LABELS, RESULTS, TABLE1, TITLES, number_text, unbroken
from nesf_studies.paper import PAPERS_NAME, beside_the_paper, compared, digits, paper_atoms, paper_table, shown_method

if TYPE_CHECKING:
    from pandas import DataFrame

PAPER_HOURS = {"icsg3d": 11, "lcs6": 9, "ybco": 1}  # of training on one Quadro RTX 8000 (Section 4.3)
PAPER_PARAMETERS = {"nesf": 0.76e6, "icsg3d": 34e6}  # Section 2.3
_METHODS = {
    ("paper", "nesf"): "NeSF, paper",
    ("ours", "nesf"): "NeSF, ours",
    ("paper", "icsg3d"): "ICSG3D, paper",
    ("ours", "icsg3d-as-published"): "ICSG3D as published, ours",
    ("ours", "icsg3d-repaired"): "ICSG3D repaired, ours",
    ("ours", "icsg3d-oracle-repaired"): "ICSG3D oracle",
    ("ours", "copy"): "copy",
    ("ours", "constant"): "constant",
    ("ours", "oracle"): "oracle",
}
_PRESETS = ("paper", "official", "cpu")


def comparison_table(runs: Sequence[RecordedRun], dataset: str, split: str = "test") -> DataFrame:
    """One dataset of Table 1 (test), S1 (train) or S2 (val), in the paper's form: a column a method, a row a metric; the paper's columns beside ours.

    Args:
        runs: recorded runs.
        dataset: the paper's: icsg3d, lcs6, ybco.
        split: train, val or test.

    Returns:
        Text, mean ± standard deviation over n seeds or folds (last row). A method without a recorded run has a column that says so.
    """
    import pandas as pd

    of = beside_the_paper(runs, split)
    of = of[of["dataset"] == dataset]
    columns: dict[str, dict[str, str]] = {}
    for (source, method), name in _METHODS.items():
        cells = of[((of["source"] == "recorded") == (source == "ours")) & (of["method"] == method)]
        for preset, group in cells.groupby("preset", sort=False):
            title = f"{name}, {preset}" if (source, method) == ("ours", "nesf") else name
            texts = dict(zip(group["metric"], group["text"], strict=True))
            columns[title] = {LABELS[k]: unbroken(texts.get(k, "–")) for k in (*TABLE1, "match_rate_percent")} | {"n": str(group["n"].max())}
    return pd.DataFrame(columns)


def not_yet_run(runs: Sequence[RecordedRun]) -> DataFrame:
    """The cells of Tables 1, S1 and S2 for which nothing is recorded: for each dataset and method of ours the splits."""
    import pandas as pd

    recorded = {
        (
            PAPERS_NAME.get(r.run["dataset"]["name"], r.run["dataset"]["name"]),
            shown_method(r.run["method"], r.run["preset"]),
            r.run["preset"] if r.run["method"] == "nesf" else "",
            s,
        )
        for r in runs
        for s in r.metrics
    }
    rows = {}
    for dataset, title in TITLES.items():
        for method in (m for source, m in _METHODS if source == "ours"):
            for preset in _PRESETS if method == "nesf" else ("",):
                # Copying a training crystal, and the oracle, say nothing about training crystals.
                splits = ("test", "val", "train") if method == "nesf" else ("test", "val")
                lacking = [s for s in splits if (dataset, method, preset, s) not in recorded]
                if lacking:
                    rows[title, f"{_METHODS['ours', method]} {preset}".strip()] = ", ".join(lacking)
    index = pd.MultiIndex.from_tuples(rows, names=["dataset", "method"])
    return pd.DataFrame({"not yet run": list(rows.values())}, index=index)


def difference_table(runs: Sequence[RecordedRun], split: str = "test") -> DataFrame:
    """Ours against the paper's NeSF, metric by metric, with what follows from it.

    Returns:
        One row per dataset, preset and metric: paper, ours (text), n, the difference in the paper's σ (where it gives one), and `verdict`:
        `not worse` (to the paper's digits not above its mean), `within 2 σ` (of the paper), `not told apart` (the paper gives no deviation, and
        its value is within two standard errors of ours) or `worse`.
    """
    import pandas as pd

    recorded = compared([run for run in runs if run.run["method"] == "nesf" and not run.run["preset"].startswith("trial-")])
    recorded = recorded[(recorded["split"] == split) & recorded["metric"].isin(TABLE1) & recorded["paper_mean"].notna()]
    paper = paper_table().query("method == 'nesf' and split == @split").set_index(["dataset", "metric"])["text"]
    rows = {}
    for dataset, title in TITLES.items():
        for r in recorded[recorded["dataset"].map(lambda d: PAPERS_NAME.get(d, d)) == dataset].itertuples():
            mean = round(r.mean, digits(r.metric))  # to the digits that the paper gives
            if mean <= r.paper_mean:
                verdict = "not worse"
            elif r.paper_std == r.paper_std:
                verdict = "within 2 σ" if mean <= r.paper_mean + 2 * r.paper_std else "worse"
            else:
                verdict = "not told apart" if r.n > 1 and r.mean - 2 * r.std / r.n**0.5 <= r.paper_mean else "worse"
            sigma = "–" if r.sigma != r.sigma else f"{r.sigma:+.1f} σ".replace("-", "−")
            name = title if r.dataset == dataset else r.dataset
            rows[f"{name}, {r.preset}", LABELS[r.metric]] = (paper[dataset, r.metric], r.text, r.n, sigma, verdict)
    index = pd.MultiIndex.from_tuples(rows, names=["dataset, preset", "metric"])
    table = pd.DataFrame(list(rows.values()), index=index, columns=["paper", "ours", "n", "difference", "verdict"])
    return table.map(lambda cell: unbroken(cell) if isinstance(cell, str) else cell).sort_index(level=0, sort_remaining=False)


def _materials(runs: Sequence[RecordedRun], dataset: str, preset: str, split: str) -> DataFrame:
    """Errors per material of all recorded seeds or folds of a preset of NeSF, with the name of the run; empty where there is none."""
    import pandas as pd

    same = [r for r in runs if (r.run["dataset"]["name"], r.run["method"], r.run["preset"]) == (dataset, "nesf", preset) and split in r.metrics]
    return pd.concat([r.materials().assign(run=r.folder.name) for r in same]).query("split == @split") if same else pd.DataFrame()


def error_sources(runs: Sequence[RecordedRun], dataset: str, *, preset: str = "cpu", split: str = "test") -> DataFrame:
    """Where the errors come from: materials by whether the number of atoms is right, over all recorded seeds or folds of a preset.

    Returns:
        One row each for right, too few and too many atoms: share of the materials and of the actual atoms (%), the position and species error
        (actual) of these atoms, and their share of the summed position error (%).
    """
    import numpy as np
    import pandas as pd

    materials = _materials(runs, dataset, preset, split)
    if materials.empty:
        return materials
    difference = materials["n_atoms_detected"] - materials["n_atoms_actual"]
    rows = {}
    weights = materials["n_atoms_actual"]
    position, species = materials["position_error_actual_angstrom"], materials["species_error_actual_percent"]
    for name, chosen in (("right", difference == 0), ("too few", difference < 0), ("too many", difference > 0)):
        known = chosen & position.notna()
        atoms = weights[known]
        rows[name] = {
            "materials, %": f"{100 * chosen.mean():.1f}",
            "atoms, %": f"{100 * weights[chosen].sum() / weights.sum():.1f}",
            "position (actual), Å": f"{np.average(position[known], weights=atoms):.4f}" if len(atoms) else "–",
            "species (actual), %": f"{np.average(species[chosen], weights=weights[chosen]):.2f}" if chosen.any() else "–",
            "share of the position error, %": f"{100 * (position[known] * atoms).sum() / (position * weights).sum():.1f}",
        }
    return pd.DataFrame(rows).T.rename_axis("number of atoms")


def largest_errors(runs: Sequence[RecordedRun], dataset: str, *, preset: str = "cpu", split: str = "val", n: int = 5) -> DataFrame:
    """The crystals of a split whose cells come out worst, over all recorded seeds or folds of a preset: what a mean can hang on.

    Args:
        runs: recorded runs.
        dataset: as recorded, e.g. icsg3d-recovered.
        preset: of the runs.
        split: train, val or test.
        n: how many.
    """
    materials = _materials(runs, dataset, preset, split)
    if materials.empty:
        return materials
    worst = materials.sort_values(["lattice_length_error_angstrom", "id"], ascending=[False, True]).head(n)
    shown = {
        "id": "material",
        "formula": "formula",
        "n_atoms_actual": "atoms",
        "n_atoms_detected": "detected",
        "lattice_length_error_angstrom": LABELS["lattice_length_error_angstrom"],
        "position_error_actual_angstrom": LABELS["position_error_actual_angstrom"],
    }
    return worst.set_index("run")[list(shown)].rename(columns=shown).round(2)


def training_cost(runs: Sequence[RecordedRun]) -> DataFrame:
    """Training as recorded beside the paper's: epochs, time of one run (mean, smallest and largest), device; trials are left out."""
    import pandas as pd

    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in runs:
        if run.run["method"] == "nesf" and not run.run["preset"].startswith("trial-"):
            groups.setdefault((run.run["dataset"]["name"], run.run["preset"]), []).append(run.run)
    rows = {}
    for (dataset, preset), same in groups.items():
        minutes = [r["wall_time_seconds"]["train"] / 60 for r in same]
        hours = PAPER_HOURS.get(PAPERS_NAME.get(dataset, dataset))
        rows[dataset, preset] = {
            "runs": len(same),
            "epochs": ", ".join(sorted({str(r["config"]["training"]["epochs"]) for r in same})),
            "minutes a run": f"{sum(minutes) / len(minutes):.1f}" + (f" ({min(minutes):.1f}-{max(minutes):.1f})" if len(same) > 1 else ""),
            "device": "; ".join(
                sorted({f"{r['threads']} thread(s) of {r['device_name']}" if r["device"] == "cpu" else r["device_name"] for r in same})
            ),
            "paper (3200 epochs, Quadro RTX 8000)": f"{hours} h" if hours else "–",
        }
    return pd.DataFrame(list(rows.values()), index=pd.MultiIndex.from_tuples(rows, names=["dataset", "preset"]))


def run_links(runs: Sequence[RecordedRun], root: Path = RESULTS) -> str:
    """Recorded runs as HTML, folded up by dataset and recipe: a link to each `run.json` and `metrics.json` of the book's copy of `results/`, its command, commit, device and date."""
    groups: dict[str, list[str]] = {}
    for run in runs:
        r, name = run.run, run.folder.relative_to(root).as_posix()
        link = f'<a href="../results/{name}/run.json">{escape(run.folder.name)}</a> (<a href="../results/{name}/metrics.json">metrics</a>)'
        commit = r["commit"][:10] + r["commit"][40:]
        cells = (link, f"<code>{escape(r['command'])}</code>", f"<code>{escape(commit)}</code>", escape(r["device_name"]), r["started"][:10])
        groups.setdefault(name.rsplit("/", 1)[0], []).append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "<tr><th>run</th><th>command</th><th>commit</th><th>device</th><th>day</th></tr>"
    return "\n".join(
        f"<details><summary>{escape(name)}: {len(rows)}</summary><table>{head}{''.join(rows)}</table></details>" for name, rows in groups.items()
    )


def atoms_table(dataset: str) -> DataFrame:
    """Tables 2-4: materials by number of atoms in the cell, the paper's count beside ours (`results/<dataset>/audit.json`).

    Args:
        dataset: ours; empty where no audit is recorded.

    Returns:
        One row per split and source, one column per number of atoms.
    """
    import pandas as pd

    path = RESULTS / dataset / "audit.json"
    ours = read_json(path)["atoms"] if path.exists() else {}
    paper = paper_atoms().query("dataset == @PAPERS_NAME.get(@dataset, @dataset)")
    rows = {}
    for split in ("train", "val", "test"):
        rows[split, "paper"] = dict(paper[paper["split"] == split][["n_atoms", "materials"]].itertuples(index=False))
        rows[split, "ours"] = {int(n): count for n, count in ours.get(split, {}).items()}
    table = pd.DataFrame(list(rows.values()), index=pd.MultiIndex.from_tuples(rows, names=["split", "atoms in the cell"]))
    table = table[sorted(table.columns)].fillna(0).astype(int)
    return table.assign(all=table.sum(axis=1))


def workflow_plan() -> Any:
    """Return the module workflow/plan.py of this clone."""
    spec = importlib.util.spec_from_file_location("plan", RESULTS.parent / "workflow" / "plan.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["plan"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def progress_table(path: Path | None = None) -> DataFrame:
    """What `workflow/config.yaml` asks for, and how much of it is recorded as asked for.

    Args:
        path: of the configuration; None for that of this clone.

    Returns:
        One row per dataset, method and preset: `asked for`, `recorded`, `missing` (names); empty without a clone.
    """
    import pandas as pd
    import yaml

    plan = workflow_plan()
    path = path or RESULTS.parent / "workflow" / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {"runs": [], "predictors": []}
    rows: dict[tuple[str, str, str], list[tuple[str, bool]]] = {}
    for run in plan.planned_runs([*config["runs"], *config["predictors"]]):
        done = run.missing(RESULTS, RESULTS.parent / config["data"]) == "nothing"
        rows.setdefault((run.dataset, run.method, run.label or run.preset), []).append((run.name.rsplit("/", 1)[1], done))
    content = []
    for v in rows.values():
        lacking = [name for name, done in v if not done]
        shown = ", ".join(lacking) if len(lacking) < 4 else f"{lacking[0]}, …, {lacking[-1]} ({len(lacking)})"
        content.append((len(v), len(v) - len(lacking), shown or "–"))
    return pd.DataFrame(
        content, index=pd.MultiIndex.from_tuples(rows, names=["dataset", "method", "preset"]), columns=["asked for", "recorded", "missing"]
    )


def recorded_summaries(dataset: str, *, split: str = "test", fold: int | None = None) -> dict[str, dict[str, Any]]:
    """What is recorded of a dataset: ours (preset cpu) and the predictors, as `metrics_table` takes them; {} where nothing is."""
    found = {}
    for name, method, preset in (
        ("ours", "nesf", "cpu"),
        ("copy", "copy", "default"),
        ("constant", "constant", "default"),
        ("oracle", "oracle", "default"),
    ):
        folder = run_folder(RESULTS, dataset, method, preset, seed=0, fold=fold)
        if (folder / "run.json").exists() and split in (metrics := read_run(folder).metrics):
            found[name] = metrics[split]
    return found


def metrics_table(summaries: Mapping[str, Mapping[str, Any]], *, dataset: str, split: str = "test") -> DataFrame:
    """Methods beside each other, with the paper's own NeSF where it has the dataset.

    Args:
        summaries: name of the method to `Metrics.summary`.
        dataset: name; decides whether there is a column of the paper.
        split: train, val or test; likewise.

    Returns:
        One row per metric, one column per method; text, with the paper's number of digits.
    """
    import pandas as pd

    columns = {method: {k: number_text(k, summary.get(k)) for k in LABELS} for method, summary in summaries.items()}
    published = paper_table().query("dataset == @dataset and method == 'nesf' and split == @split")
    if len(published):
        columns["paper"] = dict(zip(published["metric"], published["text"], strict=True))
    return pd.DataFrame(columns, index=list(LABELS)).fillna("–").rename(index=LABELS)
