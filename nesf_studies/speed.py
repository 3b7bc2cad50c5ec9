"""Recorded benchmarks: time, memory and agreement, as tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nesf.errors import DataError
from nesf.files import read_json
from nesf.records import schema_problems
from nesf_studies.page import RESULTS
from nesf_studies.style import ICSG3D, NESF, ORACLE, SECOND, TRIVIAL, subplots

BENCHMARKS = ("speed", "scaling", "profile", "agreement", "memory")


def recorded_benchmark(name: str) -> dict[str, dict[str, Any]]:
    """Read what is recorded under `results/benchmarks/<name>`: kind (`BENCHMARKS`) to its content; a kind that was not measured is left out.

    Raises:
        DataError: nothing is recorded under that name, or a record is broken.
    """
    folder = RESULTS / "benchmarks" / name
    found = {kind: read_benchmark(folder, kind) for kind in BENCHMARKS if (folder / f"{kind}.json").exists()}
    if not found:
        names = sorted({p.parent.name for p in (RESULTS / "benchmarks").glob("*/speed.json")})
        raise DataError(
            f"{folder}: no such recorded benchmark; there are {', '.join(names) or 'none'}; make one with `make bench OUT=results/benchmarks/{name}`"
        )
    return found


def read_benchmark(folder: Path, kind: str) -> dict[str, Any]:
    """Read one record of a benchmark and check it against its schema.

    Raises:
        DataError: it is missing or broken.
    """
    path = Path(folder) / f"{kind}.json"
    content = read_json(path)
    if problems := schema_problems("benchmark", content):
        raise DataError(f"{path}: {problems[0]}; measure again with `python -m benchmarks`")
    return content


def recorded_streaming() -> pd.DataFrame:
    """Read what is recorded of training on streamed datasets (`streaming.json` under `results/benchmarks`), one row a measurement; may be empty."""
    files = sorted((RESULTS / "benchmarks").rglob("streaming.json"))
    rows = [row for file in files for value in read_json(file).values() if isinstance(value, list) for row in value if isinstance(row, dict)]
    return pd.DataFrame(rows).dropna(axis=1, how="all").fillna("–")


def speed_table(timings: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return recorded timings (`speed.json`): median, the unit they are for, and the ratio to the plain reference of the same run."""
    columns = {
        "what": [t["group"] for t in timings],
        "case": [t["case"] for t in timings],
        "median": [_time_text(t["median"]) for t in timings],
        "per": [t["unit"] for t in timings],
        "rounds": [t["rounds"] for t in timings],
    }
    for column, key in (("times faster than plain", "ratio"), ("by the fastest rounds", "ratio_of_minima")):
        columns[column] = ["–" if t[key] is None else f"{t[key]:.1f}" for t in timings]
    return pd.DataFrame(columns).set_index(["what", "case"])


def _time_text(seconds: float) -> str:
    scale, unit = (1, "s") if seconds >= 0.1 else (1e3, "ms") if seconds >= 1e-4 else (1e6, "µs")
    return f"{scale * seconds:.3g} {unit}"


def memory_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the recorded peak memory of decoding (`memory.json`), each case in a process of its own."""
    columns = {r["case"]: (f"{r['particles']:,}", f"{r['atoms']:,}", f"{r['seconds']:.1f} s", f"{r['peak_memory_bytes'] / 1e9:.2f} GB") for r in rows}
    return pd.DataFrame(columns, index=["particles", "atoms found", "time", "peak memory"]).T


def agreement_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the recorded disagreement of the modes of decoding with the plain algorithm (`agreement.json`), per split."""
    shown = [r for r in rows if "disagree" in r]
    table = pd.DataFrame(shown, columns=["split", "case", "crystals", "disagree", "largest_distance", "tolerance"]).set_index(["split", "case"])
    table["disagree, %"] = 100 * table["disagree"] / table["crystals"]
    return table.rename(columns={"largest_distance": "largest distance of the others, Å", "tolerance": "tolerance, Å"})


def scaling(series: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw time against queries, atoms and crystals on logarithmic axes, with a line of slope 1 to compare with.

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
    """Draw where the time of a training step goes: stacked bars in seconds above, in percent below; a column for each kind of step.

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
            ax.text(end, row, f" {end:.3g} s" if end >= 1 else f" {1000 * end:.3g} ms", va="center", fontsize=9)
        ax.set(yticks=range(len(shown)), ylim=(len(shown) - 0.4, -0.6), xlim=(0, 100 if relative else 1.2 * totals.max()))
        ax.set(xlabel="percent of the step" if relative else "seconds a step", title="" if relative else kind)
        ax.set_yticklabels([p["case"] for p in shown])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure
