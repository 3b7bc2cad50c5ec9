"""Position and species field of a crystal, learned and true, and their errors (Figures 1 and 2)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from nesf.crystals import Crystals, pad, vocabulary_of
from nesf.decoding_fields import GroundTruthFields, NeuralFields, StructureFields
from nesf.fields import Queries, nearest_atom
from nesf.metrics import align
from nesf.saved import TrainedModel
from nesf_io.errors import DataError
from nesf_studies.crystals import cell_corners, draw_crystal
from nesf_studies.style import (
    DRAWN,
    ICSG3D,
    METHOD_COLOURS,
    NESF,
    SECOND,
    draw_species,
    element_colours,
    element_handles,
    subplots,
    subscripts,
)

# Å; classes of the distance to the nearest atom
DISTANCES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
IN_SLICE = 0.1  # Å; an atom this near to a slice is drawn as lying in it
# columns of `plane_fields`
_VECTORS = {name: [f"{name}_{axis}" for axis in "xyz"] for name in ("true", "learned")}

# Points [..., 3] (Å) to vectors to the nearest atom [..., 3] (Å) and atomic numbers [...], of one
# crystal.
PointFields = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def encode_one(model: TrainedModel, crystals: Crystals) -> NeuralFields:
    """Return the fields that a model gives for one crystal, of elements that it knows (Eq. 1)."""
    return NeuralFields(model.autoencoder, model.encode(_one(crystals)))


def true_field(crystals: Crystals) -> PointFields:
    """Return the ground-truth position and species field of one crystal (Eq. 1's target)."""
    vocabulary = vocabulary_of(_one(crystals))
    return _point_fields(GroundTruthFields(pad(crystals, vocabulary)), vocabulary, "cpu")


def learned_field(model: TrainedModel, crystals: Crystals) -> PointFields:
    """Return the position and species field that a trained model gives for one crystal (Eq. 1)."""
    return _point_fields(encode_one(model, crystals), model.vocabulary, model.device)


def _point_fields(
    fields: StructureFields, vocabulary: Sequence[int], device: torch.device | str
) -> PointFields:
    numbers = np.array(vocabulary)

    @torch.no_grad()
    def evaluate(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        queries = torch.as_tensor(points, dtype=torch.float32, device=device).reshape(-1, 3)
        index = torch.zeros(len(queries), dtype=torch.long, device=device)
        vectors, species = (
            fields.position(queries, index).cpu().numpy(),
            fields.species(queries, index).cpu().numpy(),
        )
        return vectors.reshape(points.shape), numbers[species].reshape(points.shape[:-1])

    return evaluate


def _one(crystals: Crystals) -> Crystals:
    if len(crystals) != 1:
        raise DataError(
            f"fields are those of one crystal, not of {len(crystals)}; choose one with crystals.select([i])"
        )
    return crystals


def fullest_plane(crystals: Crystals) -> float:
    """Return the height z (Å), the lowest of several, at which most atoms of a crystal lie."""
    heights, counts = np.unique(
        crystals.positions[crystals.atoms(0), 2].round(2), return_counts=True
    )
    return float(heights[counts.argmax()])


def best_for_slice(crystals: Crystals) -> int:
    """Return the smallest crystal with two elements and three atoms in its fullest plane."""

    def shown(i: int) -> tuple[int, int, int]:
        one = crystals.select([i])
        inside = np.abs(one.positions[:, 2] - fullest_plane(one)) < IN_SLICE
        return (
            min(len(np.unique(one.species[inside])), 2),
            min(int(inside.sum()), 3),
            -len(one.species),
        )

    return max(range(len(crystals)), key=shown)


def plane_fields(
    crystals: Crystals, learned: PointFields, *, height: float | None = None, n: int = 126
) -> pd.DataFrame:
    """Evaluate the true and learned (or other) fields of one crystal on a plane of n² points.

    The plane is horizontal, by default at the height where most atoms lie, through the cell and 0.5
    Å around it; `compare_fields` draws it.

    Returns:
        `x`, `y`, `z` (Å), `inside` the cell, `true_x` … `true_z` and `learned_x` … `learned_z`
        (vectors, Å), `true_species` and `learned_species` (atomic numbers).
    """
    points, _ = _plane(_one(crystals), fullest_plane(crystals) if height is None else height, n)
    points = points.reshape(-1, 3)
    fractional = points @ np.linalg.inv(crystals.lattice[0])
    columns = dict(zip("xyz", points.T, strict=True)) | {
        "inside": ((fractional > -1e-6) & (fractional < 1 + 1e-6)).all(1)
    }
    for name, field in (("true", true_field(crystals)), ("learned", learned)):
        vectors, species = field(points)
        columns |= dict(zip(_VECTORS[name], vectors.T, strict=True)) | {f"{name}_species": species}
    return pd.DataFrame(columns)


def plane_agreement(table: pd.DataFrame, *, near: float = 0.5) -> dict[str, float]:
    """Summarise how far the fields of `plane_fields` agree inside the cell.

    Returns:
        `difference_median`, `difference_84` (Å: half of the points, and 84 % of them, differ by
        less), `same_end_percent` (two steps that end nearer to each other than `near`, Å, go to the
        same atom), `same_species_percent`.
    """
    inside = table[table["inside"]]
    true, learned = (inside[columns].to_numpy() for columns in _VECTORS.values())
    difference = np.linalg.norm(learned - true, axis=1)
    return {
        "difference_median": float(np.median(difference)),
        "difference_84": float(np.percentile(difference, 84)),
        "same_end_percent": 100 * float(np.mean(difference < near)),
        "same_species_percent": 100
        * float(np.mean(inside["true_species"] == inside["learned_species"])),
    }


@torch.no_grad()
def field_errors(
    model: TrainedModel,
    crystals: Crystals,
    others: Mapping[str, Crystals],
    *,
    n_points: int = 400,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure errors of the learned fields, and of fields in their place, by distance to an atom.

    Queries are `n_points` per crystal, half of them uniform in the cell, half around atoms
    (Gaussian, σ = 0.5 Å), the same for all. `others` are crystals with the same ids, whose true
    fields stand in for the learned ones (copies of training crystals, say).

    Returns:
        One row per field (`nesf` or a name of `others`) and class of the distance (`DISTANCES`):
        `field`, `from`, `to` (Å), `n_points`, `low`, `median`, `high`: length of the difference
        between the field and the true one (16th, 50th, 84th percentile, Å); `species`: points with
        the right element, %.
    """
    queries = Queries(_random_points(crystals, n_points, seed), None)
    vectors, species = nearest_atom(queries, pad(crystals, model.vocabulary))
    flat, index = (
        queries.positions.flatten(0, 1).to(model.device),
        torch.arange(len(crystals), device=model.device).repeat_interleave(n_points),
    )
    learned = NeuralFields(model.autoencoder, model.encode(crystals))
    fields = {
        "nesf": (
            learned.position(flat, index).cpu().view_as(vectors),
            learned.species(flat, index).cpu().view_as(species),
        )
    }
    for name, other in others.items():
        fields[name] = nearest_atom(queries, pad(align(crystals, other), model.vocabulary))
    classes = np.digitize(vectors.norm(dim=-1).flatten().numpy(), DISTANCES) - 1
    rows = []
    for name, (its_vectors, its_species) in fields.items():
        error = (its_vectors - vectors).norm(dim=-1).flatten().numpy()
        same = (its_species == species).flatten().numpy()
        for k, ends in enumerate(itertools.pairwise(DISTANCES)):
            inside = classes == k
            values = (
                (*np.percentile(error[inside], [16, 50, 84]), 100 * same[inside].mean())
                if inside.any()
                else (np.nan,) * 4
            )
            rows.append((name, *ends, int(inside.sum()), *values))
    return pd.DataFrame(
        rows, columns=["field", "from", "to", "n_points", "low", "median", "high", "species"]
    )


def _random_points(crystals: Crystals, n: int, seed: int) -> torch.Tensor:
    """Return [B, n, 3], Å."""
    random = np.random.default_rng(seed)
    points = []
    for i in range(len(crystals)):
        atoms = crystals.positions[crystals.atoms(i)]
        uniform = random.random((n - n // 2, 3)) @ crystals.lattice[i]
        around = atoms[random.integers(len(atoms), size=n // 2)] + 0.5 * random.standard_normal(
            (n // 2, 3)
        )
        points.append(np.concatenate([uniform, around]))
    return torch.as_tensor(np.array(points), dtype=torch.float32)


def structure_field(
    crystals: Crystals, *, field: PointFields | None = None, title: str = ""
) -> Figure:
    """Draw the fields of one crystal, by default the true ones, on its fullest plane (Fig. 1a)."""
    field = field or true_field(crystals)
    height = fullest_plane(_one(crystals))
    figure, (left, right) = subplots(2, 8.8, 4.2)
    _draw_position_field(left, crystals, field, height)
    left.set_title("position field: to the nearest atom")
    points, extent = _plane(crystals, height, 200)
    species = field(points)[1]
    draw_species(right, species, np.union1d(species, crystals.species), extent=extent, alpha=0.6)
    _draw_atoms(right, crystals, height)
    right.legend(
        handles=element_handles(np.unique(crystals.species)),
        loc="upper left",
        bbox_to_anchor=(1, 1),
        frameon=False,
    )
    right.set_title("species field: its element")
    for ax in (left, right):
        ax.set(xlabel="x, Å", ylabel="y, Å", aspect="equal")
    figure.suptitle(f"{title}   slice at z = {height:.2f} Å".strip())
    return figure


def compare_fields(crystals: Crystals, table: pd.DataFrame, *, title: str = "") -> Figure:
    """Draw the table of `plane_fields`: true fields, learned fields, and where they differ."""
    n = round(len(table) ** 0.5)
    x, y, *species = (
        table[name].to_numpy().reshape(n, n)
        for name in ("x", "y", "true_species", "learned_species")
    )
    height, extent = (
        float(table["z"].iloc[0]),
        (float(x.min()), float(x.max()), float(y.min()), float(y.max())),
    )
    vectors = [table[columns].to_numpy().reshape(n, n, 3) for columns in _VECTORS.values()]
    distances = np.linalg.norm(vectors, axis=-1)
    figure, axes = subplots(3, 9.2, 6.6, n_rows=2)
    step = max(1, n // 18)
    part = (slice(step // 2, None, step),) * 2
    for ax, name, vector, distance in zip(axes[:2], _VECTORS, vectors, distances, strict=True):
        u, v, _ = np.moveaxis(vector[part], -1, 0)
        drawn = ax.quiver(
            x[part],
            y[part],
            u,
            v,
            distance[part],
            angles="xy",
            scale_units="xy",
            scale=3,
            width=0.006,
            cmap="viridis_r",
        )
        drawn.set_clim(0, float(distances[0].max()))
        ax.set_title(f"position field, {name}")
    figure.colorbar(drawn, ax=axes[:2], label="distance to the nearest atom, Å", shrink=0.8)
    difference = np.linalg.norm(vectors[1] - vectors[0], axis=-1)
    image = axes[2].imshow(
        difference, cmap="magma_r", vmin=0, vmax=1, extent=extent, origin="lower"
    )
    figure.colorbar(
        image,
        ax=axes[2],
        label="|learned − true|, Å",
        extend="max" if difference.max() > 1 else "neither",
        shrink=0.8,
        pad=0.02,
    )
    axes[2].set_title("position field, difference")
    present = np.union1d(species, crystals.species)
    for ax, name, named in zip(axes[3:5], _VECTORS, species, strict=True):
        draw_species(ax, named, present, extent=extent, alpha=0.6)
        ax.set_title(f"species field, {name}")
    axes[5].imshow(
        species[0] != species[1],
        cmap=ListedColormap(["white", ICSG3D]),
        vmin=0,
        vmax=1,
        extent=extent,
        origin="lower",
        alpha=0.7,
    )
    axes[5].set_title(
        f"another element: {100 - plane_agreement(table)['same_species_percent']:.1f} % of the cell"
    )
    for k, ax in enumerate(axes):
        ax.title.set_fontsize(10)
        _draw_atoms(ax, crystals, height)
        ax.set(
            xlabel="x, Å" if k > 2 else "",
            ylabel="y, Å" if k % 3 == 0 else "",
            aspect="equal",
            xlim=extent[:2],
            ylim=extent[2:],
        )
    figure.legend(
        handles=element_handles(present),
        loc="outside lower center",
        ncols=len(present),
        frameon=False,
    )
    figure.suptitle(f"{title}   plane z = {height:.2f} Å".strip())
    return figure


def field_error_curves(table: pd.DataFrame, *, title: str = "") -> Figure:
    """Draw the table of `field_errors`: the position field's with its 68 % range, the species'."""
    figure, (left, right) = subplots(2, 8.6, 3.4)
    for name, part in table.groupby("field", sort=False):
        part = part[part["n_points"] >= 10]
        middle = (part["from"] + part["to"]).to_numpy() / 2
        style = {
            "color": METHOD_COLOURS.get(name, SECOND),
            "marker": "o",
            "markersize": 4,
            "label": DRAWN.get(name, name),
        }
        left.plot(middle, part["median"], **style)
        left.fill_between(
            middle, part["low"], part["high"], color=style["color"], alpha=0.2, linewidth=0
        )
        right.plot(middle, part["species"], **style)
    left.set(ylabel="|field − true field|, Å", title="position field", ylim=(0, None))
    right.set(ylabel="points with the right element, %", title="species field", ylim=(0, 102))
    for ax in (left, right):
        ax.set(xlabel="distance to the nearest atom, Å", xlim=(0, None))
        ax.grid(alpha=0.3)
    right.legend(frameon=False, loc="lower left")
    figure.suptitle(title)
    return figure


def overview(actual: Crystals, detected: Crystals, *, field: PointFields | None = None) -> Figure:
    """Draw a crystal, its position field (by default the true one) and its reconstruction."""
    figure = Figure(figsize=(11, 3.6))
    left, middle, right = (figure.add_axes((x, 0.02, 0.27, 0.84)) for x in (0.01, 0.365, 0.72))
    (before,), (after,) = actual.to_structures(), detected.to_structures()
    draw_crystal(left, before)
    left.set_title(f"crystal, {subscripts(before.composition.reduced_formula)}", fontsize=12)
    _draw_position_field(middle, actual, field or true_field(actual), fullest_plane(actual))
    middle.set(aspect="equal", xticks=[], yticks=[])
    middle.spines[:].set_visible(False)
    middle.set_title("position field  f(p, z) = a − p", fontsize=12)
    draw_crystal(right, after)
    right.set_title("crystal read from the fields", fontsize=12)
    for x, label in ((0.322, "encode\nto z"), (0.677, "follow\nthe field")):
        figure.text(x, 0.52, label, ha="center", va="bottom", fontsize=10, color="#404040")
        figure.text(x, 0.46, "⟶", ha="center", va="center", fontsize=24, color="#404040")
    return figure


def _plane(
    crystals: Crystals, height: float, n: int
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """Return a grid [n, n, 3] over the cell and 0.5 Å around it, and its (x0, x1, y0, y1)."""
    corners = cell_corners(crystals.lattice[0])
    low, high = corners.min(0) - 0.5, corners.max(0) + 0.5
    x, y = np.meshgrid(np.linspace(low[0], high[0], n), np.linspace(low[1], high[1], n))
    return np.stack([x, y, np.full_like(x, height)], -1), (low[0], high[0], low[1], high[1])


def _draw_position_field(ax: Axes, crystals: Crystals, field: PointFields, height: float) -> None:
    points, extent = _plane(crystals, height, 200)
    distance = np.linalg.norm(field(points)[0], axis=-1)
    ax.imshow(
        distance, cmap="Greys", vmin=0, vmax=1.6 * distance.max(), extent=extent, origin="lower"
    )
    points, _ = _plane(crystals, height, 18)
    (x, y, _), (u, v, _) = np.moveaxis(np.stack([points, field(points)[0]]), -1, 1)
    ax.quiver(x, y, u, v, angles="xy", scale_units="xy", scale=3, width=0.004, color=NESF)
    _draw_atoms(ax, crystals, height)


def _draw_atoms(ax: Axes, crystals: Crystals, height: float) -> None:
    """Draw atoms of the slice as discs, atoms elsewhere as circles, edges of the cell as lines."""
    outline = np.array([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)]) @ crystals.lattice[0, :2, :2]
    ax.plot(*outline.T, color="#404040", linewidth=1)
    for (x, y, z), colour in zip(
        crystals.positions, element_colours(crystals.species), strict=True
    ):
        inside = abs(z - height) < IN_SLICE
        style = (
            {"facecolor": colour, "edgecolor": "black"}
            if inside
            else {"fill": False, "edgecolor": colour, "linestyle": ":", "linewidth": 1.5}
        )
        ax.add_patch(Circle((float(x), float(y)), 0.22, zorder=3 if inside else 2, **style))
