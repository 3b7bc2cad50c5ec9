"""Recorded benchmarks: time, memory and agreement, as tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nesf.records import read_record
from nesf_io.errors import DataError
from nesf_studies.page import RESULTS
from nesf_studies.style import ICSG3D, NESF, ORACLE, SECOND, TRIVIAL, subplots

BENCHMARKS = ("speed", "scaling", "profile", "agreement", "memory", "consistent")


def recorded_benchmark(name: str) -> dict[str, dict[str, Any]]:
    """Read what is recorded under `results/benchmarks/<name>`: kind (`BENCHMARKS`) to content.

    Raises:
        DataError: nothing is recorded under that name, or a record is broken.
    """
    folder = RESULTS / "benchmarks" / name
    found = {
        kind: read_benchmark(folder, kind)
        for kind in BENCHMARKS
        if (folder / f"{kind}.json").exists()
    }
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
    path = folder / f"{kind}.json"
    return read_record(path, "benchmark")


def recorded_streaming() -> pd.DataFrame:
    """Read what is recorded of training on streamed datasets, one row a measurement, if any.

    Text, with units; – where a row has no such number.
    """
    files = sorted((RESULTS / "benchmarks").rglob("streaming.json"))
    rows = [
        row
        for file in files
        for value in read_record(file, "benchmark").values()
        if isinstance(value, list)
        for row in value
        if isinstance(row, dict)
    ]
    shown = {
        label: [_in_units(row.get(key), scale, decimals) for row in rows]
        for key, (label, scale, decimals) in _STREAMING.items()
    }
    cases = [(row["case"], f"{row['crystals']:,}") for row in rows]
    index = pd.MultiIndex.from_tuples(cases, names=["case", "crystals"])
    return pd.DataFrame(shown, index=index)


# key of a row: label, divisor, decimals
_STREAMING = {
    "seconds": ("writing, s", 1, 1),
    "seconds_to_open": ("opening, with the trainer, s", 1, 0),
    "step_seconds": ("a step, s", 1, 2),
    "speed_against_memory": ("speed against in memory", 1, 2),
    "peak_anonymous_bytes": ("peak of own memory, GB", 1e9, 2),
    "peak_memory_bytes": ("peak with mapped files, GB", 1e9, 2),
    "bytes_on_disk": ("on disk, GB", 1e9, 3),
}


def _in_units(value: float | None, scale: float, decimals: int) -> str:
    return "–" if value is None else f"{value / scale:.{decimals}f}"


def speed_table(timings: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return recorded timings (`speed.json`) and their ratios to the plain reference."""
    rows = [
        (
            t["group"],
            t["case"],
            _time_text(t["median"]),
            t["unit"],
            t["rounds"],
            t["ratio"],
            t["ratio_of_minima"],
        )
        for t in timings
    ]
    ratios = ["times faster than plain", "by the fastest rounds"]
    table = pd.DataFrame(
        rows, columns=["what", "case", "median", "per", "rounds", *ratios]
    ).set_index(["what", "case"])
    return table.assign(**{name: [_ratio_text(r) for r in table[name]] for name in ratios})


def _ratio_text(ratio: float | None) -> str:
    """Write two digits: a ratio of a few rounds has no more."""
    return "–" if ratio is None or pd.isna(ratio) else f"{ratio:.{0 if ratio >= 10 else 1}f}"


def clocks_table(record: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Return the time of a training step by both of the records that have it, s.

    One row per preset and case that `speed.json` and `profile.json` share: median and fastest round
    of the first, mean of the second.
    """
    profiled = {
        (p["what"], p["case"]): p["seconds"] for p in record.get("profile", {}).get("profiles", ())
    }
    rows = {}
    for t in record["speed"]["timings"]:
        key = (t["group"].removeprefix("training step, "), t["case"])
        if key in profiled:
            rows[key] = tuple(f"{v:.2g}" for v in (t["median"], t["minimum"], profiled[key]))
    index = pd.MultiIndex.from_tuples(rows, names=["", "case"])
    columns = ["times, median", "times, fastest round", "where it goes, mean"]
    return pd.DataFrame(list(rows.values()), index=index, columns=columns)


def schedule_hours(record: Mapping[str, Mapping[str, Any]], epochs: int = 3200) -> pd.DataFrame:
    """Return what the paper's schedule takes by the slowest and the fastest recorded step, hours."""
    clocks = clocks_table(record).astype(float)
    steps = {t["group"]: t["detail"].get("steps") for t in record["speed"]["timings"]}
    rows = {}
    for (preset, case), seconds in clocks.iterrows():
        if preset == "preset paper":
            n = epochs * steps[f"training step, {preset}"]
            ends = sorted(n * s / 3600 for s in seconds)
            rows[case] = " to ".join(f"{float(f'{h:.2g}'):g}" for h in (ends[0], ends[-1]))
    return pd.DataFrame({f"{epochs} epochs, hours": rows})


def disagreement(rows: Sequence[Mapping[str, Any]], case: str) -> tuple[int, int]:
    """Count the crystals in which a mode of decoding disagrees with the plain one, and all."""
    own = [r for r in rows if r["case"] == case and "disagree" in r]
    return sum(r["disagree"] for r in own), sum(r["crystals"] for r in own)


def _time_text(seconds: float) -> str:
    scale, unit = (1, "s") if seconds >= 0.1 else (1e3, "ms") if seconds >= 1e-4 else (1e6, "µs")
    return f"{scale * seconds:.3g} {unit}"


def memory_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the recorded peak memory of decoding (`memory.json`), a process for each case."""
    columns = {
        r["case"]: (
            f"{r['particles']:,}",
            f"{r['atoms']:,}",
            f"{r['seconds']:.1f} s",
            f"{r['peak_memory_bytes'] / 1e9:.2f} GB",
        )
        for r in rows
    }
    return pd.DataFrame(columns, index=["particles", "atoms found", "time", "peak memory"]).T


def agreement_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return how often modes of decoding disagree with the plain algorithm (`agreement.json`)."""
    shown = [r for r in rows if "disagree" in r]
    table = pd.DataFrame(
        shown, columns=["split", "case", "crystals", "disagree", "largest_distance", "tolerance"]
    ).set_index(["split", "case"])
    table["disagree, %"] = 100 * table["disagree"] / table["crystals"]
    return table.rename(
        columns={
            "largest_distance": "largest distance of the others, Å",
            "tolerance": "tolerance, Å",
        }
    )


def scaling(series: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the `series` of a `scaling.json`: time against size, and a line of slope 1."""
    quantities = list(dict.fromkeys(one["quantity"] for one in series))
    figure, axes = subplots(len(quantities), 3.0 * len(quantities), 3.8)
    for ax, quantity in zip(axes, quantities, strict=True):
        largest = (0.0, 0.0)  # seconds and size of the slowest point
        for one, (colour, marker) in zip(
            (s for s in series if s["quantity"] == quantity),
            ((NESF, "o"), (SECOND, "s"), (ORACLE, "^")),
            strict=False,
        ):
            size, seconds = (
                np.array([p[k] for p in one["points"]], float) for k in ("size", "seconds")
            )
            label = f"{one['case']}\n$n^{{{one['exponent']:.2f}}}$, larger half $n^{{{one['exponent_upper_half']:.2f}}}$"
            ax.plot(size, seconds, color=colour, marker=marker, markersize=5, label=label)
            largest = max(largest, (seconds[-1], size[-1]))
        ends = np.array([0.01, 1])
        ax.plot(
            largest[1] * ends,
            largest[0] * ends,
            color="black",
            linestyle=":",
            linewidth=1,
            label="linear",
        )
        ax.set(xscale="log", yscale="log", xlabel=quantity, title=f"time against {quantity}")
        ax.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    axes[0].set_ylabel("seconds")
    return figure


def step_profile(profiles: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the `profiles` of a `profile.json`: parts of a training step, in seconds and percent."""
    kinds = list(dict.fromkeys(p["what"] for p in profiles))
    figure, axes = subplots(len(kinds), 4.4 * len(kinds), 5.0, n_rows=2)
    # Okabe and Ito
    colours = ["#56B4E9", ORACLE, "#CC79A7", NESF, SECOND, ICSG3D, "#F0E442", TRIVIAL]
    for k, ax in enumerate(axes):
        kind, relative = kinds[k % len(kinds)], k >= len(kinds)
        shown = [p for p in profiles if p["what"] == kind]
        totals, start = np.array([sum(p["sections"].values()) for p in shown]), np.zeros(len(shown))
        for section, colour in zip(shown[0]["sections"], colours, strict=False):
            widths = np.array([p["sections"].get(section, 0.0) for p in shown]) / (
                totals / 100 if relative else 1
            )
            ax.barh(range(len(shown)), widths, left=start, color=colour, label=section)
            start += widths
        for row, end in enumerate(totals if not relative else ()):
            ax.text(
                end,
                row,
                f" {end:.3g} s" if end >= 1 else f" {1000 * end:.3g} ms",
                va="center",
                fontsize=9,
            )
        ax.set_yticks(range(len(shown)), [p["case"] for p in shown])
        ax.set(ylim=(len(shown) - 0.4, -0.6), xlim=(0, 100 if relative else 1.2 * totals.max()))
        ax.set(
            xlabel="percent of the step" if relative else "seconds a step",
            title="" if relative else kind,
        )
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize=9,
    )
    return figure
