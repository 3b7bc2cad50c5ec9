"""The reconstruction of one crystal step by step, as stills and as a film (Figure 2)."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from ase.data import chemical_symbols
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image

from nesf.config import ReconstructionConfig
from nesf.crystals import Crystals
from nesf.data.dataset import Box
from nesf.decode import estimate_species, initialize_particles, move_particles, score_particles
from nesf.decoding_fields import StructureFields
from nesf.fields import local_grid
from nesf.suppression import suppress
from nesf_studies.crystals import cell_edges, from_front
from nesf_studies.style import ICSG3D, NESF, element_colours, element_handles, subplots

MOMENTS = (0, 1, 2, 5, 64)  # iterations that are shown


@dataclass(frozen=True)
class Steps:
    """The five steps of one crystal: M particles, K clusters, N atoms, Q queries around each."""

    # iterations to the positions [M, 3] (Å) after so many; a particle keeps its row
    moments: Mapping[int, np.ndarray]
    scores: np.ndarray  # [M], Å, after the last iteration
    kept: np.ndarray  # [M], whether the score is at most `score_threshold`
    cluster: np.ndarray  # [M], the cluster of each kept particle, the best first; −1 of the others
    sizes: np.ndarray  # [K], particles in each cluster
    accepted: np.ndarray  # [K], whether they are enough for an atom
    positions: np.ndarray  # [N, 3], Å: detected atoms, the centres of the accepted clusters
    # [N, Q, 3], Å: points around each atom at which the species field is evaluated
    queries: np.ndarray
    answers: np.ndarray  # [N, Q], atomic numbers that it gives there
    species: np.ndarray  # [N], atomic numbers that most of them name

    def at(self, moments: Sequence[int]) -> Steps:
        """Return the same steps with some of the moments."""
        return replace(self, moments={moment: self.moments[moment] for moment in moments})


@torch.no_grad()
def follow(
    fields: StructureFields,
    box: Box,
    vocabulary: Sequence[int],
    config: ReconstructionConfig | None = None,
    moments: Sequence[int] = MOMENTS,
) -> Steps:
    """Decode one crystal by the steps of `nesf.decode` and keep all intermediate results.

    No particle stops early (`converged` = 0), so that each keeps its row; where it ends differs by
    less than `converged`. Of the config, by default the paper's, the last of the ascending
    `moments` replaces `iterations`, and the rule for positions is the paper's.
    """
    config = replace(
        config or ReconstructionConfig(), converged=0.0, mode="exact", atom_position="lowest_score"
    )
    particles = initialize_particles([box], config)
    positions: dict[int, np.ndarray] = {}
    for before, moment in itertools.pairwise((0, *moments)):
        particles = move_particles(fields, particles, replace(config, iterations=moment - before))
        positions[moment] = particles.positions.numpy().copy()
    scores = score_particles(fields, particles, config).scores
    kept = scores <= config.score_threshold
    inside = particles.positions[kept]
    found = suppress(
        inside, scores[kept], torch.zeros(len(inside), dtype=torch.long), config.nms_radius
    )
    sizes = torch.bincount(found.member_of, minlength=len(found.centre))
    accepted = sizes >= config.min_particles
    atoms = inside[found.centre[accepted]]
    owner = torch.zeros(len(atoms), dtype=torch.long)
    grid = local_grid(config.species_interval, config.species_range)
    queries = atoms[:, None] + grid
    answers = fields.species(queries.flatten(0, 1), owner.repeat_interleave(len(grid))).view(
        -1, len(grid)
    )
    species, _ = estimate_species(fields, atoms, owner, len(vocabulary), config)
    numbers = np.asarray(vocabulary)
    cluster = np.full(len(scores), -1)
    cluster[kept.numpy()] = found.member_of.numpy()
    after_moving = (scores.numpy(), kept.numpy(), cluster, sizes.numpy(), accepted.numpy())
    return Steps(
        positions,
        *after_moving,
        atoms.numpy(),
        queries.numpy(),
        numbers[answers.numpy()],
        numbers[species.numpy()],
    )


def particles_left(steps: Steps) -> pd.DataFrame:
    """Count the particles: how far they still go at each moment, how many are kept and accepted."""
    *_, end = steps.moments.values()
    rows = [
        (
            f"after {moment} iterations",
            len(end),
            f"{np.median(np.linalg.norm(positions - end, axis=1)):.4f} Å from the end (median)",
        )
        for moment, positions in steps.moments.items()
    ]
    rejected = steps.sizes[~steps.accepted]
    clusters = f"{steps.accepted.sum()} clusters; {len(rejected)} rejected, with {rejected.sum()} particles"
    rows.append(("kept by score", int(steps.kept.sum()), f"{(~steps.kept).sum()} dropped"))
    rows.append(("in accepted clusters", int(steps.sizes[steps.accepted].sum()), clusters))
    return pd.DataFrame(rows, columns=["moment", "particles", "what"]).set_index("moment")


def steps_table(steps: Steps) -> pd.DataFrame:
    """Return a row per particle and moment; score and cluster (−1: dropped) are the final ones."""
    tables = {
        moment: pd.DataFrame(p, columns=list("xyz")).assign(
            score=steps.scores, cluster=steps.cluster
        )
        for moment, p in steps.moments.items()
    }
    return pd.concat(tables, names=["iterations", "particle"]).reset_index()


def votes_table(steps: Steps, crystals: Crystals) -> pd.DataFrame:
    """Return what `votes_chart` draws, a row per detected atom and element that is named."""
    rows = []
    for atom, (*named, answers) in enumerate(
        zip(steps.species, _nearest_species(steps, crystals), steps.answers, strict=True)
    ):
        winner, nearest = (chemical_symbols[z] for z in named)
        for z, votes in zip(*np.unique(answers, return_counts=True), strict=True):
            rows.append(
                (atom, chemical_symbols[z], int(votes), 100 * votes / len(answers), winner, nearest)
            )
    return pd.DataFrame(
        rows, columns=["atom", "element", "votes", "share_percent", "winner", "nearest_true_atom"]
    )


def _nearest_species(steps: Steps, crystals: Crystals) -> np.ndarray:
    """Return the atomic number [N] of the true atom nearest to each detected one."""
    return crystals.species[
        np.linalg.norm(crystals.positions - steps.positions[:, None], axis=-1).argmin(1)
    ]


def particle_paths(frames: Mapping[str, np.ndarray], crystals: Crystals) -> Figure:
    """Draw particles of one crystal (moment to positions [M, 3], Å) along z; circles: its atoms."""
    figure, axes = subplots(len(frames), 2.3 * len(frames), 2.9)
    points = np.concatenate([*frames.values(), crystals.positions])
    low, high = points.min(0) - 0.3, points.max(0) + 0.3
    for ax, (name, particles) in zip(axes, frames.items(), strict=True):
        ax.plot(particles[:, 0], particles[:, 1], ".", markersize=2, color=NESF, alpha=0.5)
        ax.plot(
            crystals.positions[:, 0],
            crystals.positions[:, 1],
            "o",
            markersize=13,
            markerfacecolor="none",
            markeredgecolor=ICSG3D,
        )
        ax.set(
            title=f"{name}\n{len(particles)} particles",
            xlabel="x, Å",
            aspect="equal",
            xlim=(low[0], high[0]),
            ylim=(low[1], high[1]),
        )
    axes[0].set_ylabel("y, Å")
    return figure


def reconstruction_steps(steps: Steps, crystals: Crystals, *, title: str = "") -> Figure:
    """Draw particles after each moment, kept by score, in clusters (with sizes), and the votes.

    A particle has the colour of the cluster in which it ends, from the start; circles are the true
    atoms.
    """
    panels: list[int | str] = [*steps.moments, "kept", "clusters", "votes"]
    columns = (len(panels) + 1) // 2
    figure, axes = subplots(columns, 2.2 * columns, 5.2, n_rows=2)
    for ax in axes:
        ax.set_axis_off()
    for ax, panel in zip(axes, panels, strict=False):
        _draw_panel(ax, steps, crystals, panel)
    present = np.unique(np.concatenate([crystals.species, steps.answers.ravel()]))
    figure.legend(
        handles=element_handles(present),
        loc="outside lower center",
        ncols=min(len(present), 12),
        frameon=False,
    )
    figure.suptitle(title)
    return figure


def votes_chart(steps: Steps, crystals: Crystals, *, title: str = "") -> Figure:
    """Draw for each detected atom the share of the queries that name each element (step 5)."""
    n = len(steps.positions)
    figure, (ax,) = subplots(1, 7, 0.9 + 0.26 * max(n, 1))
    present = np.unique(steps.answers)
    shares = 100 * np.mean(steps.answers[:, :, None] == present, axis=1)  # [N, elements]
    starts = shares.cumsum(1) - shares
    for k, colour in enumerate(element_colours(present)):
        ax.barh(
            range(n),
            shares[:, k],
            left=starts[:, k],
            color=colour,
            edgecolor="black",
            linewidth=0.4,
        )
    pairs = zip(steps.species, _nearest_species(steps, crystals), strict=True)
    ax.set_yticks(
        range(n),
        [f"{chemical_symbols[named]}   (true: {chemical_symbols[true]})" for named, true in pairs],
    )
    ax.set(
        xlim=(0, 100),
        ylim=(n - 0.4, -0.6),
        xlabel=f"votes of {steps.answers.shape[1] if n else 0} queries around the atom, %",
    )
    ax.legend(
        handles=element_handles(present), loc="upper left", bbox_to_anchor=(1, 1), frameon=False
    )
    ax.set_title(title, fontsize="medium")
    return figure


def reconstruction_frames(
    steps: Steps, crystals: Crystals, *, between: int = 4
) -> tuple[list[bytes], list[str]]:
    """Draw the panels of `reconstruction_steps` one by one, for `viewer.picture_slider`.

    `between` two moments of which a particle moves by more than 0.2 Å there are so many more
    pictures, on the straight line; they are no iterations.

    Returns:
        PNG files of 380 × 380 pixels with few colours (some 10 kB each), and their titles.
    """
    moments = list(steps.moments)
    panels: list[tuple[Steps, int | str, str]] = [(steps, moments[0], "")]  # with another title
    for moment, following in itertools.pairwise(moments):
        start = steps.moments[moment]
        way = steps.moments[following] - start
        if np.percentile(np.linalg.norm(way, axis=1), 99) > 0.2:
            for share in np.arange(1, between + 1) / (between + 1):
                panels.append(
                    (
                        replace(steps, moments={moment: start + share * way}),
                        moment,
                        f"on the way to iteration {following}",
                    )
                )
        panels.append((steps, following, ""))
    panels += [(steps, panel, "") for panel in ("kept", "clusters", "votes")]
    images, titles = [], []
    for shown, panel, title in panels:
        figure = Figure(figsize=(3.8, 3.8), dpi=100)
        ax = figure.add_axes((0, 0, 1, 1))
        own_title = _draw_panel(ax, shown, crystals, panel)
        titles.append(title or own_title)
        ax.set_title("")
        ax.set_axis_off()
        whole, small = io.BytesIO(), io.BytesIO()
        figure.savefig(whole, format="png")
        Image.open(whole).convert("RGB").quantize(64).save(small, format="png", optimize=True)
        images.append(small.getvalue())
    return images, titles


def animation(images: Sequence[bytes]) -> bytes:
    """Join PNG files of one size to a repeating GIF: 0.6 s a picture, three times for the last."""
    first, *others = (Image.open(io.BytesIO(image)).convert("P") for image in images)
    buffer = io.BytesIO()
    first.save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=others,
        duration=[600] * len(others) + [1800],
        loop=0,
    )
    return buffer.getvalue()


def _draw_panel(ax: Axes, steps: Steps, crystals: Crystals, panel: int | str) -> str:
    """Draw the particles after an iteration, `kept`, `clusters` or `votes`; return the title."""
    edges = from_front(cell_edges(crystals.lattice[0]))[..., :2]
    ax.add_collection(LineCollection(list(edges), colors="#404040", linewidths=0.8, zorder=0))
    if panel == "votes":
        title = f"votes: {steps.answers.size} queries"
        _draw_votes(ax, steps)
    else:
        x, y, _ = from_front(crystals.positions).T
        ax.scatter(
            x,
            y,
            s=130,
            facecolors="none",
            edgecolors=element_colours(crystals.species),
            linewidths=2.2,
            zorder=3,
        )
        *_, end = steps.moments.values()
        if isinstance(panel, int):
            title = (
                f"after {panel} iteration{'s' * (panel != 1)}"
                if panel
                else f"start: {len(end)} particles on a grid"
            )
            shown, at = np.ones(len(end), bool), steps.moments[panel]
        elif panel == "kept":
            title, shown, at = (
                f"kept by score: {steps.kept.sum()} of {len(steps.kept)}",
                steps.kept,
                end,
            )
        else:
            rejected = int((~steps.accepted).sum())
            title = f"clusters: {steps.accepted.sum()} atoms" + (
                f", {rejected} too small" if rejected else ""
            )
            shown, at = steps.cluster >= 0, end
            for place, size in zip(
                from_front(steps.positions)[:, :2], steps.sizes[steps.accepted], strict=True
            ):
                ax.annotate(
                    str(size),
                    tuple(place),
                    (7, 5),
                    textcoords="offset points",
                    fontsize=9,
                    zorder=6,
                )
        x, y, _ = from_front(at[shown]).T
        size, layer = (16, 4) if panel else (4, 2)
        ax.scatter(
            x,
            y,
            s=size,
            c=_end_colours(steps)[shown],
            alpha=0.7,
            edgecolors="none",
            zorder=layer,
            rasterized=True,
        )  # thousands of dots
    # the same limits in all panels: the cell and 1 Å around it
    low, high = edges.min((0, 1)) - 1, edges.max((0, 1)) + 1
    middle, half = (low + high) / 2, (high - low).max() / 2
    ax.set(
        xlim=(middle[0] - half, middle[0] + half),
        ylim=(middle[1] - half, middle[1] + half),
        aspect="equal",
    )
    ax.set_title(title, fontsize="medium")
    return title


def _draw_votes(ax: Axes, steps: Steps) -> None:
    """Draw the queries in the colours of the elements that they name, the nearest in front."""
    x, y, depth = from_front(steps.queries.reshape(-1, 3)).T
    order = np.argsort(depth)
    ax.scatter(
        x[order],
        y[order],
        s=4,
        c=element_colours(steps.answers.ravel()[order]),
        edgecolors="none",
        zorder=2,
        rasterized=True,
    )
    x, y, _ = from_front(steps.positions).T
    ax.scatter(x, y, s=90, facecolors="none", edgecolors="black", linewidths=1, zorder=3)


def _end_colours(steps: Steps) -> np.ndarray:
    """Return the colours [M, 4] of the atoms where particles end; black: they are no atom's."""
    number = np.append(np.where(steps.accepted, np.cumsum(steps.accepted) - 1, -1), -1)[
        steps.cluster
    ]
    colours = colormaps["tab10" if steps.accepted.sum() <= 10 else "tab20"]
    return np.where(number[:, None] < 0, (0.0, 0.0, 0.0, 1.0), colours(number % colours.N))
