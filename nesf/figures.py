"""Figures: one typed function each, which returns a matplotlib figure and shows nothing.

One style and fixed, colour-blind safe colours throughout (Okabe and Ito): NeSF, ICSG3D, oracle, trivial predictors (grey), the paper's
values as hollow markers. Elements have Jmol's colours, as in the 3-D views.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.ticker import NullFormatter

from nesf.crystals import Crystals, pad, vocabulary_of
from nesf.errors import DataError
from nesf.fields import Queries, nearest_atom
from nesf.files import write_atomically
from nesf.reconstruction import NeuralFields

if TYPE_CHECKING:
    from ase import Atoms
    from matplotlib.axes import Axes
    from pandas import DataFrame
    from pymatgen.core import Structure

    from nesf.checkpoints import TrainedModel

NESF, ICSG3D, ORACLE, TRIVIAL, SECOND = "#0072B2", "#D55E00", "#009E73", "#999999", "#E69F00"
DRAWN = {
    "nesf": "NeSF",
    "icsg3d": "ICSG3D",
    "icsg3d-as-published": "ICSG3D",
    "icsg3d-repaired": "ICSG3D repaired",
    "copy": "copy",
    "oracle": "oracle",
}
METHOD_COLOURS = {"nesf": NESF, "icsg3d-as-published": ICSG3D, "icsg3d-repaired": ICSG3D, "oracle": ORACLE, "copy": TRIVIAL, "constant": TRIVIAL}

ON_BORDER = 0.3  # Å; an atom this near to a face of the cell is drawn on the opposite face too

IN_SLICE = 0.1  # Å; an atom this near to a slice is drawn as lying in it

# Points of a plane [..., 3] (Å) to vectors to the nearest atom [..., 3] (Å) and atomic numbers [...].
FieldFunction = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def _axes(n_columns: int, width: float, height: float, n_rows: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(figure.subplots(n_rows, n_columns, squeeze=False).flat)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def with_border_images(structure: Structure) -> Atoms:
    """The atoms of a cell and their images on its opposite faces, edges and corners, as drawings of unit cells show them.

    Args:
        structure: any pymatgen structure; one without sites gives an empty cell.
    """
    from ase import Atoms

    fractional = structure.frac_coords.reshape(-1, 3) if len(structure) else np.zeros((0, 3))
    border = ON_BORDER / np.array(structure.lattice.abc)
    positions, numbers = [], []
    for coordinates, site in zip(fractional, structure, strict=True):
        shifts = [[0] + [1] * int(abs(x) < b) + [-1] * int(abs(x - 1) < b) for x, b in zip(coordinates, border, strict=True)]
        for shift in itertools.product(*shifts):
            positions.append(structure.lattice.get_cartesian_coords(coordinates + np.array(shift)))
            numbers.append(site.specie.Z)
    return Atoms(numbers=numbers, positions=np.reshape(positions, (-1, 3)), cell=structure.lattice.matrix, pbc=True)


def element_colour(z: int) -> str:
    """Jmol's colour of an element as `#rrggbb`; pictures, 3-D views and legends share it."""
    from ase.data.colors import jmol_colors

    return "#" + "".join(f"{round(255 * c):02x}" for c in jmol_colors[z])


def draw_crystal(ax: Axes, structure: Structure) -> None:
    """Draw a unit cell into axes, with the atoms on its faces repeated, seen from the front."""
    from ase.visualize.plot import plot_atoms

    ax.set_axis_off()
    if not len(structure):
        ax.text(0.5, 0.5, "nothing detected", ha="center", transform=ax.transAxes)
        return
    plot_atoms(with_border_images(structure), ax, rotation="-90x,10x,-20y,0z", radii=0.45, show_unit_cell=2)
    ax.margins(0.05)


def loss_curves(log: DataFrame, *, title: str = "") -> Figure:
    """The loss of Eq. 2 and its four parts over epochs, training and validation.

    Args:
        log: the `log.csv` of a run; an epoch without validation has no value in the `val_` columns.
        title: dataset, preset and seed.
    """
    panels = {
        "loss": "total loss (Eq. 2)",
        "loss_position": "position, Å²",
        "loss_species": "species, nats",
        "loss_length": "lengths, Å²",
        "loss_angle": "angles, rad²",
    }
    figure, axes = _axes(3, 9.5, 5.2, n_rows=2)
    for ax, (column, label) in zip(axes, panels.items(), strict=False):
        ax.plot(log["epoch"], log[column], color=NESF, label="training")
        validated = log.dropna(subset=[f"val_{column}"])
        ax.plot(validated["epoch"], validated[f"val_{column}"], color=SECOND, linestyle="--", marker="o", markersize=3, label="validation")
        ax.set(yscale="log", xlabel="epoch", title=label)
        low, high = ax.get_ylim()
        if high >= 10 * low:  # a power of ten is labelled; labels between would overlap
            ax.yaxis.set_minor_formatter(NullFormatter())
    axes[-1].set_axis_off()
    axes[-1].legend(*axes[0].get_legend_handles_labels(), frameon=False, loc="center")
    figure.suptitle(title)
    return figure


def metrics_chart(
    tables: Mapping[str, Mapping[str, float | None]], metrics: Mapping[str, str], *, paper: Mapping[str, float] | None = None
) -> Figure:
    """Every method on every metric; lower is better. The paper's value is a hollow marker.

    Args:
        tables: method to metric to value; None or nan where there is no value. A method's colour is that of its recorded runs' name.
        metrics: metric to the label of its panel, with the unit.
        paper: metric to the paper's value, where there is one.
    """
    figure, axes = _axes(len(metrics), 2.6 * len(metrics), 0.6 + 0.35 * len(tables))
    for i, (ax, (metric, label)) in enumerate(zip(axes, metrics.items(), strict=True)):
        for row, (method, values) in enumerate(tables.items()):
            value = values.get(metric)
            if value is not None and np.isfinite(value):
                ax.plot(value, row, "o", color=METHOD_COLOURS.get(method, NESF), markersize=8)
            if paper is not None and method == "nesf" and paper.get(metric) is not None:
                ax.plot(paper[metric], row, "o", markerfacecolor="none", markeredgecolor="black", markersize=11, label="paper")
        ax.set(yticks=range(len(tables)), ylim=(len(tables) - 0.5, -0.5), xlabel=label)
        ax.set_yticklabels(list(tables) if i == 0 else [])
        ax.set_xlim(left=min(0.0, ax.get_xlim()[0]) - 0.02 * ax.get_xlim()[1])
        ax.grid(axis="x", alpha=0.3)
    if paper:
        axes[0].legend(frameon=False, loc="lower right")
    return figure


def comparison(rows: DataFrame, panels: Mapping[str, str], titles: Mapping[str, str]) -> Figure:
    """Table 1 drawn: a row of panels a dataset, a panel a metric, a line a method; lower is better. Hollow: the paper's values.

    Args:
        rows: long form (`nesf.results.beside_the_paper`); bars are ± one standard deviation over seeds or folds. `constant`, which is far
            off, is left out.
        panels: metric to the label of its panel, with the unit.
        titles: dataset to its title.
    """
    order = list(DRAWN)
    rows = rows[rows["method"].isin(order)]
    datasets = [d for d in titles if d in set(rows["dataset"])]
    lines = {
        d: sorted(
            {
                (m, s == "recorded", p if m == "nesf" and s == "recorded" else "")
                for m, s, p in of[["method", "source", "preset"]].itertuples(index=False)
            },
            key=lambda line: (order.index(line[0]), line[1:]),
        )
        for d, of in rows.groupby("dataset")
    }
    figure = Figure(figsize=(1.9 * len(panels) + 1.2, sum(0.26 * len(lines[d]) + 0.95 for d in datasets)), layout="constrained")
    grid = figure.subplots(len(datasets), len(panels), squeeze=False, height_ratios=[len(lines[d]) + 2 for d in datasets])
    for dataset, axes in zip(datasets, grid, strict=True):
        for i, ax in enumerate(axes):
            metric = list(panels)[i]
            for y, (method, ours, preset) in enumerate(lines[dataset]):
                cell = rows.query("dataset == @dataset and metric == @metric and method == @method and (source == 'recorded') == @ours")
                cell = cell[cell["preset"] == preset] if preset else cell
                colour = METHOD_COLOURS.get(method, ICSG3D)
                for mean, std in cell[["mean", "std"]].itertuples(index=False):
                    face = colour if ours else "white"
                    ax.errorbar(mean, y, xerr=None if std != std else std, fmt="o", color=colour, markerfacecolor=face, markersize=6, capsize=2.5)
            names = [f"{DRAWN[m]}, {f'ours {p}'.strip() if ours else 'paper'}" for m, ours, p in lines[dataset]]
            ax.set(yticks=range(len(names)), ylim=(len(names) - 0.4, -0.6), xlabel=panels[metric] if dataset == datasets[-1] else "")
            ax.set_yticklabels(names if i == 0 else [])
            ax.set_xlim(left=min(0.0, ax.get_xlim()[0]))
            ax.grid(alpha=0.3)
            ax.spines[["top", "right"]].set_visible(False)
        axes[0].set_title(titles[dataset], loc="left", fontsize="medium")
    return figure


def save(figure: Figure, path: Path, data: DataFrame) -> list[Path]:
    """Write a figure as SVG and PNG and what it shows as CSV, beside each other; returns the three paths.

    Args:
        figure: the figure.
        path: without suffix.
        data: what it shows.
    """
    made = [Path(f"{path}{suffix}") for suffix in (".svg", ".png", ".csv")]
    for file in made[:2]:
        buffer = io.BytesIO()
        figure.savefig(buffer, format=file.suffix[1:], dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)
        write_atomically(file, buffer.getvalue())
    write_atomically(made[2], data.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    return made


def element_map(crystals: Crystals, *, title: str = "") -> Figure:
    """How many crystals hold each element, on the periodic table.

    Args:
        crystals: any batch.
        title: dataset and split.
    """
    from pymatgen.core import Element

    owner = np.repeat(np.arange(len(crystals)), crystals.n_atoms)
    numbers, counts = np.unique(np.unique(np.stack([crystals.species, owner]), axis=1)[0], return_counts=True)
    table = np.full((9, 18), np.nan)
    figure, (ax,) = _axes(1, 11, 5)
    for z in range(1, 104):
        element = Element.from_Z(z)
        if 57 <= z <= 71 or 89 <= z <= 103:  # the f block stands below
            row, column = (7 if z <= 71 else 8), 2 + z - (57 if z <= 71 else 89)
        else:
            row, column = element.row - 1, element.group - 1
        count = int(counts[numbers == z].sum())
        table[row, column] = count or np.nan
        ax.text(column, row - 0.12, element.symbol, ha="center", va="center", fontsize=10, color="black" if count else "#aaaaaa")
        ax.text(column, row + 0.28, str(count or ""), ha="center", va="center", fontsize=7)
    image = ax.imshow(table, cmap=ListedColormap(_blues()), norm=LogNorm(1, max(2, counts.max(initial=2))), aspect="auto")
    figure.colorbar(image, ax=ax, label="crystals that hold the element", shrink=0.7)
    ax.set_title(title)
    ax.set_axis_off()
    return figure


def _blues() -> np.ndarray:
    """Light to middle blue, light enough for black text."""
    return np.linspace([0.93, 0.96, 1.0, 1.0], [0.25, 0.55, 0.85, 1.0], 256)


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
    figure, (left, right) = _axes(2, 10, 4.6)
    _draw_position_field(left, crystals, field, height)
    left.set_title("position field: to the nearest atom")
    points, extent = _plane(crystals, height, 200)
    species = field(points)[1]
    present = np.unique(np.concatenate([species.ravel(), crystals.species]))
    colours = _element_colours(present)
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
    figure, axes = _axes(len(frames), 3 * len(frames), 3.4)
    points = np.concatenate([*frames.values(), crystals.positions])
    low, high = points.min(0) - 0.3, points.max(0) + 0.3
    for ax, (name, particles) in zip(axes, frames.items(), strict=True):
        ax.plot(particles[:, 0], particles[:, 1], ".", markersize=2, color=NESF, alpha=0.5)
        ax.plot(crystals.positions[:, 0], crystals.positions[:, 1], "o", markersize=13, markerfacecolor="none", markeredgecolor=ICSG3D)
        ax.set(title=f"{name}\n{len(particles)} particles", xlabel="x, Å", aspect="equal", xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axes[0].set_ylabel("y, Å")
    return figure


def scaling(series: Sequence[Mapping[str, Any]]) -> Figure:
    """Time against queries, atoms and crystals on logarithmic axes, with a line of slope 1 to compare with.

    Args:
        series: those of a recorded `scaling.json` (schema/benchmark.json).
    """
    quantities = list(dict.fromkeys(one["quantity"] for one in series))
    figure, axes = _axes(len(quantities), 3.4 * len(quantities), 3.6)
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
    figure, axes = _axes(len(kinds), 5.0 * len(kinds), 5.0, n_rows=2)
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


def error_distribution(materials: DataFrame, *, title: str = "") -> Figure:
    """Position errors of the single crystals, and their numbers of atoms.

    Args:
        materials: `Metrics.materials`, or the rows of one split in a recorded `materials.csv`.
        title: dataset, split and run.
    """
    figure, (left, right) = _axes(2, 10, 3.4)
    errors = materials["position_error_actual_angstrom"].dropna().to_numpy(float).clip(1e-3)
    left.hist(errors, bins=np.geomspace(1e-3, max(10.0, errors.max(initial=0)), 41).tolist(), color=NESF)
    if len(errors):
        left.axvline(np.median(errors), color="black", linestyle="--", label=f"median {np.median(errors):.3f} Å")
        left.axvline(errors.mean(), color="black", linestyle=":", label=f"mean {errors.mean():.3f} Å")
        left.legend(frameon=False)
    left.set(xscale="log", xlabel="position error (actual) of a crystal, Å", ylabel="crystals")
    counts = materials.groupby(["n_atoms_actual", "n_atoms_detected"]).size()
    actual, detected = (counts.index.get_level_values(k).to_numpy() for k in ("n_atoms_actual", "n_atoms_detected"))
    right.scatter(actual, detected, s=12 * counts.to_numpy(), color=NESF, alpha=0.6, edgecolor="none")
    top = max(actual.max(initial=1), detected.max(initial=1)) + 1
    right.plot([0, top], [0, top], color="black", linewidth=0.8)
    right.set(xlabel="atoms in the cell", ylabel="atoms detected", xlim=(0, top), ylim=(-0.5, top))
    figure.suptitle(title)
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
    for position, z, colour in zip(crystals.positions[atoms], crystals.species[atoms], _element_colours(crystals.species[atoms]), strict=True):
        inside = abs(position[2] - height) < IN_SLICE
        style = {"facecolor": colour, "edgecolor": "black"} if inside else {"fill": False, "edgecolor": colour, "linestyle": ":", "linewidth": 1.5}
        ax.add_patch(Circle((float(position[0]), float(position[1])), 0.22, zorder=3 if inside else 2, label=Element.from_Z(int(z)).symbol, **style))
    if legend:
        elements = sorted(set(crystals.species[atoms].tolist()))
        handles = [
            Circle((0, 0), facecolor=c, edgecolor="black", label=Element.from_Z(z).symbol)
            for z, c in zip(elements, _element_colours(elements), strict=True)
        ]
        ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)


def _element_colours(numbers: np.ndarray | Sequence[int]) -> list[str]:
    return [element_colour(int(z)) for z in numbers]
