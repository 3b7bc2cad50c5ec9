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
from nesf_studies.errors_by_atoms import materials_of
from nesf_studies.page import LABELS, RESULTS, TABLE1, TITLES, digits, number_text, unbroken
from nesf_studies.paper import beside_the_paper, compared, paper_atoms, paper_table
from nesf_studies.record import PAPERS_NAME, metric_rows, run_rows

# of training on one Quadro RTX 8000 (Section 4.3)
_PAPER_HOURS = {"icsg3d": 11, "lcs6": 9, "ybco": 1}
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
_PRESETS = ("paper", "official", "cpu", "cpu-consistent", "plus-five-steps", "plus")


def comparison_table(
    runs: Sequence[RecordedRun], dataset: str, split: str = "test"
) -> pd.DataFrame:
    """Return a dataset of Table 1 (test), S1 (train) or S2 (val), the paper's columns beside ours.

    Text, mean ± standard deviation over n seeds or folds (last row). A method without a recorded
    run has no column.
    """
    cells = beside_the_paper(runs, split).query("dataset == @dataset")
    origins = np.where(cells["source"] == "recorded", "ours", "paper")
    columns = {}
    for (origin, method), name in _METHODS.items():
        for preset, group in cells[(origins == origin) & (cells["method"] == method)].groupby(
            "preset", sort=False
        ):
            title = f"{name}, {preset}" if (origin, method) == ("ours", "nesf") else name
            texts = group.set_index("metric")["text"].reindex(
                [*TABLE1, "match_rate_percent"], fill_value="–"
            )
            columns[title] = texts.map(unbroken).rename(LABELS).to_dict() | {
                "n": str(group["n"].max())
            }
    return pd.DataFrame(columns)


def not_yet_run(runs: Sequence[RecordedRun]) -> pd.DataFrame:
    """List the splits that are not recorded in Tables 1, S1 and S2, by dataset and method."""
    rows = metric_rows(runs)
    presets = rows["preset"].where(rows["method"] == "nesf", "")
    recorded = set(
        zip(rows["paper_dataset"], rows["shown_method"], presets, rows["split"], strict=True)
    )
    lacking = {}
    for dataset, title in TITLES.items():
        for method in (m for origin, m in _METHODS if origin == "ours"):
            # Copying a training crystal, and the oracle, say nothing about training crystals.
            splits = ("test", "val", "train") if method == "nesf" else ("test", "val")
            for preset in _PRESETS if method == "nesf" else ("",):
                name = f"{_METHODS['ours', method]} {preset}".strip()
                lacking[title, name] = ", ".join(
                    s for s in splits if (dataset, method, preset, s) not in recorded
                )
    table = pd.Series(lacking, name="not yet run").rename_axis(["dataset", "method"])
    return table[table != ""].to_frame()


def difference_table(runs: Sequence[RecordedRun], split: str = "test") -> pd.DataFrame:
    """Compare ours with the paper's NeSF, metric by metric, and say what follows from it.

    One row per dataset, preset and metric: paper, ours (text), n, the difference in the paper's σ
    (where it gives one), and `verdict` (`_verdict`).
    """
    recorded = compared(
        [
            run
            for run in runs
            if run.run["method"] == "nesf" and not run.run["preset"].startswith("trial-")
        ]
    )
    recorded = recorded[
        (recorded["split"] == split)
        & recorded["metric"].isin(TABLE1)
        & recorded["paper_mean"].notna()
    ]
    paper = (
        paper_table()
        .query("method == 'nesf' and split == @split")
        .set_index(["dataset", "metric"])["text"]
    )
    rows = {}
    for row in recorded.itertuples():
        sigma = "–" if row.sigma != row.sigma else f"{row.sigma:+.1f} σ".replace("-", "−")
        name, printed = (
            TITLES.get(row.dataset, row.dataset),
            paper[PAPERS_NAME.get(row.dataset, row.dataset), row.metric],
        )
        rows[f"{name}, {row.preset}", LABELS[row.metric]] = (
            printed,
            row.text,
            row.n,
            sigma,
            _verdict(row),
        )
    index = pd.MultiIndex.from_tuples(rows, names=["dataset, preset", "metric"])
    table = pd.DataFrame(
        list(rows.values()), index=index, columns=["paper", "ours", "n", "difference", "verdict"]
    )
    return table.map(lambda cell: unbroken(cell) if isinstance(cell, str) else cell).sort_index(
        level=0, sort_remaining=False
    )


def _verdict(row: Any) -> str:
    """Judge a row of `compared`; not told apart: within two standard errors of ours."""
    mean = round(row.mean, digits(row.metric))
    if mean <= row.paper_mean:
        return "not worse"
    if row.paper_std == row.paper_std:
        return "within 2 σ" if mean <= row.paper_mean + 2 * row.paper_std else "worse"
    return (
        "not told apart"
        if row.n > 1 and row.mean - 2 * row.std / row.n**0.5 <= row.paper_mean
        else "worse"
    )


def error_sources(
    runs: Sequence[RecordedRun], dataset: str, *, preset: str = "cpu", split: str = "test"
) -> pd.DataFrame:
    """Divide the errors by whether the number of atoms is right, over all seeds or folds.

    One row each for right, too few and too many atoms: share of the materials and of the actual
    atoms (%), the position and species error (actual) of these atoms, and their share of the summed
    position error (%).
    """
    materials = materials_of(runs, dataset, "nesf", preset=preset, splits=[split])
    if materials.empty:
        return pd.DataFrame()
    difference, n_atoms = materials["n_atoms_difference"], materials["n_atoms_actual"]
    position, species = (
        materials["position_error_actual_angstrom"],
        materials["species_error_actual_percent"],
    )
    rows = {}
    for name, group in (
        ("right", difference == 0),
        ("too few", difference < 0),
        ("too many", difference > 0),
    ):
        known = group & position.notna()
        rows[name] = {
            "materials, %": f"{100 * group.mean():.1f}",
            "atoms, %": f"{100 * n_atoms[group].sum() / n_atoms.sum():.1f}",
            "position (actual), Å": f"{np.average(position[known], weights=n_atoms[known]):.4f}"
            if known.any()
            else "–",
            "species (actual), %": f"{np.average(species[group], weights=n_atoms[group]):.2f}"
            if group.any()
            else "–",
            "share of the position error, %": f"{100 * (position * n_atoms)[known].sum() / (position * n_atoms).sum():.1f}",
        }
    return pd.DataFrame(rows).T.rename_axis("number of atoms")


def largest_errors(
    runs: Sequence[RecordedRun],
    dataset: str,
    *,
    preset: str = "cpu",
    split: str = "val",
    n: int = 5,
) -> pd.DataFrame:
    """List the n crystals with the worst cells over all seeds or folds: what a mean can hang on."""
    materials = materials_of(runs, dataset, "nesf", preset=preset, splits=[split])
    worst = materials.sort_values(
        ["lattice_length_error_angstrom", "id"], ascending=[False, True]
    ).head(n)
    names = {
        "id": "material",
        "formula": "formula",
        "n_atoms_actual": "atoms",
        "n_atoms_detected": "detected",
    }
    names |= {
        metric: LABELS[metric]
        for metric in ("lattice_length_error_angstrom", "position_error_actual_angstrom")
    }
    return worst.set_index("run")[list(names)].rename(columns=names).round(2)


def cost_table(runs: Sequence[RecordedRun]) -> pd.DataFrame:
    """Return what the recorded runs of NeSF and the oracle took, beside the paper's training.

    One row for all seeds or folds of a recipe; trials are left out. Minutes: mean
    (smallest-largest); memory: the largest.
    """
    rows = run_rows(runs)
    rows = rows[rows["method"].isin(["nesf", "oracle"]) & ~rows["preset"].str.startswith("trial-")]
    costs = {}
    for key, group in rows.groupby(["dataset", "method", "preset"], sort=False):
        abouts, minutes, hours = (
            [runs[i].run for i in group["run"]],
            group["minutes"],
            _PAPER_HOURS.get(group["paper_dataset"].iloc[0]),
        )
        spread = f" ({minutes.min():.1f}-{minutes.max():.1f})" if len(group) > 1 else ""
        trained, others = (
            key[1] == "nesf",
            np.mean([seconds(about) for about in abouts]) / 60 - minutes.fillna(0).mean(),
        )
        devices = {
            f"{r['threads']} thread(s) of {r['device_name']}"
            if r["device"] == "cpu"
            else r["device_name"]
            for r in abouts
        }
        costs[key] = {
            "runs": len(group),
            "epochs": ", ".join(f"{n:.0f}" for n in sorted(set(group["epochs"])))
            if trained
            else "–",
            "training, minutes": f"{minutes.mean():.1f}{spread}" if trained else "–",
            "decoding and scores, minutes": f"{others:.1f}",
            "peak memory, GB": f"{max(about['peak_memory_bytes'] for about in abouts) / 1e9:.1f}",
            "device": "; ".join(sorted(devices)),
            "paper (3200 epochs, Quadro RTX 8000)": f"{hours} h" if hours and trained else "–",
        }
    return pd.DataFrame(
        list(costs.values()),
        index=pd.MultiIndex.from_tuples(costs, names=["dataset", "method", "preset"]),
    )


def run_links(runs: Sequence[RecordedRun], root: Path = RESULTS) -> str:
    """Return recorded runs as folded HTML tables, linked to the book's copy of `results/`."""
    groups: dict[str, list[str]] = {}
    for run in runs:
        r, name = run.run, run.folder.relative_to(root).as_posix()
        link = f'<a href="../results/{name}/run.json">{escape(run.folder.name)}</a> (<a href="../results/{name}/metrics.json">metrics</a>)'
        commit = r["commit"][:10] + r["commit"][40:]
        cells = (
            link,
            f"<code>{escape(r['command'])}</code>",
            f"<code>{escape(commit)}</code>",
            escape(r["device_name"]),
            r["started"][:10],
        )
        groups.setdefault(name.rsplit("/", 1)[0], []).append(
            "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        )
    head = "<tr><th>run</th><th>command</th><th>commit</th><th>device</th><th>day</th></tr>"
    tables = {f"{escape(name)}: {len(rows)}": "".join(rows) for name, rows in groups.items()}
    return "\n".join(
        f"<details><summary>{title}</summary><table>{head}{rows}</table></details>"
        for title, rows in tables.items()
    )


def atoms_table(dataset: str) -> pd.DataFrame:
    """Return Tables 2-4: materials by number of atoms in the cell, the paper's count beside ours.

    One row per split and source, one column per number of atoms; our rows are empty where no audit
    (`results/<dataset>/audit.json`) is recorded.
    """
    path = RESULTS / dataset / "audit.json"
    ours = read_json(path)["atoms"] if path.exists() else {}
    paper = paper_atoms().query("dataset == @PAPERS_NAME.get(@dataset, @dataset)")
    rows = {}
    for split in SPLITS:
        rows[split, "paper"] = dict(
            paper[paper["split"] == split][["n_atoms", "materials"]].itertuples(index=False)
        )
        rows[split, "ours"] = {int(n): count for n, count in ours.get(split, {}).items()}
    table = pd.DataFrame(
        list(rows.values()),
        index=pd.MultiIndex.from_tuples(rows, names=["split", "atoms in the cell"]),
    )
    table = table[sorted(table.columns)].fillna(0).astype(int)
    return table.assign(all=table.sum(axis=1))


def progress_table(path: Path | None = None) -> pd.DataFrame:
    """Return how much of what a workflow's config.yaml asks for is recorded as asked for.

    One row per dataset, method and preset: `asked for`, `recorded`, `missing` (names); empty
    without a clone.
    """
    import yaml

    path = path or RESULTS.parent / "workflow" / "config.yaml"
    if not path.exists():
        return pd.DataFrame()
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    rows: dict[tuple[str, str, str], dict[str, bool]] = {}
    planned_runs = runpy.run_path(str(RESULTS.parent / "workflow" / "plan.py"))["planned_runs"]
    for run in planned_runs([*config["runs"], *config["predictors"]]):
        done = run.missing(RESULTS, RESULTS.parent / config["data"]) == "nothing"
        rows.setdefault((run.dataset, run.method, run.label or run.preset), {})[
            run.name.rsplit("/", 1)[1]
        ] = done
    table = []
    for group in rows.values():
        lacking = [name for name, done in group.items() if not done]
        shown = (
            ", ".join(lacking)
            if len(lacking) < 4
            else f"{lacking[0]}, …, {lacking[-1]} ({len(lacking)})"
        )
        table.append((len(group), len(group) - len(lacking), shown or "–"))
    index = pd.MultiIndex.from_tuples(rows, names=["dataset", "method", "preset"])
    return pd.DataFrame(table, index=index, columns=["asked for", "recorded", "missing"])


def recorded_summaries(dataset: str) -> dict[str, dict[str, Any]]:
    """Read the recorded errors on a test split by method: ours (preset cpu, seed 0), predictors."""
    found = {}
    for name, method, preset in (
        ("ours", "nesf", "cpu"),
        *((m, m, "default") for m in ("copy", "constant", "oracle")),
    ):
        folder = run_folder(RESULTS, dataset, method, preset, seed=0)
        if (folder / "run.json").exists() and "test" in (metrics := read_run(folder).metrics):
            found[name] = metrics["test"]
    return found


def metrics_table(
    summaries: Mapping[str, Mapping[str, Any]], *, dataset: str, split: str = "test"
) -> pd.DataFrame:
    """Set methods beside each other, and the paper's own NeSF where it has the dataset and split.

    `summaries`: `Metrics.summary` by method. One row per metric, one column per method; text, with
    the paper's number of digits.
    """
    columns = {
        method: {k: number_text(k, summary.get(k)) for k in LABELS}
        for method, summary in summaries.items()
    }
    published = paper_table().query("dataset == @dataset and method == 'nesf' and split == @split")
    if len(published):
        columns["paper"] = dict(zip(published["metric"], published["text"], strict=True))
    return pd.DataFrame(columns, index=list(LABELS)).fillna("–").rename(index=LABELS)
