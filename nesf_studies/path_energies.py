"""Energies along paths between two crystals (Figures 5, 6, S1-S4), by CHGNet.

The frames are those that `nesf analyse interpolation` has recorded, and beside them the linear path
(`nesf_studies.interpolation.linear_path`): coordinates mixed, elements switched half-way.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nesf.crystals import Crystals
from nesf.data.dataset import Dataset
from nesf.records import read_csv
from nesf.saved import TrainedModel
from nesf_design.plausibility import energies
from nesf_io.errors import DataError
from nesf_studies.interpolation import linear_path
from nesf_studies.style import NESF, TRIVIAL, subplots


@dataclass(frozen=True)
class Parameters:
    """What is judged."""

    paths: str = ""  # folder of the recorded analysis `interpolation`


def analyse(
    model: TrainedModel, dataset: Dataset, parameters: Parameters, *, progress: bool = True
) -> dict[str, pd.DataFrame]:
    """Judge recorded frames. `frames`: a row per path, method and frame; `barriers`: `barriers`.

    Raises:
        DataError: no paths are recorded in the folder.
    """
    folder = Path(parameters.paths)
    if not parameters.paths or not (folder / "decoded.safetensors").exists():
        raise DataError(
            f"paths = {parameters.paths!r}: is no folder of recorded paths; make one with `nesf analyse interpolation RUN`, and give it with --set paths=RUN/analysis/interpolation"
        )
    decoded, ends = (Crystals.load(folder / f"{name}.safetensors") for name in ("decoded", "ends"))
    known = read_csv(folder / "frames.csv").set_index(["path", "method"]).sort_index()
    tables = []
    for k, name in enumerate(dict.fromkeys(i.rsplit(" | ", 1)[0] for i in decoded.ids)):
        rows = [i for i, j in enumerate(decoded.ids) if j.rsplit(" | ", 1)[0] == name]
        own, pair = decoded.select(rows), ends.select([2 * k, 2 * k + 1])
        t = known.loc[(name, "nesf"), "t"].to_numpy(float)
        for method, crystals in (("nesf", own), ("linear", linear_path(pair, t))):
            about = known.loc[(name, method)]
            judged = energies(crystals, progress=progress).drop(columns="id")
            frame = about[["frame", "t", "formula", "cell"]].reset_index(drop=True)
            tables.append(pd.concat([frame, judged], axis=1).assign(path=name, method=method))
    frames = pd.concat(tables, ignore_index=True)
    return {"frames": frames, "barriers": barriers(frames)}


def barriers(frames: pd.DataFrame) -> pd.DataFrame:
    """Return a row per path and method.

    `barrier`: the largest bonding energy above the straight line between those of the two ends,
    eV/atom, and `at`, its t; `jump`: the largest change between frames; `switches`: changes of the
    cell's formula, and `jump_at_switch`, whether the largest jump is at one; `judged_percent`:
    frames with an energy; `force`: median of the largest force, eV/Å.
    """
    rows = []
    for (path, method), table in frames.groupby(["path", "method"], sort=False):
        table = table.sort_values("t")
        value, t = table["bonding"].to_numpy(float), table["t"].to_numpy(float)
        first, last = value[np.isfinite(value)][[0, -1]]
        above = value - (first + (last - first) * t)
        step = np.abs(np.diff(value))
        switch = (table["cell"].shift() != table["cell"]).to_numpy()[1:]
        rows.append(
            {
                "path": path,
                "method": method,
                "barrier": np.nanmax(above),
                "at": t[int(np.nanargmax(above))],
                "jump": np.nanmax(step),
                "switches": int(switch.sum()),
                "jump_at_switch": bool(switch[int(np.nanargmax(step))]),
                "judged_percent": 100 * float(np.isfinite(value).mean()),
                "force": table["force"].median(),
            }
        )
    return pd.DataFrame(rows)


def barriers_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return `barriers` with words, NeSF and linear beside each other."""
    words = {
        "barrier": "barrier, eV/atom",
        "at": "at t",
        "jump": "largest jump, eV/atom",
        "switches": "switches",
        "jump_at_switch": "jump at a switch",
        "force": "median force, eV/Å",
        "judged_percent": "judged, %",
    }
    named = table.replace({"method": {"nesf": "NeSF"}}).rename(columns=words)
    return named.set_index(["path", "method"])[[*words.values()]].round(3)


def energies_along(frames: pd.DataFrame, *, title: str = "") -> Figure:
    """Draw the bonding energy along each path, NeSF beside linear mixing; dots: elements switch."""
    names = list(dict.fromkeys(frames["path"]))
    figure, axes = subplots(3, 11.5, 3.0 * -(-len(names) // 3), n_rows=-(-len(names) // 3))
    for ax, name in zip(axes, names, strict=False):
        for method, colour, style in (("linear", TRIVIAL, "--"), ("nesf", NESF, "-")):
            own = frames[(frames["path"] == name) & (frames["method"] == method)].sort_values("t")
            ax.plot(own["t"], own["bonding"], style, color=colour, label=_WORDS[method])
            switch = (own["cell"] != own["cell"].shift(fill_value=own["cell"].iloc[0])).to_numpy()
            ax.plot(own["t"][switch], own["bonding"][switch], "o", color=colour, markersize=4)
        ax.set_title(name, fontsize=10)
        ax.set(xlabel="t", xlim=(0, 1))
    for ax in axes[len(names) :]:
        ax.set_axis_off()
    for ax in axes[::3]:
        ax.set_ylabel("bonding energy, eV/atom")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False
    )
    figure.suptitle(title)
    return figure


_WORDS = {"nesf": "NeSF", "linear": "linear mixing of coordinates"}
