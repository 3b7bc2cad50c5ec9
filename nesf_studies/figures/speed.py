"""Time and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from nesf_studies.figures.style import ICSG3D, NESF, ORACLE, SECOND, TRIVIAL, subplots

if TYPE_CHECKING:
    pass


def scaling(series: Sequence[Mapping[str, Any]]) -> Figure:
    """Time against queries, atoms and crystals on logarithmic axes, with a line of slope 1 to compare with.

    Args:
        series: those of a recorded `scaling.json` (schema/benchmark.json).
    """
    quantities = list(dict.fromkeys(one["quantity"] for one in series))
    figure, axes = subplots(len(quantities), 3.0 * len(quantities), 3.8)
    for ax, quantity in zip(axes, quantities, strict=True):
        largest = np.zeros(2)
        for one, (colour, marker) in zip((s for s in series if s["quantity"] == quantity), ((NESF, "o"), (SECOND, "s"), (ORACLE, "^")), strict=False):
            size, seconds = (np.array([p[k] for p in one["points"]], float) for k in ("size", "seconds"))
            label = f"{one['case']}\n$n^{{{one['exponent']:.2f}}}$, larger half $n^{{{one['exponent_upper_half']:.2f}}}$"
            ax.plot(size, seconds, color=colour, marker=marker, markersize=5, label=label)
            largest = max(largest, np.array([seconds[-1], size[-1]]), key=lambda point: point[0])
        ends = np.array([largest[1] / 100, largest[1]])
        ax.plot(ends, largest[0] * ends / largest[1], color="black", linestyle=":", linewidth=1, label="linear")
        ax.set(xscale="log", yscale="log", xlabel=quantity, title=f"time against {quantity}")
        ax.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    axes[0].set_ylabel("seconds")
    return figure


def step_profile(profiles: Sequence[Mapping[str, Any]]) -> Figure:
    """Where the time of a training step goes: stacked bars in seconds above, in percent below; a column for each kind of step.

    Args:
        profiles: those of a recorded `profile.json` (schema/benchmark.json).
    """
    kinds = list(dict.fromkeys(p["what"] for p in profiles))
    figure, axes = subplots(len(kinds), 4.4 * len(kinds), 5.0, n_rows=2)
    colours = ["#56B4E9", ORACLE, "#CC79A7", NESF, SECOND, ICSG3D, "#F0E442", TRIVIAL]  # Okabe and Ito
    for k, ax in enumerate(axes):
        kind = kinds[k % len(kinds)]
        shown = [p for p in profiles if p["what"] == kind]
        totals = np.array([sum(p["sections"].values()) for p in shown])
        relative = k >= len(kinds)
        start = np.zeros(len(shown))
        for section, colour in zip(shown[0]["sections"], colours, strict=False):
            widths = np.array([p["sections"].get(section, 0.0) for p in shown]) / (totals / 100 if relative else 1)
            ax.barh(range(len(shown)), widths, left=start, color=colour, label=section)
            start += widths
        for row, end in enumerate(totals if not relative else ()):
            ax.text(end, row, f" {_time(end)}", va="center", fontsize=9)
        ax.set(yticks=range(len(shown)), ylim=(len(shown) - 0.4, -0.6), xlim=(0, 100 if relative else 1.2 * totals.max()))
        ax.set(xlabel="percent of the step" if relative else "seconds a step", title="" if relative else kind)
        ax.set_yticklabels([p["case"] for p in shown])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
