"""The paper's numbers, and the recorded runs beside them: Tables 1, S1, S2 and 2-4."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from nesf.data.dataset import SPLITS
from nesf.files import write_atomically
from nesf.metrics import HEADLINE
from nesf.records import RecordedRun, all_runs
from nesf_io.errors import DataError
from nesf_studies.checksums import SUMS, TABLE, checksums
from nesf_studies.page import number_text
from nesf_studies.record import PAPERS_NAME, metric_rows, shown_method

TABLE_COLUMNS = (
    "source",
    "dataset",
    "method",
    "preset",
    "split",
    "metric",
    "mean",
    "std",
    "n",
    "text",
    "note",
)


def table(runs: Iterable[RecordedRun], split: str = "test") -> pd.DataFrame:
    """Return the headline metrics over seeds or folds, in the long form of `paper_table`.

    One row per dataset, method, preset and metric, columns `TABLE_COLUMNS`: mean and standard
    deviation (of a sample) over the n runs in which the metric is defined, and both as text; `note`
    counts the materials in which nothing is detected, over all runs.
    """
    rows = metric_rows(runs).query("split == @split")
    recipe = ["dataset", "method", "preset"]
    errors = rows[rows["metric"].isin(HEADLINE[1:])].groupby([*recipe, "metric"], sort=False)[
        "value"
    ]
    made = (
        errors.agg(mean="mean", std="std", n="count")
        .reset_index()
        .assign(source="recorded", split=split)
    )
    sums = rows.pivot_table(index=recipe, columns="metric", values="value", aggfunc="sum")
    notes = {
        k: f"nothing detected in {s['n_nothing_detected']:.0f} of {s['n_materials']:.0f}"
        for k, s in sums.iterrows()
        if s["n_nothing_detected"]
    }
    cells = zip(made["metric"], made["mean"], made["std"], strict=True)
    made["text"] = [
        number_text(metric, mean) + (f" ± {number_text(metric, std)}" if std == std else "")
        for metric, mean, std in cells
    ]
    made["note"] = [
        notes.get(key, "") for key in zip(*(made[name] for name in recipe), strict=True)
    ]
    return made[list(TABLE_COLUMNS)]


def paper_table() -> pd.DataFrame:
    """Read the paper's own numbers, all cells of Tables 1, S1 and S2, columns `TABLE_COLUMNS`.

    The method is `nesf` or `icsg3d` (the authors' ICSG3D), `source` the table. ICSG3D and LCS6Å:
    mean and standard deviation of n = 10 seeds. YBCO-like: one trial of a 20-fold cross-validation
    (n = 20, no deviation given).
    """
    numbers = pd.read_csv(
        Path(__file__).with_name("paper_numbers.csv"),
        keep_default_na=False,
        converters={"std": lambda s: float(s or "nan")},
    )
    return numbers[list(TABLE_COLUMNS)]


def compared(runs: Iterable[RecordedRun]) -> pd.DataFrame:
    """Set recorded results of all splits beside the paper's NeSF, in the long form of `table`.

    Columns `TABLE_COLUMNS`, then `paper_mean`, `paper_std` (of the paper's NeSF on the dataset of
    that name, whatever its split is; NaN where it has none) and `sigma`, the difference of the
    means in units of the paper's standard deviation.
    """
    runs = list(runs)
    rows = pd.concat([table(runs, split) for split in SPLITS], ignore_index=True)
    paper = paper_table().query("method == 'nesf'")[["dataset", "split", "metric", "mean", "std"]]
    paper = paper.rename(
        columns={"dataset": "paper_dataset", "mean": "paper_mean", "std": "paper_std"}
    )
    rows = (
        rows.assign(paper_dataset=rows["dataset"].replace(PAPERS_NAME))
        .merge(paper, how="left")
        .drop(columns="paper_dataset")
    )
    return rows.assign(
        sigma=(rows["mean"] - rows["paper_mean"]) / rows["paper_std"].where(rows["paper_std"] > 0)
    )


def write_table(root: Path) -> Path:
    """Write the aggregate of all recorded runs (`compared`), then the checksums; returns its path.

    Raises:
        DataError: a run is broken, or nothing is recorded.
    """
    runs = [run for run in all_runs(root) if run.metrics]
    if not runs:
        raise DataError(f"{root}: no evaluated run in it; make one with `nesf run starter`")
    write_atomically(
        root / TABLE, compared(runs).to_csv(index=False, float_format="%.6g", lineterminator="\n")
    )
    write_atomically(root / SUMS, checksums(root))
    return root / TABLE


def beside_the_paper(runs: Iterable[RecordedRun], split: str = "test") -> pd.DataFrame:
    """Return Table 1 (test), S1 (train) or S2 (val): the paper's rows, then the recorded ones.

    Columns `TABLE_COLUMNS`. The dataset is the paper's; where ours is another split of it, `note`
    says which. The method is `shown_method`. Trials are left out.
    """
    ours = table([run for run in runs if not run.run["preset"].startswith("trial-")], split)
    ours["method"] = [
        shown_method(m, p) for m, p in zip(ours["method"], ours["preset"], strict=True)
    ]
    other = ours["dataset"].isin(PAPERS_NAME)
    ours.loc[other, "note"] = ours.loc[other, "dataset"] + ours.loc[other, "note"].map(
        lambda note: f"; {note}" if note else ""
    )
    ours["dataset"] = ours["dataset"].replace(PAPERS_NAME)
    return pd.concat([paper_table().query("split == @split"), ours], ignore_index=True)


def paper_atoms() -> pd.DataFrame:
    """Read Tables 2-4 (n_atoms: in a cell); Table 3 has its last two rows exchanged, as printed."""
    return pd.read_csv(Path(__file__).with_name("paper_atoms_per_cell.csv"))
