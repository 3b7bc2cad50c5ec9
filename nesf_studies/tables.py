"""Tables of errors, costs and what is recorded: Table 1, reconstruction, data."""

from __future__ import annotations

import runpy
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nesf.data.dataset import SPLITS
from nesf.files import read_json
from nesf.methods import run_folder
from nesf.records import RecordedRun, read_run, seconds
from nesf_studies.page import LABELS, RESULTS, TABLE1, TITLES, digits, number_text, unbroken
from nesf_studies.paper import beside_the_paper, compared, paper_atoms, paper_table
from nesf_studies.record import PAPERS_NAME, metric_rows, run_rows

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


def comparison_table(runs: Sequence[RecordedRun], dataset: str, split: str = "test") -> pd.DataFrame:
    """Return one dataset of Table 1 (test), S1 (train) or S2 (val) in the paper's form: a column a method, a row a metric, the paper's columns beside ours.

    Args:
        runs: recorded runs.
        dataset: the paper's: icsg3d, lcs6, ybco; or one that the paper does not have.
        split: train, val or test.

    Returns:
        Text, mean ± standard deviation over n seeds or folds (last row). A method without a recorded run has no column.
    """
    cells = beside_the_paper(runs, split).query("dataset == @dataset")
    origins = np.where(cells["source"] == "recorded", "ours", "paper")
    columns = {}
    for (origin, method), name in _METHODS.items():
        for preset, group in cells[(origins == origin) & (cells["method"] == method)].groupby("preset", sort=False):
            title = f"{name}, {preset}" if (origin, method) == ("ours", "nesf") else name
            texts = group.set_index("metric")["text"].reindex([*TABLE1, "match_rate_percent"], fill_value="–")
            columns[title] = texts.map(unbroken).rename(LABELS).to_dict() | {"n": str(group["n"].max())}
    return pd.DataFrame(columns)


def not_yet_run(runs: Sequence[RecordedRun]) -> pd.DataFrame:
    """List the cells of Tables 1, S1 and S2 for which nothing is recorded: for each dataset and method of ours the splits."""
    rows = metric_rows(runs)
    presets = rows["preset"].where(rows["method"] == "nesf", "")
    recorded = set(zip(rows["paper_dataset"], rows["shown_method"], presets, rows["split"], strict=True))
    lacking = {}
    for dataset, title in TITLES.items():
        for method in (m for origin, m in _METHODS if origin == "ours"):
            # Copying a training crystal, and the oracle, say nothing about training crystals.
            splits = ("test", "val", "train") if method == "nesf" else ("test", "val")
            for preset in _PRESETS if method == "nesf" else ("",):
                name = f"{_METHODS['ours', method]} {preset}".strip()
                lacking[title, name] = ", ".join(s for s in splits if (dataset, method, preset, s) not in recorded)
    table = pd.Series(lacking, name="not yet run").rename_axis(["dataset", "method"])
    return table[table != ""].to_frame()


def difference_table(runs: Sequence[RecordedRun], split: str = "test") -> pd.DataFrame:
    """Compare ours with the paper's NeSF, metric by metric, and say what follows from it.

    Returns:
        One row per dataset, preset and metric: paper, ours (text), n, the difference in the paper's σ (where it gives one), and `verdict` (`_verdict`).
    """
    recorded = compared([run for run in runs if run.run["method"] == "nesf" and not run.run["preset"].startswith("trial-")])
    recorded = recorded[(recorded["split"] == split) & recorded["metric"].isin(TABLE1) & recorded["paper_mean"].notna()]
    paper = paper_table().query("method == 'nesf' and split == @split").set_index(["dataset", "metric"])["text"]
    rows = {}
    for dataset, title in TITLES.items():
        for row in recorded[recorded["dataset"].replace(PAPERS_NAME) == dataset].itertuples():
            sigma = "–" if row.sigma != row.sigma else f"{row.sigma:+.1f} σ".replace("-", "−")
            name = title if row.dataset == dataset else row.dataset
            rows[f"{name}, {row.preset}", LABELS[row.metric]] = (paper[dataset, row.metric], row.text, row.n, sigma, _verdict(row))
    index = pd.MultiIndex.from_tuples(rows, names=["dataset, preset", "metric"])
    table = pd.DataFrame(list(rows.values()), index=index, columns=["paper", "ours", "n", "difference", "verdict"])
    return table.map(lambda cell: unbroken(cell) if isinstance(cell, str) else cell).sort_index(level=0, sort_remaining=False)


def _verdict(row: Any) -> str:
    """Judge a row of `compared`.

    Returns:
        `not worse` (to the paper's digits not above its mean), `within 2 σ` (of the paper), `not told apart` (the paper gives no deviation, and its value
        is within two standard errors of ours) or `worse`.
    """
    mean = round(row.mean, digits(row.metric))
    if mean <= row.paper_mean:
        return "not worse"
    if row.paper_std == row.paper_std:
        return "within 2 σ" if mean <= row.paper_mean + 2 * row.paper_std else "worse"
    return "not told apart" if row.n > 1 and row.mean - 2 * row.std / row.n**0.5 <= row.paper_mean else "worse"


def _materials(runs: Sequence[RecordedRun], dataset: str, preset: str, split: str) -> pd.DataFrame:
    """Return the errors per material of all recorded seeds or folds of a preset of NeSF, with the name of the run; empty where there is none."""
    same = [r for r in runs if (r.run["dataset"]["name"], r.run["method"], r.run["preset"]) == (dataset, "nesf", preset) and split in r.metrics]
    return pd.concat([r.materials().assign(run=r.folder.name) for r in same]).query("split == @split") if same else pd.DataFrame()


def error_sources(runs: Sequence[RecordedRun], dataset: str, *, preset: str = "cpu", split: str = "test") -> pd.DataFrame:
    """Show where the errors come from: materials by whether the number of atoms is right, over all recorded seeds or folds of a preset.

    Returns:
        One row each for right, too few and too many atoms: share of the materials and of the actual atoms (%), the position and species error (actual) of
        these atoms, and their share of the summed position error (%).
    """
    materials = _materials(runs, dataset, preset, split)
    if materials.empty:
        return materials
    difference, n_atoms = materials["n_atoms_detected"] - materials["n_atoms_actual"], materials["n_atoms_actual"]
    position, species = materials["position_error_actual_angstrom"], materials["species_error_actual_percent"]
    rows = {}
    for name, group in (("right", difference == 0), ("too few", difference < 0), ("too many", difference > 0)):
        known = group & position.notna()
        rows[name] = {
            "materials, %": f"{100 * group.mean():.1f}",
            "atoms, %": f"{100 * n_atoms[group].sum() / n_atoms.sum():.1f}",
            "position (actual), Å": f"{np.average(position[known], weights=n_atoms[known]):.4f}" if known.any() else "–",
            "species (actual), %": f"{np.average(species[group], weights=n_atoms[group]):.2f}" if group.any() else "–",
            "share of the position error, %": f"{100 * (position * n_atoms)[known].sum() / (position * n_atoms).sum():.1f}",
        }
    return pd.DataFrame(rows).T.rename_axis("number of atoms")


def largest_errors(runs: Sequence[RecordedRun], dataset: str, *, preset: str = "cpu", split: str = "val", n: int = 5) -> pd.DataFrame:
    """List the n crystals of a split whose cells come out worst, over all recorded seeds or folds of a preset: what a mean can hang on.

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
    names = {"id": "material", "formula": "formula", "n_atoms_actual": "atoms", "n_atoms_detected": "detected"}
    names |= {metric: LABELS[metric] for metric in ("lattice_length_error_angstrom", "position_error_actual_angstrom")}
    return worst.set_index("run")[list(names)].rename(columns=names).round(2)


def cost_table(runs: Sequence[RecordedRun]) -> pd.DataFrame:
    """Return what recorded runs took beside the paper's training; a row for all seeds or folds of a recipe of NeSF, and for the oracle.

    Trials are left out, and the other predictors, which take seconds.

    Returns:
        runs, epochs, minutes of a training (mean, smallest and largest), mean minutes of decoding and scoring, largest memory, devices, the paper's hours.
    """
    rows = run_rows(runs)
    rows = rows[rows["method"].isin(["nesf", "oracle"]) & ~rows["preset"].str.startswith("trial-")]
    costs = {}
    for key, group in rows.groupby(["dataset", "method", "preset"], sort=False):
        abouts, minutes, hours = [runs[i].run for i in group["run"]], group["minutes"], PAPER_HOURS.get(group["paper_dataset"].iloc[0])
        spread = f" ({minutes.min():.1f}-{minutes.max():.1f})" if len(group) > 1 else ""
        trained, others = key[1] == "nesf", np.mean([seconds(about) for about in abouts]) / 60 - minutes.fillna(0).mean()
        devices = {f"{r['threads']} thread(s) of {r['device_name']}" if r["device"] == "cpu" else r["device_name"] for r in abouts}
        costs[key] = {
            "runs": len(group),
            "epochs": ", ".join(f"{n:.0f}" for n in sorted(set(group["epochs"]))) if trained else "–",
            "training, minutes": f"{minutes.mean():.1f}{spread}" if trained else "–",
            "decoding and scores, minutes": f"{others:.1f}",
            "peak memory, GB": f"{max(about['peak_memory_bytes'] for about in abouts) / 1e9:.1f}",
            "device": "; ".join(sorted(devices)),
            "paper (3200 epochs, Quadro RTX 8000)": f"{hours} h" if hours and trained else "–",
        }
    return pd.DataFrame(list(costs.values()), index=pd.MultiIndex.from_tuples(costs, names=["dataset", "method", "preset"]))


def run_links(runs: Sequence[RecordedRun], root: Path = RESULTS) -> str:
    """Return recorded runs as HTML, folded up by dataset and recipe.

    For each a link to `run.json` and `metrics.json` of the book's copy of `results/`, its command, commit, device and date.
    """
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


def atoms_table(dataset: str) -> pd.DataFrame:
    """Return Tables 2-4: materials by number of atoms in the cell, the paper's count beside ours (`results/<dataset>/audit.json`).

    Args:
        dataset: ours; its rows are empty where no audit is recorded.

    Returns:
        One row per split and source, one column per number of atoms.
    """
    path = RESULTS / dataset / "audit.json"
    ours = read_json(path)["atoms"] if path.exists() else {}
    paper = paper_atoms().query("dataset == @PAPERS_NAME.get(@dataset, @dataset)")
    rows = {}
    for split in SPLITS:
        rows[split, "paper"] = dict(paper[paper["split"] == split][["n_atoms", "materials"]].itertuples(index=False))
        rows[split, "ours"] = {int(n): count for n, count in ours.get(split, {}).items()}
    table = pd.DataFrame(list(rows.values()), index=pd.MultiIndex.from_tuples(rows, names=["split", "atoms in the cell"]))
    table = table[sorted(table.columns)].fillna(0).astype(int)
    return table.assign(all=table.sum(axis=1))


def progress_table(path: Path | None = None) -> pd.DataFrame:
    """Return what `workflow/config.yaml` asks for, and how much of it is recorded as asked for.

    Args:
        path: of the configuration; None for that of this clone.

    Returns:
        One row per dataset, method and preset: `asked for`, `recorded`, `missing` (names); empty without a clone.
    """
    import yaml

    path = path or RESULTS.parent / "workflow" / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {"runs": [], "predictors": []}
    rows: dict[tuple[str, str, str], dict[str, bool]] = {}
    planned_runs = runpy.run_path(str(RESULTS.parent / "workflow" / "plan.py"))["planned_runs"]
    for run in planned_runs([*config["runs"], *config["predictors"]]):
        done = run.missing(RESULTS, RESULTS.parent / config["data"]) == "nothing"
        rows.setdefault((run.dataset, run.method, run.label or run.preset), {})[run.name.rsplit("/", 1)[1]] = done
    table = []
    for group in rows.values():
        lacking = [name for name, done in group.items() if not done]
        shown = ", ".join(lacking) if len(lacking) < 4 else f"{lacking[0]}, …, {lacking[-1]} ({len(lacking)})"
        table.append((len(group), len(group) - len(lacking), shown or "–"))
    index = pd.MultiIndex.from_tuples(rows, names=["dataset", "method", "preset"])
    return pd.DataFrame(table, index=index, columns=["asked for", "recorded", "missing"])


def recorded_summaries(dataset: str, *, split: str = "test", fold: int | None = None) -> dict[str, dict[str, Any]]:
    """Read the recorded errors on a dataset: ours (preset cpu) and the predictors, as `metrics_table` takes them; {} where nothing is recorded."""
    found = {}
    for name, method, preset in (("ours", "nesf", "cpu"), *((m, m, "default") for m in ("copy", "constant", "oracle"))):
        folder = run_folder(RESULTS, dataset, method, preset, seed=0, fold=fold)
        if (folder / "run.json").exists() and split in (metrics := read_run(folder).metrics):
            found[name] = metrics[split]
    return found


def metrics_table(summaries: Mapping[str, Mapping[str, Any]], *, dataset: str, split: str = "test") -> pd.DataFrame:
    """Set methods beside each other, with the paper's own NeSF where it has the dataset.

    Args:
        summaries: name of the method and its `Metrics.summary`.
        dataset: name; decides whether there is a column of the paper.
        split: train, val or test; likewise.

    Returns:
        One row per metric, one column per method; text, with the paper's number of digits.
    """
    columns = {method: {k: number_text(k, summary.get(k)) for k in LABELS} for method, summary in summaries.items()}
    published = paper_table().query("dataset == @dataset and method == 'nesf' and split == @split")
    if len(published):
        columns["paper"] = dict(zip(published["metric"], published["text"], strict=True))
    return pd.DataFrame(columns, index=list(LABELS)).fillna("–").rename(index=LABELS)
