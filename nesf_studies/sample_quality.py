"""The crystals that `nesf analyse sampling` has recorded, judged by the field's metrics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from nesf.crystals import Crystals
from nesf.data.dataset import Dataset
from nesf.records import read_csv
from nesf.saved import TrainedModel
from nesf_design.quality import Reference, judged_crystals, summary
from nesf_io.errors import DataError
from nesf_studies.style import ICSG3D, NESF, ORACLE, SECOND, TRIVIAL, name_rows, subplots
from nesf_studies.trust import wilson

# name and, after a blank, the stage; `certified`: those with a certificate
GENERATORS = {
    "flow certified": "flow, certified",
    "flow": "flow, settled",
    "flow 0": "flow, decoded once",
    "mixture certified": "mixture, certified",
    "mixture": "mixture, settled",
    "mixture 0": "mixture, decoded once",
    "noise certified": "noise, certified",
    "noise": "noise, settled",
    "noise 0": "noise, decoded once",
    "exchanged": "elements exchanged",
    "copy": "training crystals",
}
COLOURS = {"flow": NESF, "mixture": ORACLE, "noise": ICSG3D, "exchanged": SECOND, "copy": TRIVIAL}
# marker and fill ("": the generator's colour) of each stage
MARKERS = {"": ("o", ""), "0": ("o", "white"), "certified": ("D", "")}
# of the table and the figure, with units
METRICS = {
    "structurally_valid": "structurally valid, %",
    "compositionally_valid": "SMACT valid, %",
    "cov_recall": "COV-R, %",
    "cov_precision": "COV-P, %",
    "wdist_density": "W(density), g/cm³",
    "wdist_elements": "W(number of elements)",
    "unique": "unique, %",
    "novel": "novel, %",
    "new": "valid, unique and novel, %",
    "symmetric": "other than P1, %",
    "systems_like_test": "crystal systems as test, %",
}
DRAWN = ("structurally_valid", "compositionally_valid", "new", "symmetric")


@dataclass(frozen=True)
class Parameters:
    """What is judged."""

    samples: str = ""  # folder of the recorded analysis `sampling`


def recorded_samples(folder: str) -> Path:
    """Return the folder of recorded samples; DataError: it holds none."""
    path = Path(folder)
    if not folder or not (path / "samples.csv").exists():
        raise DataError(
            f"samples = {folder!r}: is no folder of recorded samples; make one with `nesf analyse sampling RUN`, and give it with --set samples=RUN/analysis/sampling"
        )
    return path


def groups(folder: Path) -> Iterator[tuple[str, Crystals]]:
    """Yield the crystals of each generator, and as `<generator> <stage>` those of earlier stages.

    `<generator> certified`: those of them that have a certificate.
    """
    final, table = Crystals.load(folder / "crystals.safetensors"), read_csv(folder / "samples.csv")
    certified = {*table.loc[table["certified"].astype(str) == "True", "id"]}
    names = np.array([i.split("-")[0] for i in final.ids])
    for name in dict.fromkeys(names):
        rows = np.flatnonzero(names == name)
        yield str(name), final.select(rows)
        sure = rows[[final.ids[i] in certified for i in rows]]
        if len(sure):
            yield f"{name} certified", final.select(sure)
    if (folder / "stages.safetensors").exists():
        stages = Crystals.load(folder / "stages.safetensors")
        keys = np.array([f"{i.split('-')[0]} {i.split(' | ')[1]}" for i in stages.ids])
        for name in dict.fromkeys(keys):
            yield str(name), stages.select(np.flatnonzero(keys == name))


def analyse(
    model: TrainedModel, dataset: Dataset, parameters: Parameters, *, progress: bool = True
) -> dict[str, pd.DataFrame]:
    """Judge recorded crystals.

    `metrics`: a row per generator and stage (`nesf_design.quality.summary`). `judged`: a row per
    crystal. `thresholds`: of the coverage.

    Raises:
        DataError: no samples are recorded in the folder.
    """
    folder = recorded_samples(parameters.samples)
    reference = Reference.of(*(dataset.split(split) for split in ("train", "val", "test")))
    rows, tables = [], []
    parts = list(groups(folder))
    for name, crystals in tqdm(parts, desc="judging", disable=not progress):
        table = judged_crystals(crystals, reference)
        rows.append({"generator": name, **summary(table, crystals, reference)})
        tables.append(table.assign(generator=name))
    structure, composition = reference.nearest
    return {
        "metrics": pd.DataFrame(rows),
        "judged": pd.concat(tables, ignore_index=True),
        "thresholds": pd.DataFrame([{"structure": structure, "composition": composition}]),
    }


def metrics_table(metrics: pd.DataFrame) -> pd.DataFrame:
    """Return the metrics with words, a row per generator, in the order of `GENERATORS`."""
    known = metrics.set_index("generator").reindex(
        [g for g in GENERATORS if g in set(metrics["generator"])]
    )
    shown = known[["n", *METRICS]].rename(columns=METRICS, index=GENERATORS)
    return shown.rename_axis(None).round(2)


def shares_chart(metrics: pd.DataFrame, *, title: str = "") -> Figure:
    """Draw shares of generators beside each other, with 95 % intervals.

    Hollow: decoded once; diamonds: certified.
    """
    order = [g for g in GENERATORS if g in set(metrics["generator"])]
    figure, axes = subplots(len(DRAWN), 11.5, 0.34 * len(order) + 1.3)
    name_rows(axes, [GENERATORS[g] for g in order])
    table = metrics.set_index("generator")
    for ax, name in zip(axes, DRAWN, strict=True):
        for row, generator in enumerate(order):
            share, n = table.loc[generator, name] / 100, int(table.loc[generator, "n"])
            low, high = wilson(share, n, z=1.96)
            colour, *stage = COLOURS[generator.split()[0]], *generator.split()[1:]
            ax.plot([100 * low, 100 * high], [row, row], color=colour)
            marker, fill = MARKERS[stage[0] if stage else ""]
            ax.plot(100 * share, row, marker, color=colour, markerfacecolor=fill or colour)
        ax.set(xlabel="%", xlim=(-3, 103))
        ax.set_title(METRICS[name].removesuffix(", %"), fontsize=10)
    figure.suptitle(title)
    return figure


def read_metrics(run: Path) -> dict[str, pd.DataFrame]:
    """Return what is recorded of a run's samples, by name; what is missing is left out."""
    files = {
        f"{analysis}/{name}": run / "analysis" / analysis / f"{name}.csv"
        for analysis, names in {
            "sampling": ("densities", "samples"),
            "sample-quality": ("metrics", "judged", "thresholds"),
        }.items()
        for name in names
    }
    return {key: read_csv(path) for key, path in files.items() if path.exists()}
