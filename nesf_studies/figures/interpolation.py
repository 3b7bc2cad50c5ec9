"""What changes along a path in latent space (Figures 5, 6, S1-S4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from nesf_studies.figures.style import NESF, ORACLE, SECOND, TRIVIAL, element_colour, subplots

if TYPE_CHECKING:
    from pandas import DataFrame


def path_chart(frames: DataFrame, *, title: str = "") -> Figure:
    """Composition, lattice and validity along one path.

    Args:
        frames: `frames` of `nesf_studies.analysis.interpolation` for one path; method nesf is drawn, and of method linear the lattice.
        title: path, model, seed.

    Returns:
        Left: share of each element, bands in the elements' colours, with the number of atoms. Middle: lattice lengths. Right: how far the
        structure moved since the frame before. Under each a strip: frames that are valid (filled) and not (hollow).
    """
    from pymatgen.core import Composition, Element

    ours, linear = (frames[frames["method"] == m].sort_values("t") for m in ("nesf", "linear"))
    figure, (left, middle, right) = subplots(3, 9.2, 3.1)
    figure.get_layout_engine().set(wspace=0.06)  # type: ignore[union-attr, call-arg]
    t = ours["t"].to_numpy()
    compositions = [Composition(f) if n else Composition({}) for f, n in zip(ours["cell"], ours["n_atoms"], strict=True)]
    elements = sorted({e for c in compositions for e in c.elements}, key=lambda e: e.X if e.X == e.X else 10.0)
    shares = np.array([[c.get_atomic_fraction(e) for c in compositions] for e in elements]).reshape(len(elements), len(t))
    edges = np.concatenate([t[:1], (t[1:] + t[:-1]) / 2, t[-1:]])
    below = np.zeros(len(t))
    for element, share in zip(elements, shares, strict=True):
        top = below + share
        colour = element_colour(Element(element.symbol).Z)
        left.stairs(top, edges, baseline=below, fill=True, facecolor=colour, edgecolor="#555555", linewidth=0.6)
        at = int(np.abs(t - (share * t).sum() / share.sum()).argmin())  # the middle of the band
        at = at if share[at] else int(share.argmax())
        left.text(t[at], (below + share / 2)[at], element.symbol, ha="center", va="center", fontsize=9, color=_readable(colour))
        below = top
    left.set(ylim=(0, 1), xlim=(0, 1), xlabel="t", ylabel="share of the atoms")
    atoms = left.twinx()
    atoms.step(t, ours["n_atoms"], where="mid", color="black", linewidth=1.2)
    atoms.set(ylabel="atoms in the cell (line)", ylim=(0, 1.15 * max(1, ours["n_atoms"].max())))
    atoms.spines[["top"]].set_visible(False)
    for name, marker, size, colour in (("a", "o", 7, NESF), ("b", "s", 4.5, SECOND), ("c", "^", 2.5, ORACLE)):
        middle.plot(t, ours[name], marker=marker, markersize=size, linewidth=0.8, label=name, color=colour, markerfacecolor="none")
        middle.plot(linear["t"], linear[name], color=TRIVIAL, linestyle="--", linewidth=0.9, label="linear" if name == "a" else None, zorder=0)
    middle.set(xlabel="t", ylabel="lattice lengths, Å")
    low, high = middle.get_ylim()
    if high - low < 0.2:
        middle.set_ylim((low + high) / 2 - 0.1, (low + high) / 2 + 0.1)
    middle.legend(frameon=False, fontsize="small", ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), handlelength=1.2, columnspacing=1)
    right.plot(t[1:], ours["structure_step"].iloc[1:], color=NESF, marker="o", markersize=3.5, linewidth=0.8, label="atoms, NeSF")
    right.plot(linear["t"].iloc[1:], linear["structure_step"].iloc[1:], color=TRIVIAL, linestyle="--", label="atoms, linear")
    valid = ours["valid"].to_numpy(bool)
    top = max(0.01, 1.25 * np.nanmax(ours["structure_step"].to_numpy(float), initial=0))
    right.scatter(t[valid], np.full(valid.sum(), 0.95 * top), marker="s", s=14, color=NESF, label="valid frame")
    right.scatter(t[~valid], np.full((~valid).sum(), 0.95 * top), marker="s", s=14, facecolor="white", edgecolor=NESF, label="not valid")
    right.set(xlabel="t", ylabel="moved per frame, Å", ylim=(-0.03 * top, 1.02 * top))
    right.legend(frameon=False, fontsize="small", ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.suptitle(title)
    return figure


def _readable(background: str) -> str:
    """Black or white, whichever is seen better on a colour `#rrggbb`."""
    red, green, blue = (int(background[i : i + 2], 16) for i in (1, 3, 5))
    return "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 128 else "white"


def path_summary(counts: DataFrame, *, title: str = "") -> Figure:
    """How smooth and how valid whole paths are, NeSF beside the linear path.

    Args:
        counts: `paths` of `nesf_studies.analysis.interpolation`, those that were run.
        title: model, seed.
    """
    panels = {
        "changes": "changes of\nthe formula",
        "length_step_to_even": "largest step of a length\n(1: an even path)",
        "mean_structure_step": "mean step\nof the atoms, Å",
        "charge_balanced_percent": "charge-balanced\nframes, %",
    }
    names = list(dict.fromkeys(counts["path"]))
    figure, axes = subplots(len(panels), 9.2, 1.0 + 0.34 * len(names))
    for i, (ax, (column, label)) in enumerate(zip(axes, panels.items(), strict=True)):
        for method, colour, marker in (("linear", TRIVIAL, "D"), ("nesf", NESF, "o")):
            rows = counts[counts["method"] == method].set_index("path")[column].reindex(names)
            ax.plot(rows.to_numpy(float), range(len(names)), marker, color=colour, markersize=7, label={"nesf": "NeSF"}.get(method, method))
        ax.set(yticks=range(len(names)), ylim=(len(names) - 0.5, -0.5), xlabel=label)
        ax.set_yticklabels(names if not i else [])
        ax.set_xlim(left=min(0, ax.get_xlim()[0]))
        ax.grid(axis="x", alpha=0.3)
    axes[-1].set_xlim(0, 105)
    axes[-1].legend(frameon=False, loc="lower left")
    figure.suptitle(title)
    return figure
