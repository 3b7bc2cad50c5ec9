"""The paper's numbers, and the recorded runs beside them: Tables 1, S1, S2 and 2-4."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd

from nesf.data.dataset import SPLITS
from nesf.errors import DataError
from nesf.files import write_atomically
from nesf.metrics import HEADLINE
from nesf.records import RecordedRun, all_runs
from nesf_studies.checksums import SUMS, TABLE, checksums

TABLE_COLUMNS = ("source", "dataset", "method", "preset", "split", "metric", "mean", "std", "n", "text", "note")


PAPERS_NAME = {"icsg3d-recovered": "icsg3d", "icsg3d-as-released": "icsg3d"}  # of a dataset, where its split is another one


def table(runs: Iterable[RecordedRun], split: str = "test") -> pd.DataFrame:
    """Headline metrics over seeds or folds, in the long form of `paper_table`.

    Args:
        runs: recorded runs; those without the split are left out.
        split: train, val or test.

    Returns:
        One row per dataset, method, preset and metric, columns `TABLE_COLUMNS`: mean and standard deviation (of a sample) over the n
        runs in which the metric is defined, and both as text; `note` counts the materials in which nothing is detected, over all runs.
    """
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for run in runs:
        if split in run.metrics:
            groups.setdefault((run.run["dataset"]["name"], run.run["method"], run.run["preset"]), []).append(run.metrics[split])
    rows = []
    for (dataset, method, preset), summaries in groups.items():
        nothing, materials = (sum(s[k] for s in summaries) for k in ("n_nothing_detected", "n_materials"))
        for metric in HEADLINE[1:]:
            values = pd.Series([s[metric] for s in summaries if s[metric] is not None], dtype=float)
            mean, std = values.mean(), values.std(ddof=1)
            note = f"nothing detected in {nothing} of {materials}" if nothing else ""
            rows.append(("recorded", dataset, method, preset, split, metric, mean, std, len(values), text_of(metric, mean, std), note))
    return pd.DataFrame(rows, columns=list(TABLE_COLUMNS))


def paper_table() -> pd.DataFrame:
    """The paper's own numbers, all cells of Tables 1, S1 and S2, columns `TABLE_COLUMNS`.

    The method is `nesf` or `icsg3d` (the authors' ICSG3D), `source` the table. ICSG3D and LCS6Å: mean and standard deviation of
    n = 10 seeds. YBCO-like: one trial of a 20-fold cross-validation (n = 20, no deviation given).
    """
    with resources.files("nesf_studies").joinpath("paper_numbers.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, keep_default_na=False, converters={"std": lambda s: float(s or "nan")})[list(TABLE_COLUMNS)]


def compared(runs: Iterable[RecordedRun]) -> pd.DataFrame:
    """Recorded results of all splits beside the paper's NeSF, in the long form of `table`.

    Args:
        runs: recorded runs.

    Returns:
        Columns `TABLE_COLUMNS`, then `paper_mean`, `paper_std` (of the paper's NeSF on the dataset of that name, whatever its split is; NaN where
        it has none) and `sigma`, the difference of the means in units of the paper's standard deviation.
    """
    runs = list(runs)
    rows = pd.concat([table(runs, split) for split in SPLITS], ignore_index=True)
    paper = paper_table().query("method == 'nesf'").set_index(["dataset", "split", "metric"])
    keys = [(PAPERS_NAME.get(d, d), s, m) for d, s, m in rows[["dataset", "split", "metric"]].itertuples(index=False)]
    for column, name in (("mean", "paper_mean"), ("std", "paper_std")):
        rows[name] = [float(paper[column].get(key, float("nan"))) for key in keys]
    rows["sigma"] = (rows["mean"] - rows["paper_mean"]) / rows["paper_std"].where(rows["paper_std"] > 0)
    return rows


def write_table(root: Path) -> Path:
    """Write the aggregate of all recorded runs, `table1.csv` (`compared`), then `SHA256SUMS` of everything published below the folder.

    Args:
        root: folder of recorded runs, `results/`.

    Returns:
        Where the aggregate is.

    Raises:
        DataError: a run is broken, or nothing is recorded.
    """
    root = Path(root)
    runs = [run for run in all_runs(root) if run.metrics]
    if not runs:
        raise DataError(f"{root}: no evaluated run in it; make one with `nesf run starter`")
    write_atomically(root / TABLE, compared(runs).to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    write_atomically(root / SUMS, checksums(root))
    return root / TABLE


def beside_the_paper(runs: Iterable[RecordedRun], split: str = "test") -> pd.DataFrame:
    """Table 1 (test), S1 (train) or S2 (val): the paper's rows, then the recorded ones, columns `TABLE_COLUMNS`; trials of a recipe are left out.

    The dataset is the paper's; where ours is another split of it, `note` says which. The method is `shown_method`.
    """
    ours = table([run for run in runs if not run.run["preset"].startswith("trial-")], split)
    ours["method"] = [shown_method(m, p) for m, p in zip(ours["method"], ours["preset"], strict=True)]
    other = ours["dataset"].isin(PAPERS_NAME)
    ours.loc[other, "note"] = ours.loc[other, "dataset"] + ours.loc[other, "note"].map(lambda note: f"; {note}" if note else "")
    ours["dataset"] = ours["dataset"].replace(PAPERS_NAME)
    return pd.concat([paper_table().query("split == @split"), ours], ignore_index=True)


def shown_method(method: str, preset: str) -> str:
    """A recorded method in comparisons: of the voxel baseline each preset is one of its own, as `icsg3d-repaired`."""
    return f"{method}-{preset}" if method.startswith("icsg3d") else method


def paper_atoms() -> pd.DataFrame:
    """The paper's Tables 2-4, columns dataset, split, n_atoms (in a cell), materials; Table 3 with its last two rows exchanged as printed."""
    with resources.files("nesf_studies").joinpath("paper_atoms_per_cell.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def text_of(metric: str, mean: float, std: float) -> str:
    """Mean ± deviation with the paper's number of digits."""
    n = digits(metric)
    return "–" if mean != mean else f"{mean:.{n}f}" + (f" ± {std:.{n}f}" if std == std else "")


def digits(metric: str) -> int:
    """The decimals that the paper gives a metric."""
    return 0 if metric.startswith("n_") else 4 if metric.startswith("position") or metric == "match_rmse" else 2
