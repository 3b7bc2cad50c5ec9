"""Position and species field on a plane through a crystal, and particles on their way (Figures 1 and 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from nesf.crystals import Crystals, pad, vocabulary_of
from nesf.errors import DataError
from nesf.fields import Queries, nearest_atom
from nesf.figures.crystals import draw_crystal
from nesf.figures.style import ICSG3D, NESF, element_colours, subplots
from nesf.reconstruction import NeuralFields

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from nesf.checkpoints import TrainedModel

IN_SLICE = 0.1  # Å; an atom this near to a slice is drawn as lying in it


# Points of a plane [..., 3] (Å) to vectors to the nearest atom [..., 3] (Å) and atomic numbers [...].
FieldFunction = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def true_field(crystals: Crystals, *, periodic: bool = False) -> FieldFunction:
    """The ground-truth position and species field of one crystal (Eq. 1's target), to be drawn."""
    vocabulary = vocabulary_of(crystals)
    padded = pad(crystals, vocabulary)

    def field(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        queries = torch.as_tensor(points, dtype=torch.float32).reshape(1, -1, 3)
        vectors, species = nearest_atom(Queries(queries, None), padded, periodic=periodic)
        return vectors[0].numpy().reshape(points.shape), np.array(vocabulary)[species[0].numpy()].reshape(points.shape[:-1])

    return field


def learned_field(model: TrainedModel, crystals: Crystals) -> FieldFunction:
    """The position and species field that a trained model gives for one crystal (Eq. 1), to be drawn.

    Args:
        model: a trained model.
        crystals: a batch of one crystal, which is encoded.
    """
    fields = NeuralFields(model.autoencoder, model.encode(crystals))
    vocabulary = np.array(model.vocabulary)

    @torch.no_grad()
    def field(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        queries = torch.as_tensor(points, dtype=torch.float32, device=model.device).reshape(-1, 3)
        index = torch.zeros(len(queries), dtype=torch.long, device=model.device)
        vectors, species = fields.position(queries, index).cpu().numpy(), fields.species(queries, index).cpu().numpy()
        return vectors.reshape(points.shape), vocabulary[species].reshape(points.shape[:-1])

    return field


def fullest_plane(crystals: Crystals) -> float:
    """The height z (Å) at which most atoms of the first crystal lie; of several, the lowest."""
    heights, counts = np.unique(crystals.positions[crystals.atoms(0), 2].round(2), return_counts=True)
    return float(heights[counts.argmax()])


def best_for_slice(crystals: Crystals) -> int:
    """The smallest crystal with two elements and three atoms in its fullest plane: a slice through it shows most, and stays clear."""

    def shown(i: int) -> tuple[int, int, int]:
        one = crystals.select([i])
        inside = np.abs(one.positions[:, 2] - fullest_plane(one)) < IN_SLICE
        return min(len(np.unique(one.species[inside])), 2), min(int(inside.sum()), 3), -len(one.species)

    return max(range(len(crystals)), key=shown)


def structure_field(crystals: Crystals, *, field: FieldFunction | None = None, height: float | None = None, title: str = "") -> Figure:
    """A horizontal slice through the position field (arrows) and the species field (colours) of one crystal, as in Fig. 1a.

    Args:
        crystals: a batch of one crystal.
        field: the fields to draw; the ground truth by default.
        height: z of the slice, Å; by default the height at which most atoms lie.
        title: name of the crystal and of the field.

    Raises:
        DataError: not exactly one crystal.
    """
    if len(crystals) != 1:
        raise DataError(f"a slice is drawn of one crystal, not of {len(crystals)}; choose one with crystals.select([i])")
    field = field or true_field(crystals)
    height = fullest_plane(crystals) if height is None else height
    figure, (left, right) = subplots(2, 10, 4.6)
    _draw_position_field(left, crystals, field, height)
    left.set_title("position field: to the nearest atom")
    points, extent = _plane(crystals, height, 200)
    species = field(points)[1]
    present = np.unique(np.concatenate([species.ravel(), crystals.species]))
    colours = element_colours(present)
    right.imshow(
        np.searchsorted(present, species), cmap=ListedColormap(colours), vmin=-0.5, vmax=len(present) - 0.5, extent=extent, origin="lower", alpha=0.6
    )
    _draw_atoms(right, crystals, height, legend=True)
    right.set_title("species field: its element")
    for ax in (left, right):
        ax.set(xlabel="x, Å", ylabel="y, Å", aspect="equal")
    figure.suptitle(f"{title}   slice at z = {height:.2f} Å".strip())
    return figure


def overview(actual: Crystals, detected: Crystals, *, field: FieldFunction | None = None) -> Figure:
    """The idea in one picture: a crystal, the position field that the decoder gives for it, the crystal read from that field.

    Args:
        actual: a batch of one crystal.
        detected: its reconstruction, likewise.
        field: the fields to draw; the ground truth by default.
    """
    figure = Figure(figsize=(11, 3.6))
    width, panels = 0.27, {}
    for name, left in zip(("crystal", "field", "reconstruction"), (0.01, 0.365, 0.72), strict=True):
        panels[name] = figure.add_axes((left, 0.02, width, 0.84))
    (before,), (after,) = actual.to_structures(), detected.to_structures()
    draw_crystal(panels["crystal"], before)
    draw_crystal(panels["reconstruction"], after)
    _draw_position_field(panels["field"], actual, field or true_field(actual), fullest_plane(actual))
    panels["field"].set(aspect="equal", xticks=[], yticks=[])
    panels["field"].spines[:].set_visible(False)
    titles = {
        "crystal": f"crystal, {before.composition.reduced_formula}",
        "field": "position field  f(p, z) = a − p",
        "reconstruction": "crystal read from the fields",
    }
    for name, title in titles.items():
        panels[name].set_title(title, fontsize=12)
    for x, label in ((0.322, "encode\nto z"), (0.677, "follow\nthe field")):
        figure.text(x, 0.52, label, ha="center", va="bottom", fontsize=10, color="#404040")
        figure.text(x, 0.46, "⟶", ha="center", va="center", fontsize=24, color="#404040")
    return figure


def particle_paths(frames: Mapping[str, np.ndarray], crystals: Crystals) -> Figure:
    """Particles of one crystal at several moments of the five steps, seen along z.

    Args:
        frames: name of the moment to positions [M, 3], Å.
        crystals: a batch of one crystal: its atoms are drawn as circles.
    """
    figure, axes = subplots(len(frames), 3 * len(frames), 3.4)
    points = np.concatenate([*frames.values(), crystals.positions])
    low, high = points.min(0) - 0.3, points.max(0) + 0.3
    for ax, (name, particles) in zip(axes, frames.items(), strict=True):
        ax.plot(particles[:, 0], particles[:, 1], ".", markersize=2, color=NESF, alpha=0.5)
        ax.plot(crystals.positions[:, 0], crystals.positions[:, 1], "o", markersize=13, markerfacecolor="none", markeredgecolor=ICSG3D)
        ax.set(title=f"{name}\n{len(particles)} particles", xlabel="x, Å", aspect="equal", xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axes[0].set_ylabel("y, Å")
    return figure


def _plane(crystals: Crystals, height: float, n: int) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """A square-ish grid [n, n, 3] over the cell and 0.5 Å around it, and its extent (x0, x1, y0, y1), Å."""
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) @ crystals.lattice[0]
    low, high = corners.min(0) - 0.5, corners.max(0) + 0.5
    x, y = np.meshgrid(np.linspace(low[0], high[0], n), np.linspace(low[1], high[1], n))
    return np.stack([x, y, np.full_like(x, height)], -1), (low[0], high[0], low[1], high[1])


def _draw_position_field(ax: Axes, crystals: Crystals, field: FieldFunction, height: float) -> None:
    points, extent = _plane(crystals, height, 200)
    distance = np.linalg.norm(field(points)[0], axis=-1)
    ax.imshow(distance, cmap="Greys", vmin=0, vmax=1.6 * distance.max(), extent=extent, origin="lower")
    points, _ = _plane(crystals, height, 18)
    vectors = field(points)[0]
    x, y, u, v = points[..., 0], points[..., 1], vectors[..., 0], vectors[..., 1]
    ax.quiver(x, y, u, v, angles="xy", scale_units="xy", scale=3, width=0.004, color=NESF)
    _draw_atoms(ax, crystals, height)


def _draw_atoms(ax: Axes, crystals: Crystals, height: float, *, legend: bool = False) -> None:
    """Atoms of the slice as discs, atoms elsewhere as circles, the edges of the cell as lines."""
    from pymatgen.core import Element

    a, b = crystals.lattice[0, :2, :2]
    outline = np.array([np.zeros(2), a, a + b, b, np.zeros(2)])
    ax.plot(outline[:, 0], outline[:, 1], color="#404040", linewidth=1)
    atoms = crystals.atoms(0)
    for position, z, colour in zip(crystals.positions[atoms], crystals.species[atoms], element_colours(crystals.species[atoms]), strict=True):
        inside = abs(position[2] - height) < IN_SLICE
        style = {"facecolor": colour, "edgecolor": "black"} if inside else {"fill": False, "edgecolor": colour, "linestyle": ":", "linewidth": 1.5}
        ax.add_patch(Circle((float(position[0]), float(position[1])), 0.22, zorder=3 if inside else 2, label=Element.from_Z(int(z)).symbol, **style))
    if legend:
        elements = sorted(set(crystals.species[atoms].tolist()))
        handles = [
            Circle((0, 0), facecolor=c, edgecolor="black", label=Element.from_Z(z).symbol)
            for z, c in zip(elements, element_colours(elements), strict=True)
        ]
        ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
