"""The reconstruction of one crystal step by step (Figure 2): stills, and the frames of an animation."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from nesf.crystals import Crystals
from nesf_studies.figures.style import element_colours, element_handles, subplots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

    from nesf_studies.analysis.fields import Steps

_VIEW = "-90x,10x,-20y,0z"  # as crystals are drawn elsewhere (`draw_crystal`)


def reconstruction_steps(steps: Steps, crystals: Crystals, *, title: str = "") -> Figure:
    """Particles after each moment, kept by score, in clusters (with their sizes), and the votes for the elements: one panel each.

    A particle has the colour of the cluster in which it ends, from the start; circles are the true atoms.

    Args:
        steps: of `nesf_studies.analysis.fields.follow`.
        crystals: a batch of one crystal, the true one, whose cell and atoms are drawn.
        title: name of the crystal and the model.
    """
    panels: list[int | str] = [*steps.moments, "kept", "clusters", "votes"]
    columns = (len(panels) + 1) // 2
    figure, axes = subplots(columns, 2.2 * columns, 5.2, n_rows=2)
    for ax in axes:
        ax.set_axis_off()
    for ax, panel in zip(axes, panels, strict=False):
        _draw(ax, steps, crystals, panel)
    present = np.unique(np.concatenate([crystals.species, steps.answers.ravel()]))
    figure.legend(handles=element_handles(present), loc="outside lower center", ncols=min(len(present), 12), frameon=False)
    figure.suptitle(title)
    return figure


def reconstruction_frames(steps: Steps, crystals: Crystals, *, between: int = 4, pixels: int = 380) -> tuple[list[bytes], list[str]]:
    """The same panels one by one, all of one size, for `nesf_studies.viewer.picture_slider`; with particles on their way where they jump far.

    Args:
        steps: of `nesf_studies.analysis.fields.follow`.
        crystals: a batch of one crystal.
        between: pictures drawn between two moments of which a particle moves by more than 0.2 Å, on the straight line; they are no iterations.
        pixels: width and height.

    Returns:
        PNG files with few colours (some 10 kB each) and their titles.
    """
    drawn: list[tuple[int | str, np.ndarray | None, str]] = []
    moments = list(steps.moments)
    for moment, following in zip(moments, [*moments[1:], moments[-1]], strict=True):
        drawn.append((moment, None, ""))
        step = steps.moments[following] - steps.moments[moment]
        if np.percentile(np.linalg.norm(step, axis=1), 99) > 0.2:
            shares = np.arange(1, between + 1) / (between + 1)
            drawn += [(moment, steps.moments[moment] + share * step, f"on the way to iteration {following}") for share in shares]
    drawn += [(panel, None, "") for panel in ("kept", "clusters", "votes")]
    images, titles = [], []
    for panel, positions, title in drawn:
        figure = Figure(figsize=(3.8, 3.8), dpi=pixels / 3.8)
        ax = figure.add_axes((0, 0, 1, 1))
        titles.append(title or _draw(ax, steps, crystals, panel))
        if title:
            _draw(ax, steps, crystals, panel, positions)
        ax.set_title("")
        ax.set_axis_off()
        images.append(_small(figure))
    return images, titles


def votes_chart(steps: Steps, crystals: Crystals, *, title: str = "") -> Figure:
    """For each detected atom the share of the queries around it that name each element; the majority wins (step 5).

    Args:
        steps: of `nesf_studies.analysis.fields.follow`.
        crystals: a batch of one crystal: the element of its nearest atom is written beside.
        title: name of the crystal and the model.
    """
    from pymatgen.core import Element

    n = len(steps.positions)
    figure, (ax,) = subplots(1, 7, 0.9 + 0.26 * max(n, 1))
    present = np.unique(steps.answers) if n else np.zeros(0, np.int64)
    shares = np.array([[100 * np.mean(row == z) for z in present] for row in steps.answers]).reshape(n, len(present))
    start = np.zeros(n)
    for k, colour in enumerate(element_colours(present)):
        ax.barh(range(n), shares[:, k], left=start, color=colour, edgecolor="black", linewidth=0.4)
        start += shares[:, k]
    labels = []
    for position, z in zip(steps.positions, steps.species, strict=True):
        nearest = np.linalg.norm(crystals.positions - position, axis=1).argmin()
        labels.append(f"{Element.from_Z(int(z)).symbol}   (true: {Element.from_Z(int(crystals.species[nearest])).symbol})")
    ax.set(yticks=range(n), xlim=(0, 100), ylim=(n - 0.4, -0.6), xlabel=f"votes of {steps.answers.shape[1] if n else 0} queries around the atom, %")
    ax.set_yticklabels(labels)
    ax.legend(handles=element_handles(present), loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    ax.set_title(title, fontsize="medium")
    return figure


def steps_table(steps: Steps) -> DataFrame:
    """What `reconstruction_steps` draws: a row per particle and moment; score and cluster are those of the end (cluster −1: dropped)."""
    import pandas as pd

    parts = []
    for moment, positions in steps.moments.items():
        columns = {"iterations": moment, "particle": range(len(positions)), **dict(zip("xyz", positions.T, strict=True))}
        parts.append(pd.DataFrame(columns | {"score": steps.scores, "cluster": steps.cluster}))
    return pd.concat(parts, ignore_index=True)


def votes_table(steps: Steps, crystals: Crystals) -> DataFrame:
    """What `votes_chart` draws: a row per detected atom and element that was named: votes, their share (%), the winner, the element of the nearest true atom."""
    import pandas as pd
    from pymatgen.core import Element

    rows = []
    for atom, (position, winner, answers) in enumerate(zip(steps.positions, steps.species, steps.answers, strict=True)):
        nearest = crystals.species[np.linalg.norm(crystals.positions - position, axis=1).argmin()]
        for z, votes in zip(*np.unique(answers, return_counts=True), strict=True):
            symbols = {"element": z, "winner": winner, "nearest_true_atom": nearest}
            row = {"atom": atom, "votes": int(votes), "share_percent": 100 * votes / len(answers)}
            rows.append(row | {name: Element.from_Z(int(number)).symbol for name, number in symbols.items()})
    return pd.DataFrame(rows, columns=["atom", "element", "votes", "share_percent", "winner", "nearest_true_atom"])


def animation(images: Sequence[bytes], *, seconds: float = 0.6) -> bytes:
    """Pictures of one size as a GIF that repeats; the last stays three times as long.

    Args:
        images: PNG files.
        seconds: for which each is shown.
    """
    from PIL import Image

    frames = [Image.open(io.BytesIO(image)).convert("P") for image in images]
    times = [round(1000 * seconds)] * len(frames)
    times[-1] *= 3
    buffer = io.BytesIO()
    frames[0].save(buffer, format="GIF", save_all=True, append_images=frames[1:], duration=times, loop=0)
    return buffer.getvalue()


def _project(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points [..., 3] seen from the front: on the picture [..., 2], and how near they are to the eye [...]."""
    from ase.utils import rotate

    seen = points @ rotate(_VIEW)
    return seen[..., :2], seen[..., 2]


def _corners(crystals: Crystals) -> np.ndarray:
    return np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) @ crystals.lattice[0]


def _frame(crystals: Crystals) -> np.ndarray:
    """Limits of the picture (x0, x1, y0, y1), the same in all panels: the cell and 1 Å around it."""
    seen, _ = _project(_corners(crystals))
    low, high = seen.min(0) - 1, seen.max(0) + 1
    middle, half = (low + high) / 2, (high - low).max() / 2
    return np.array([middle[0] - half, middle[0] + half, middle[1] - half, middle[1] + half])


def _draw(ax: Axes, steps: Steps, crystals: Crystals, panel: int | str, positions: np.ndarray | None = None) -> str:
    """One panel: the particles after an iteration (or at other `positions`), `kept`, `clusters` or `votes`; returns its title."""
    corners = _corners(crystals)
    edges = [(corners[a], corners[a | bit]) for a in range(8) for bit in (1, 2, 4) if not a & bit]
    ax.add_collection(LineCollection(list(_project(np.array(edges))[0]), colors="#404040", linewidths=0.8, zorder=0))
    end = list(steps.moments.values())[-1]
    if panel == "votes":
        title = f"votes: {steps.answers.size} queries"
        place, depth = _project(steps.queries.reshape(-1, 3))
        order = np.argsort(depth)
        colours = np.array(element_colours(steps.answers.ravel()), dtype=object)
        ax.scatter(place[order, 0], place[order, 1], s=4, c=list(colours[order]), edgecolors="none", zorder=2, rasterized=True)
        atoms, _ = _project(steps.positions)
        ax.scatter(atoms[:, 0], atoms[:, 1], s=90, facecolors="none", edgecolors="black", linewidths=1, zorder=3)
    else:
        true, _ = _project(crystals.positions)
        ax.scatter(true[:, 0], true[:, 1], s=130, facecolors="none", edgecolors=element_colours(crystals.species), linewidths=2.2, zorder=3)
        if isinstance(panel, int):
            title = f"after {panel} iteration{'s' * (panel != 1)}" if panel else f"start: {len(end)} particles on a grid"
            shown, at = np.ones(len(end), bool), steps.moments[panel] if positions is None else positions
        elif panel == "kept":
            title, shown, at = f"kept by score: {steps.kept.sum()} of {len(steps.kept)}", steps.kept, end
        else:
            rejected = int((~steps.accepted).sum())
            title = f"clusters: {steps.accepted.sum()} atoms" + (f", {rejected} too small" if rejected else "")
            shown, at = steps.cluster >= 0, end
            centres = _project(steps.positions)[0]
            for (x, y), size in zip(centres, steps.sizes[steps.accepted], strict=True):
                ax.annotate(str(size), (x, y), (7, 5), textcoords="offset points", fontsize=9, zorder=6)
        place, _ = _project(at)
        x, y = place[shown].T
        size, layer = (16, 4) if panel else (4, 2)
        ax.scatter(x, y, s=size, c=_end_colours(steps)[shown], alpha=0.7, edgecolors="none", zorder=layer, rasterized=True)  # thousands of dots
    frame = _frame(crystals)
    ax.set(xlim=frame[:2], ylim=frame[2:], aspect="equal")
    ax.set_title(title, fontsize="medium")
    return title


def _end_colours(steps: Steps) -> np.ndarray:
    """Colours [M, 4] of the particles: that of the atom where each ends; black where its cluster is too small or its score too high."""
    number = np.append(np.where(steps.accepted, np.cumsum(steps.accepted) - 1, -1), -1)[steps.cluster]
    colours = np.array(colormaps["tab10" if steps.accepted.sum() <= 10 else "tab20"].colors)  # type: ignore[attr-defined]
    rgba = np.ones((len(number), 4))
    rgba[:, :3] = np.where(number[:, None] < 0, 0.0, colours[number % len(colours)])
    return rgba


def _small(figure: Figure) -> bytes:
    """A figure as a PNG of 64 colours."""
    from PIL import Image

    buffer, small = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, format="png")
    buffer.seek(0)
    Image.open(buffer).convert("RGB").quantize(64).save(small, format="png", optimize=True)
    return small.getvalue()
