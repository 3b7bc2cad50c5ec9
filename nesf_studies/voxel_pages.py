"""Tables of the book's page on the voxel baseline, from recorded runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nesf.records import RecordedRun
from nesf_studies.pages import LABELS, TABLE1, TITLES, unbroken
from nesf_studies.paper import PAPERS_NAME, paper_table, table

if TYPE_CHECKING:
    from pandas import DataFrame

ORACLE_METRICS = ("number_of_atoms_error_percent", "position_error_actual_angstrom", "species_error_actual_percent")
NOT_RECORDED = "not recorded"


def _texts(runs: Sequence[RecordedRun], dataset: str, split: str) -> dict[tuple[str, str], dict[str, str]]:
    """(method, preset) to metric to text of the recorded runs on one of the paper's datasets, with n."""
    rows = table([r for r in runs if PAPERS_NAME.get(r.run["dataset"]["name"], r.run["dataset"]["name"]) == dataset], split)
    return {
        (str(method), str(preset)): dict(zip(group["metric"], group["text"], strict=True)) | {"n": str(group["n"].max())}
        for (method, preset), group in rows.groupby(["method", "preset"])
    }


def _paper(dataset: str, method: str, split: str) -> dict[str, str]:
    rows = paper_table().query("dataset == @dataset and method == @method and split == @split")
    return dict(zip(rows["metric"], rows["text"], strict=True)) | ({"n": str(rows["n"].max())} if len(rows) else {})


def baseline_table(runs: Sequence[RecordedRun], dataset: str, split: str = "test") -> DataFrame:
    """The variants of the voxel baseline beside NeSF and the paper, on one of the paper's datasets; a column without a run says so.

    Args:
        runs: recorded runs.
        dataset: the paper's: icsg3d, lcs6, ybco.
        split: train, val or test.
    """
    import pandas as pd

    recorded = _texts(runs, dataset, split)
    columns = {"ICSG3D, paper": _paper(dataset, "icsg3d", split)}
    for title, key in {
        "as published": ("icsg3d", "as-published"),
        "repaired": ("icsg3d", "repaired"),
        "oracle, as published": ("icsg3d-oracle", "as-published"),
        "oracle, repaired": ("icsg3d-oracle", "repaired"),
        "NeSF, ours, cpu": ("nesf", "cpu"),
    }.items():
        columns[title] = recorded.get(key, {})
    columns["NeSF, paper"] = _paper(dataset, "nesf", split)
    cells = {
        title: {LABELS[m]: unbroken(texts.get(m, "–") if texts else NOT_RECORDED) for m in TABLE1} | {"n": texts.get("n", "–")}
        for title, texts in columns.items()
    }
    return pd.DataFrame(cells)


def label_radius_table(runs: Sequence[RecordedRun]) -> DataFrame:
    """The oracle by `label_frac` on the paper's datasets, validation and test crystals; `*`: what the preset `repaired` takes. Last the paper's trained ICSG3D."""
    import pandas as pd

    from nesf.icsg3d.config import LABEL_FRAC_ON

    short = dict(zip(ORACLE_METRICS, ("atoms, %", "position, Å", "species, %"), strict=True))
    rows = {}
    for dataset, title in TITLES.items():
        of = [
            r for r in runs if r.run["method"] == "icsg3d-oracle" and PAPERS_NAME.get(r.run["dataset"]["name"], r.run["dataset"]["name"]) == dataset
        ]
        by_split = {split: _texts(of, dataset, split) for split in ("val", "test")}
        radii = {float(r.run["config"]["voxels"]["label_frac"]): r.run["preset"] for r in of}  # two presets may have the same one
        for radius in sorted(radii, reverse=True):
            texts = {split: by_split[split].get(("icsg3d-oracle", radii[radius]), {}) for split in by_split}
            name = f"{radius:.2f}{' *' if radius == LABEL_FRAC_ON[dataset] else ''}"
            rows[title, name] = {(split, short[m]): unbroken(texts[split].get(m, "–")) for split in by_split for m in short}
        rows[title, "paper, trained"] = {
            (split, short[m]): unbroken(_paper(dataset, "icsg3d", split).get(m, "–")) for split in by_split for m in short
        }
    made = pd.DataFrame(list(rows.values()), index=pd.MultiIndex.from_tuples(rows, names=["dataset", "label_frac"]))
    made.columns = pd.MultiIndex.from_tuples(made.columns)
    return made


def reduced_runs(runs: Sequence[RecordedRun], split: str = "test") -> DataFrame:
    """Recorded trainings of the `-reduced` presets, a column each, with the same folds of the trivial predictors beside them."""
    import pandas as pd

    reduced = [r for r in runs if r.run["method"] == "icsg3d" and r.run["preset"].endswith("-reduced")]
    columns: dict[str, dict[str, str]] = {}
    for dataset in sorted({r.run["dataset"]["name"] for r in reduced}):
        own = [r for r in reduced if r.run["dataset"]["name"] == dataset]
        folds = {r.run["dataset"]["fold"] for r in own}
        same = [r for r in runs if r.run["dataset"]["name"] == dataset and r.run["dataset"]["fold"] in folds]
        recorded = _texts(same, PAPERS_NAME.get(dataset, dataset), split)
        wanted = [
            *sorted({("icsg3d", r.run["preset"]) for r in own}),
            ("icsg3d-oracle", "as-published"),
            ("icsg3d-oracle", "repaired"),
            ("copy", "default"),
        ]
        for method, preset in (key for key in wanted if key in recorded):
            texts = recorded[method, preset]
            name = preset if method == "icsg3d" else method if preset == "default" else f"oracle, {preset}"
            columns[f"{dataset}: {name}"] = {LABELS[m]: unbroken(texts.get(m, "–")) for m in TABLE1} | {"n": texts["n"]}
    return pd.DataFrame(columns)
