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
from nesf.decode import NeuralFields
from nesf.errors import DataError
from nesf.fields import Queries, nearest_atom
from nesf_studies.figures.crystals import draw_crystal
from nesf_studies.figures.style import DRAWN, ICSG3D, METHOD_COLOURS, NESF, SECOND, element_colours, element_handles, subplots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

    from nesf.saved import TrainedModel

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
    figure, (left, right) = subplots(2, 8.8, 4.2)
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


def plane_fields(
    crystals: Crystals, learned: FieldFunction, *, truth: FieldFunction | None = None, height: float | None = None, n: int = 126
) -> DataFrame:
    """Two pairs of fields on a horizontal plane through one crystal and 0.5 Å around its cell, to be drawn by `compare_fields`.

    Args:
        crystals: a batch of one crystal.
        learned: of `learned_field`.
        truth: the fields to compare with; the ground truth by default.
        height: z of the plane, Å; by default the height at which most atoms lie.
        n: points along each axis.

    Returns:
        n² rows: `x`, `y`, `z` (Å), `inside` the cell, `true_x` … `true_z` and `learned_x` … `learned_z` (vectors, Å), `true_species` and
        `learned_species` (atomic numbers).

    Raises:
        DataError: not exactly one crystal.
    """
    import pandas as pd

    if len(crystals) != 1:
        raise DataError(f"a slice is drawn of one crystal, not of {len(crystals)}; choose one with crystals.select([i])")
    points, _ = _plane(crystals, fullest_plane(crystals) if height is None else height, n)
    points = points.reshape(-1, 3)
    fractional = points @ np.linalg.inv(crystals.lattice[0])
    columns = dict(zip("xyz", points.T, strict=True)) | {"inside": ((fractional > -1e-6) & (fractional < 1 + 1e-6)).all(1)}
    for name, field in (("true", truth or true_field(crystals)), ("learned", learned)):
        vectors, species = field(points)
        columns |= {f"{name}_{k}": v for k, v in zip("xyz", vectors.T, strict=True)} | {f"{name}_species": species}
    return pd.DataFrame(columns)


def plane_agreement(table: DataFrame, *, near: float = 0.5) -> dict[str, float]:
    """How far two pairs of fields agree on the part of a plane that lies in the cell.

    Args:
        table: of `plane_fields`.
        near: Å; a step that ends nearer than this to the end of the true step goes to the same atom.

    Returns:
        `difference_median`, `difference_84` (Å: half of the points, and 84 % of them, differ by less), `same_end_percent`, `same_species_percent`.
    """
    inside = table[table["inside"]]
    difference = np.linalg.norm(inside[list(_LEARNED)].to_numpy() - inside[list(_TRUE)].to_numpy(), axis=1)
    return {
        "difference_median": float(np.median(difference)),
        "difference_84": float(np.percentile(difference, 84)),
        "same_end_percent": 100 * float(np.mean(difference < near)),
        "same_species_percent": 100 * float(np.mean(inside["true_species"] == inside["learned_species"])),
    }


_TRUE, _LEARNED = ("true_x", "true_y", "true_z"), ("learned_x", "learned_y", "learned_z")


def compare_fields(crystals: Crystals, table: DataFrame, *, title: str = "", arrows: int = 18) -> Figure:
    """Position field (above) and species field (below) on a plane: true, learned, and where they differ.

    Args:
        crystals: a batch of one crystal.
        table: of `plane_fields`.
        title: name of the crystal and the model.
        arrows: along each axis.
    """
    n = round(len(table) ** 0.5)
    square = {name: table[name].to_numpy().reshape(n, n) for name in table.columns}
    x, y, height = square["x"], square["y"], float(table["z"].iloc[0])
    extent = (float(x.min()), float(x.max()), float(y.min()), float(y.max()))
    vectors = {name: np.stack([square[k] for k in keys], -1) for name, keys in (("true", _TRUE), ("learned", _LEARNED))}
    distances = {name: np.linalg.norm(v, axis=-1) for name, v in vectors.items()}
    figure, axes = subplots(3, 9.2, 6.6, n_rows=2)
    step = max(1, n // arrows)
    part = (slice(step // 2, None, step),) * 2
    farthest = float(distances["true"].max())
    for ax, name in zip(axes[:2], vectors, strict=True):
        u, v = vectors[name][part][..., 0], vectors[name][part][..., 1]
        drawn = ax.quiver(x[part], y[part], u, v, distances[name][part], angles="xy", scale_units="xy", scale=3, width=0.006, cmap="viridis_r")
        drawn.set_clim(0, farthest)
        ax.set_title(f"position field, {name}")
    figure.colorbar(drawn, ax=axes[:2], label="distance to the nearest atom, Å", shrink=0.8)
    difference = np.linalg.norm(vectors["learned"] - vectors["true"], axis=-1)
    image = axes[2].imshow(difference, cmap="magma_r", vmin=0, vmax=1, extent=extent, origin="lower")
    figure.colorbar(image, ax=axes[2], label="|learned − true|, Å", extend="max" if difference.max() > 1 else "neither", shrink=0.8, pad=0.02)
    axes[2].set_title("position field, difference")
    present = np.unique(np.concatenate([square["true_species"].ravel(), square["learned_species"].ravel(), crystals.species]))
    colours = ListedColormap(element_colours(present))
    for ax, name in zip(axes[3:5], vectors, strict=True):
        index = np.searchsorted(present, square[f"{name}_species"])
        ax.imshow(index, cmap=colours, vmin=-0.5, vmax=len(present) - 0.5, extent=extent, origin="lower", alpha=0.6)
        ax.set_title(f"species field, {name}")
    other = square["true_species"] != square["learned_species"]
    axes[5].imshow(other, cmap=ListedColormap(["white", ICSG3D]), vmin=0, vmax=1, extent=extent, origin="lower", alpha=0.7)
    share = plane_agreement(table)["same_species_percent"]
    axes[5].set_title(f"another element: {100 - share:.1f} % of the cell")
    for ax in axes:
        ax.title.set_fontsize(10)
    for k, ax in enumerate(axes):
        _draw_atoms(ax, crystals, height)
        ax.set(xlabel="x, Å" if k > 2 else "", ylabel="y, Å" if k % 3 == 0 else "", aspect="equal", xlim=extent[:2], ylim=extent[2:])
    figure.legend(handles=element_handles(present), loc="outside lower center", ncols=len(present), frameon=False)
    figure.suptitle(f"{title}   plane z = {height:.2f} Å".strip())
    return figure


def field_error_curves(table: DataFrame, *, title: str = "") -> Figure:
    """Errors of fields against the distance to the nearest atom: the position field with its 68 % range, and the species field.

    Args:
        table: of `nesf_studies.analysis.fields.field_errors`.
        title: dataset, split, number of crystals.
    """
    figure, (left, right) = subplots(2, 8.6, 3.4)
    for name, part in table.groupby("field", sort=False):
        part = part[part["n_points"] >= 10]
        middle = (part["from"] + part["to"]).to_numpy() / 2
        style = {"color": METHOD_COLOURS.get(name, SECOND), "marker": "o", "markersize": 4, "label": DRAWN.get(name, name)}
        left.plot(middle, part["median"], **style)
        left.fill_between(middle, part["low"], part["high"], color=style["color"], alpha=0.2, linewidth=0)
        right.plot(middle, part["species"], **style)
    left.set(ylabel="|field − true field|, Å", title="position field", ylim=(0, None))
    right.set(ylabel="points with the right element, %", title="species field", ylim=(0, 102))
    for ax in (left, right):
        ax.set(xlabel="distance to the nearest atom, Å", xlim=(0, None))
        ax.grid(alpha=0.3)
    right.legend(frameon=False, loc="lower left")
    figure.suptitle(title)
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
    figure, axes = subplots(len(frames), 2.3 * len(frames), 2.9)
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
        ax.legend(handles=element_handles(np.unique(crystals.species[atoms])), loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
