"""Figures of losses, metrics and errors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from nesf_studies.page import LABELS
from nesf_studies.style import DRAWN, ICSG3D, METHOD_COLOURS, NESF, SECOND, name_rows, subplots


def loss_curves(log: pd.DataFrame, *, title: str = "") -> Figure:
    """Draw the loss of Eq. 2 and its four parts over epochs, from the `log.csv` of a run."""
    panels = {
        "loss": "total loss (Eq. 2)",
        "loss_position": "position, Å²",
        "loss_species": "species, nats",
        "loss_length": "lengths, Å²",
        "loss_angle": "angles, rad²",
    }
    figure, axes = subplots(3, 8.6, 5.0, n_rows=2)
    for ax, (column, label) in zip(axes, panels.items(), strict=False):
        ax.plot(log["epoch"], log[column], color=NESF, label="training")
        validated = log.dropna(subset=[f"val_{column}"])
        ax.plot(
            validated["epoch"],
            validated[f"val_{column}"],
            color=SECOND,
            linestyle="--",
            marker="o",
            markersize=3,
            label="validation",
        )
        ax.set(yscale="log", xlabel="epoch", title=label)
        low, high = ax.get_ylim()
        if high >= 10 * low:  # a power of ten is labelled; labels between would overlap
            ax.yaxis.set_minor_formatter(NullFormatter())
    axes[-1].set_axis_off()
    axes[-1].legend(*axes[0].get_legend_handles_labels(), frameon=False, loc="center")
    figure.suptitle(title)
    return figure


def metrics_chart(
    tables: Mapping[str, Mapping[str, float | None]],
    metrics: Mapping[str, str],
    *,
    paper: Mapping[str, float] | None = None,
) -> Figure:
    """Draw every method on every metric; lower is better. The paper's value is a hollow marker.

    `tables`: the values of each method, None or NaN where there is none; `metrics`: the label of
    each metric's panel.
    """
    figure, axes = subplots(len(metrics), 2.2 * len(metrics), 0.6 + 0.35 * len(tables))
    name_rows(axes, list(tables))
    for ax, (metric, label) in zip(axes, metrics.items(), strict=True):
        for row, (method, values) in enumerate(tables.items()):
            value = values.get(metric)
            if value is not None and np.isfinite(value):
                ax.plot(value, row, "o", color=METHOD_COLOURS.get(method, NESF), markersize=8)
            if paper and method == "nesf" and metric in paper:
                ax.plot(
                    paper[metric],
                    row,
                    "o",
                    markerfacecolor="none",
                    markeredgecolor="black",
                    markersize=11,
                    label="paper",
                )
        ax.set(xlabel=label)
        ax.set_xlim(left=min(0.0, ax.get_xlim()[0]) - 0.02 * ax.get_xlim()[1])
    if paper:
        axes[0].legend(frameon=False, loc="lower right")
    return figure


def comparison(rows: pd.DataFrame, panels: Mapping[str, str], titles: Mapping[str, str]) -> Figure:
    """Draw Table 1: a row of panels a dataset, a panel a metric; hollow: the paper's.

    `rows`: `nesf_studies.paper.beside_the_paper`; `panels`: the label of each metric's panel;
    `titles`: of each dataset. Bars are ± one standard deviation over seeds or folds. `constant`,
    which is far off, is left out.
    """
    rows = rows[rows["method"].isin(DRAWN)]
    rows = rows.assign(
        ours=rows["source"] == "recorded", rank=rows["method"].map(list(DRAWN).index)
    )
    rows["recipe"] = rows["preset"].where(rows["ours"] & (rows["method"] == "nesf"), "")
    rows["line"] = (
        rows["method"].map(DRAWN)
        + ", "
        + ("ours " + rows["recipe"]).str.strip().where(rows["ours"], "paper")
    )
    rows = rows.sort_values(["rank", "ours", "recipe"], kind="stable")
    lines = {
        d: list(dict.fromkeys(rows.loc[rows["dataset"] == d, "line"]))
        for d in titles
        if (rows["dataset"] == d).any()
    }
    figure = Figure(
        figsize=(
            1.9 * len(panels) + 1.2,
            sum(0.26 * len(names) + 0.95 for names in lines.values()),
        ),
        layout="constrained",
    )
    grid = figure.subplots(
        len(lines),
        len(panels),
        squeeze=False,
        height_ratios=[len(names) + 2 for names in lines.values()],
    )
    for (dataset, names), axes in zip(lines.items(), grid, strict=True):
        name_rows(axes, names)
        for ax, metric in zip(axes, panels, strict=True):
            for cell in rows[
                (rows["dataset"] == dataset) & (rows["metric"] == metric)
            ].itertuples():
                y, colour = names.index(cell.line), METHOD_COLOURS.get(cell.method, ICSG3D)
                face, spread = (
                    colour if cell.ours else "white",
                    None if cell.std != cell.std else cell.std,
                )
                ax.errorbar(
                    cell.mean,
                    y,
                    xerr=spread,
                    fmt="o",
                    color=colour,
                    markerfacecolor=face,
                    markersize=6,
                    capsize=2.5,
                )
            ax.set(xlabel=panels[metric] if dataset == list(lines)[-1] else "")
            ax.set_xlim(left=min(0.0, ax.get_xlim()[0]))
            ax.spines[["top", "right"]].set_visible(False)
        axes[0].set_title(titles[dataset], loc="left", fontsize="medium")
    return figure


def forest(rows: pd.DataFrame, titles: Mapping[str, str]) -> Figure:
    """Draw the differences from the paper with their intervals, as shares of the paper's mean.

    `rows`: `nesf_studies.tables.judged`; a panel a dataset (`titles`: of the paper's names), a row
    a metric; dots are the preset `cpu`, squares nesf+. Left of the line ours has the smaller error;
    an interval that leaves the panel ends in an arrow.
    """
    shown = [name for name in titles if (rows["paper_dataset"] == name).any()]
    metrics = list(dict.fromkeys(rows["metric"]))
    figure, axes = subplots(max(len(shown), 1), 9.4, 0.42 * len(metrics) + 1.4)
    name_rows(axes, [LABELS[metric] for metric in metrics])
    low, high = -110.0, 210.0
    colours = {"better": NESF, "worse": ICSG3D, "not told apart": "#6b7280"}
    for ax, dataset in zip(axes, shown, strict=False):
        part = rows[(rows["paper_dataset"] == dataset) & rows["preset"].isin(("cpu", "plus"))]
        for cell in part.itertuples():
            printed = float(cell.paper.split()[0])
            if not printed:  # no share of nothing
                continue
            scale, plus = 100 / printed, cell.preset == "plus"
            y = metrics.index(cell.metric) + (0.17 if plus else -0.17)
            ends = [min(max(scale * v, low), high) for v in (cell.low, cell.high)]
            colour = colours.get(cell.verdict, "#6b7280")
            ax.plot(ends, [y, y], color=colour, linewidth=1.6)
            for end, value, marker in zip(ends, (cell.low, cell.high), "<>", strict=True):
                if not low < scale * value < high:
                    ax.plot(end, y, marker, color=colour, markersize=6)
            middle = min(max(scale * cell.difference, low), high)
            ax.plot(middle, y, "s" if plus else "o", color=colour, markersize=6)
        ax.axvline(0, color="black", linewidth=0.9)
        ax.set(
            xlim=(low - 8, high + 8), xlabel="difference, % of the paper's", title=titles[dataset]
        )
    handles = [
        Line2D([], [], color="#374151", marker=marker, linestyle="", label=label)
        for marker, label in (("o", "NeSF, preset cpu"), ("s", "nesf+"))
    ]
    handles += [Line2D([], [], color=c, linewidth=2, label=v) for v, c in colours.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)
    return figure


def error_distribution(materials: pd.DataFrame, *, title: str = "") -> Figure:
    """Draw the position errors and numbers of atoms of single crystals (`Metrics.materials`)."""
    figure, (left, right) = subplots(2, 8.6, 3.4)
    errors = materials["position_error_actual_angstrom"].dropna().to_numpy(float).clip(1e-3)
    left.hist(
        errors, bins=np.geomspace(1e-3, max(10.0, errors.max(initial=0)), 41).tolist(), color=NESF
    )
    if len(errors):
        left.axvline(
            np.median(errors),
            color="black",
            linestyle="--",
            label=f"median {np.median(errors):.3f} Å",
        )
        left.axvline(
            errors.mean(), color="black", linestyle=":", label=f"mean {errors.mean():.3f} Å"
        )
        left.legend(frameon=False)
    left.set(xscale="log", xlabel="position error (actual) of a crystal, Å", ylabel="crystals")
    counts = materials.groupby(["n_atoms_actual", "n_atoms_detected"]).size()
    actual, detected = (
        counts.index.get_level_values(k).to_numpy() for k in ("n_atoms_actual", "n_atoms_detected")
    )
    right.scatter(
        actual, detected, s=12 * counts.to_numpy(), color=NESF, alpha=0.6, edgecolor="none"
    )
    top = max(actual.max(initial=1), detected.max(initial=1)) + 1
    right.plot([0, top], [0, top], color="black", linewidth=0.8)
    right.set(xlabel="atoms in the cell", ylabel="atoms detected", xlim=(0, top), ylim=(-0.5, top))
    figure.suptitle(title)
    return figure
