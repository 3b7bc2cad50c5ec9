"""Tables of errors, costs and what is recorded: Table 1, reconstruction, data."""

from __future__ import annotations

import math
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nesf.data.dataset import SPLITS
from nesf.files import read_json
from nesf.methods import run_folder
from nesf.records import RecordedRun, read_run, seconds
from nesf_studies.errors_by_atoms import materials_of
from nesf_studies.links import PAPER, Source, count, from_runs, linked, quoted
from nesf_studies.page import LABELS, RESULTS, TABLE1, TITLES, digits, number_text, unbroken
from nesf_studies.paper import beside_the_paper, paper_atoms, paper_table, table
from nesf_studies.record import PAPERS_NAME, metric_rows, run_rows, shown_method
from nesf_studies.verdicts import Mean, badge, compare

# of training on one Quadro RTX 8000 (Section 4.3)
PAPER_HOURS = {"icsg3d": 11, "lcs6": 9, "ybco": 1}
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
OWN_TITLES = TITLES | {"icsg3d-recovered": "ICSG3D (recovered part)"}
JUDGED = (
    "dataset",
    "paper_dataset",
    "preset",
    "metric",
    "paper",
    "ours",
    "n",
    "folders",
    "difference",
    "low",
    "high",
    "verdict",
    "assumed",
)
_PRESETS = ("paper", "official", "cpu", "cpu-consistent", "plus-five-steps", "plus")


def comparison_table(
    runs: Sequence[RecordedRun], dataset: str, split: str = "test"
) -> pd.DataFrame:
    """Return a dataset of Table 1 (test), S1 (train) or S2 (val), the paper's columns beside ours.

    Cells are HTML: mean ± standard deviation over n seeds or folds (last row), ours a link to the
    runs. A method without a recorded run has no column.
    """
    cells = beside_the_paper(runs, split).query("dataset == @dataset")
    origins = np.where(cells["source"] == "recorded", "ours", "paper")
    folders = _folders(runs, split)
    columns = {}
    for (origin, method), name in _METHODS.items():
        for preset, group in cells[(origins == origin) & (cells["method"] == method)].groupby(
            "preset", sort=False
        ):
            title = f"{name}, {preset}" if (origin, method) == ("ours", "nesf") else name
            texts = group.set_index("metric")["text"].reindex(
                [*TABLE1, "match_rate_percent"], fill_value="–"
            )
            made_by, source = folders.get((dataset, method, preset), []), group["source"].iloc[0]
            shown = {
                LABELS[metric]: _paper(text, source)
                if origin == "paper"
                else linked(unbroken(text), made_by, split)
                for metric, text in texts.items()
            }
            columns[title] = shown | {"n": count(group["n"].max())}
    return pd.DataFrame(columns)


def _folders(
    runs: Sequence[RecordedRun], split: str = ""
) -> dict[tuple[str, str, str], list[Path]]:
    """Return the folders of runs (with a split) by the paper's dataset, method shown and preset."""
    found: dict[tuple[str, str, str], list[Path]] = {}
    for run in runs:
        name, preset = run.run["dataset"]["name"], run.run["preset"]
        if not split or split in run.metrics:
            key = (PAPERS_NAME.get(name, name), shown_method(run.run["method"], preset), preset)
            found.setdefault(key, []).append(run.folder)
    return found


def _paper(text: str, source: str) -> str:
    return text if text == "–" else quoted(unbroken(text), f"the paper, {source}")


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


def judged(
    runs: Sequence[RecordedRun], split: str = "test", *, against: str = "nesf"
) -> pd.DataFrame:
    """Compare ours with the paper's NeSF (or its ICSG3D) in every cell of a table.

    One row per dataset, preset and metric: dataset, paper_dataset, preset, metric, `paper` and
    `ours` (text), n, folders, then the fields of `verdicts.Comparison`.
    """
    own = [
        run
        for run in runs
        if run.run["method"] == "nesf" and not run.run["preset"].startswith("trial-")
    ]
    folders = {
        key: [run.folder for run in own if (run.run["dataset"]["name"], run.run["preset"]) == key]
        for key in {(run.run["dataset"]["name"], run.run["preset"]) for run in own}
    }
    own_cells = paper_cells(split, "nesf")
    printed = own_cells if against == "nesf" else paper_cells(split, against)
    rows = []
    for cell in table(own, split).itertuples():
        name = PAPERS_NAME.get(cell.dataset, cell.dataset)
        if (name, cell.metric) in printed.index:
            paper = printed.loc[(name, cell.metric)]
            like = own_cells.loc[(name, cell.metric), "value"]  # the paper's spread of NeSF
            found = compare(Mean(cell.mean, cell.std, cell.n), paper["value"], like)
            about = (cell.dataset, name, cell.preset, cell.metric, paper["text"], cell.text, cell.n)
            made_by = folders[cell.dataset, cell.preset]
            interval = (found.difference, found.low, found.high)
            rows.append((*about, made_by, *interval, found.verdict, found.assumed))
    return pd.DataFrame(rows, columns=list(JUDGED))


def paper_cells(split: str, method: str) -> pd.DataFrame:
    """Return the paper's cells of a table: text and `value` (a `Mean`) by dataset and metric."""
    cells = paper_table().query("method == @method and split == @split")
    values = [Mean(c.mean, c.std, c.n, unit=10.0 ** -digits(c.metric)) for c in cells.itertuples()]
    return cells.assign(value=values).set_index(["dataset", "metric"])[["text", "value", "source"]]


def paper_against_itself(split: str = "test") -> pd.DataFrame:
    """Compare the paper's NeSF with its ICSG3D, cell by cell: what its own table says.

    One row per dataset and metric: `nesf`, `icsg3d` (text), difference, low, high, verdict,
    assumed. Where neither side has a deviation the verdict is that of the two numbers alone,
    `better` or `worse`, and low and high are NaN.
    """
    ours, theirs = paper_cells(split, "nesf"), paper_cells(split, "icsg3d")
    rows = []
    for (dataset, metric), cell in ours.iterrows():
        other = theirs.loc[(dataset, metric)]
        found = compare(cell["value"], other["value"])
        verdict = found.verdict
        if verdict == "not judged":
            verdict = "worse" if found.difference > 0 else "better"
        texts = (dataset, metric, cell["text"], other["text"])
        rows.append((*texts, found.difference, found.low, found.high, verdict, found.assumed))
    names = ["dataset", "metric", "nesf", "icsg3d", *JUDGED[-5:]]
    return pd.DataFrame(rows, columns=names)


def interval_text(metric: str, difference: float, low: float, high: float) -> str:
    """Write a difference and its interval: +0.0267 [+0.0117, +0.0417]."""

    decimals = digits(metric)
    if low == low and high > low:  # two digits of the interval's width
        decimals = max(decimals, min(decimals + 2, 1 - math.floor(math.log10(high - low))))

    def signed(value: float) -> str:
        text = f"{value:+.{decimals}f}"
        return text[1:] if float(text) == 0 else text.replace("-", "−")

    return signed(difference) + (f" [{signed(low)}, {signed(high)}]" if low == low else "")


def difference_table(
    runs: Sequence[RecordedRun],
    split: str = "test",
    *,
    against: str = "nesf",
    presets: Sequence[str] = (),
) -> pd.DataFrame:
    """Write `judged` as HTML: ours beside the paper's, difference with interval, and verdict.

    `presets`: those that are shown; none: all.
    """
    source = {"test": "Table 1", "train": "Table S1", "val": "Table S2"}[split]
    rows = {}
    cells = judged(runs, split, against=against)
    for cell in cells[cells["preset"].isin(presets or set(cells["preset"]))].itertuples():
        title = OWN_TITLES.get(cell.dataset, cell.dataset)
        interval = interval_text(cell.metric, cell.difference, cell.low, cell.high)
        rows[f"{title}, {cell.preset}", LABELS[cell.metric]] = (
            _paper(cell.paper, source),
            linked(unbroken(cell.ours), cell.folders, split),
            count(cell.n),
            linked(unbroken(interval), cell.folders, split),
            badge(cell.verdict),
            cell.assumed,
        )
    columns = ["paper", "ours", "n", "ours − paper [95 %]", "verdict", "spread counted"]
    index = pd.MultiIndex.from_tuples(rows, names=["dataset, preset", "metric"])
    made = pd.DataFrame(list(rows.values()), index=index, columns=columns)
    return made.sort_index(level=0, sort_remaining=False)


def paper_lattice_table(splits: Sequence[str] = ("test", "train", "val")) -> pd.DataFrame:
    """List the cells in which the paper's own NeSF has the larger error than its ICSG3D; HTML."""
    rows = {}
    for split in splits:
        source = {"test": "Table 1", "train": "Table S1", "val": "Table S2"}[split]
        for cell in paper_against_itself(split).query("difference > 0").itertuples():
            interval = interval_text(cell.metric, cell.difference, cell.low, cell.high)
            verdict = badge(cell.verdict) if cell.low == cell.low else "worse (no spread given)"
            rows[source, TITLES[cell.dataset], LABELS[cell.metric]] = (
                _paper(cell.nesf, source),
                _paper(cell.icsg3d, source),
                _paper(interval, source),
                verdict,
            )
    names = ["table", "dataset", "metric"]
    index = pd.MultiIndex.from_tuples(rows, names=names)
    columns = ["NeSF, paper", "ICSG3D, paper", "NeSF − ICSG3D [95 %]", "NeSF is"]
    return pd.DataFrame(list(rows.values()), index=index, columns=columns)


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
    folders = [r.folder for r in runs if _recipe(r) == (dataset, "nesf", preset)]
    rows = {}
    for name, group in (
        ("right", difference == 0),
        ("too few", difference < 0),
        ("too many", difference > 0),
    ):
        known, some = group & position.notna(), bool(group.any())
        weighted = np.average(position[known], weights=n_atoms[known]) if known.any() else np.nan
        wrong = np.average(species[group], weights=n_atoms[group]) if some else np.nan
        part = (position * n_atoms)[known].sum() / (position * n_atoms).sum()
        cells = {
            "materials, %": f"{100 * group.mean():.1f}",
            "atoms, %": f"{100 * n_atoms[group].sum() / n_atoms.sum():.1f}",
            "position (actual), Å": f"{weighted:.4f}" if known.any() else "–",
            "species (actual), %": f"{wrong:.2f}" if some else "–",
            "share of the position error, %": f"{100 * part:.1f}",
        }
        rows[name] = {label: linked(text, folders, split) for label, text in cells.items()}
    return pd.DataFrame(rows).T.rename_axis("number of atoms")


def _recipe(run: RecordedRun) -> tuple[str, str, str]:
    return run.run["dataset"]["name"], run.run["method"], run.run["preset"]


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
    folders = {r.folder.name: [r.folder] for r in runs if _recipe(r) == (dataset, "nesf", preset)}
    shown = {}
    for name, label in names.items():
        texts = worst[name] if name in ("id", "formula") else worst[name].map("{:.2f}".format)
        if name.startswith("n_atoms"):
            texts = worst[name].map(str)
        shown[label] = [
            linked(text, folders[run], "worst")
            for text, run in zip(texts, worst["run"], strict=True)
        ]
    return pd.DataFrame(shown, index=worst["run"])


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
            PAPER_HOURS.get(group["paper_dataset"].iloc[0]),
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
        folders = [runs[i].folder for i in group["run"]]
        epochs = ", ".join(f"{n:.0f}" for n in sorted(set(group["epochs"]))) if trained else "–"
        minutes_text = f"{minutes.mean():.1f}{spread}" if trained else "–"
        memory = max(about["peak_memory_bytes"] for about in abouts) / 1e9
        costs[key] = {
            "runs": count(len(group)),
            "epochs": linked(epochs, folders),
            "training, minutes": linked(minutes_text, folders),
            "decoding and scores, minutes": linked(f"{others:.1f}", folders),
            "peak memory, GB": linked(f"{memory:.1f}", folders),
            "device": linked("; ".join(sorted(devices)), folders),
            "paper (3200 epochs, Quadro RTX 8000)": quoted(f"{hours} h", "the paper, Section 4.3")
            if hours and trained
            else "–",
        }
    return pd.DataFrame(
        list(costs.values()),
        index=pd.MultiIndex.from_tuples(costs, names=["dataset", "method", "preset"]),
    )


def recipes_table(runs: Sequence[RecordedRun]) -> pd.DataFrame:
    """List what is recorded, a row a dataset, method and preset, with a link to its runs; HTML."""
    found: dict[tuple[str, str, str], list[Path]] = {}
    for run in runs:
        found.setdefault(_recipe(run), []).append(run.folder)
    rows = [
        (dataset, method, linked(preset, folders), count(len(folders)))
        for (dataset, method, preset), folders in found.items()
    ]
    columns = ["dataset", "method", "preset", "runs"]
    return pd.DataFrame(rows, columns=columns).set_index(columns[:2])


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


def linked_atoms(dataset: str) -> pd.DataFrame:
    """Return `atoms_table` as HTML: ours a link to the audit, no zeros."""
    rows = atoms_table(dataset)
    audit = [RESULTS / dataset / "audit.json"]
    made = rows.astype(object)
    for (split, source), row in rows.iterrows():
        made.loc[(split, source)] = [
            ""
            if not n
            else quoted(str(n), "the paper, Tables 2-4")
            if source == "paper"
            else linked(str(n), audit, "atoms")
            for n in row
        ]
    return made


def atoms_differences(dataset: str) -> pd.DataFrame:
    """List the counts in which the paper's table and the release differ, after its rows are named.

    The paper's rows of LCS6Å are exchanged: its validation row is compared with the released test
    split. The training row of ICSG3D is left out, for ours is a part of it. One row per split (as
    released) and number of atoms: `paper`, `release`.
    """
    rows = atoms_table(dataset).drop(columns="all")
    swapped = {"val": "test", "test": "val"} if dataset == "lcs6" else {}
    found = {}
    for split in SPLITS if PAPERS_NAME.get(dataset) is None else SPLITS[1:]:
        paper, ours = rows.loc[(swapped.get(split, split), "paper")], rows.loc[(split, "ours")]
        for n in rows.columns[paper != ours]:
            found[split, n] = (paper[n], ours[n])
    index = pd.MultiIndex.from_tuples(found, names=["split", "atoms in the cell"])
    return pd.DataFrame(list(found.values()), index=index, columns=["paper", "release"])


def linked_differences(dataset: str) -> pd.DataFrame:
    """Return `atoms_differences` as HTML: the release's counts a link to the audit."""
    rows, audit = atoms_differences(dataset), [RESULTS / dataset / "audit.json"]
    return rows.assign(
        paper=[quoted(str(n), "the paper, Tables 2-4") for n in rows["paper"]],
        release=[linked(str(n), audit, "atoms") for n in rows["release"]],
    )


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


def recorded_table(dataset: str) -> pd.DataFrame:
    """Return `metrics_table` of recorded test splits: ours (preset cpu, seed 0), predictors."""
    found, made_by = {}, dict[str, Source]()
    for name, method, preset in (
        ("ours", "nesf", "cpu"),
        *((m, m, "default") for m in ("copy", "constant", "oracle")),
    ):
        folder = run_folder(RESULTS, dataset, method, preset, seed=0)
        if (folder / "run.json").exists() and "test" in (metrics := read_run(folder).metrics):
            found[name], made_by[name] = metrics["test"], folder
    return from_runs(metrics_table(found, dataset=dataset), {"paper": PAPER} | made_by)


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
    shown = pd.DataFrame(columns, index=list(LABELS)).fillna("–").rename(index=LABELS)
    return from_runs(shown, {"paper": PAPER})
