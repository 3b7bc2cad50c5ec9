"""The architecture of Supplementary Note 5 as a table and a drawing, and the samplings of Note 6."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch
from torch import nn

from nesf.config import ModelConfig, SamplingConfig
from nesf.crystals import Crystals, pad
from nesf.data.dataset import Box
from nesf.fields import Sampler
from nesf.model import Autoencoder, Field
from nesf_studies.crystals import cell_corners
from nesf_studies.fields import fullest_plane
from nesf_studies.style import ICSG3D, NESF, ORACLE, SECOND, element_colours, subplots

# parts of `nesf.model.Autoencoder`: their names in words, and what their first layer reads
PARTS = {
    "encoder.position": ("encoder, position", "x, y, z of an atom"),
    "encoder.species": ("encoder, species", "element of an atom, one-hot"),
    "encoder.mix": ("encoder, atom", "both outputs above"),
    "encoder.lattice": ("encoder, lattice", "lengths and angles, scaled"),
    "encoder.latent": ("encoder, crystal", "maximum over the atoms, and the lattice"),
    "position_field": ("position field", "z and the query p"),
    "species_field": ("species field", "z and the query p"),
    "length_decoder": ("lattice lengths", "z"),
    "angle_decoder": ("lattice angles", "z"),
    "composition_decoder": ("composition", "z"),
}
SLAB = 0.5  # Å; points this near to the plane are drawn
BOX_STYLE = "round,pad=0.02,rounding_size=0.08"


def layer_table(model: Autoencoder) -> pd.DataFrame:
    """List the layers of a model, in the form of Supplementary Note 5.

    One row per fully connected layer, index part and number: what it reads, numbers in and out,
    what follows it, and its parameters with those of its batch normalisation. The parameters add up
    to those of the model.
    """
    rows = {}
    for path, (title, reads) in PARTS.items():
        part: nn.Module | None = model
        for name in path.split("."):
            part = getattr(part, name)
        if part is not None:
            for number, (layer, after) in enumerate(_layers(part), 1):
                again = number > 1 and isinstance(part, Field) and _reads_query(part, number)
                source = reads if number == 1 else f"output above{' and p' if again else ''}"
                modules = [layer, *after]
                if isinstance(part, Field) and 1 < number <= len(part.conditions) + 1:
                    source += " and z"
                    modules.append(part.conditions[number - 2])
                parameters = sum(p.numel() for m in modules for p in m.parameters())
                then = ", ".join(map(_word, after)) or "–"
                rows[title, number] = (
                    source,
                    layer.in_features,
                    layer.out_features,
                    then,
                    parameters,
                )
    columns = ["reads", "in", "out", "then", "parameters"]
    index = pd.MultiIndex.from_tuples(rows, names=["part", "layer"])
    return pd.DataFrame(list(rows.values()), index=index, columns=columns)


def _layers(part: nn.Module) -> Iterator[tuple[nn.Linear, list[nn.Module]]]:
    """Yield the fully connected layers of an MLP or a field, and the modules after each."""
    if isinstance(part, Field):
        for layer, norm in zip(part.layers, part.norms, strict=True):
            yield layer, [nn.ReLU(), norm]  # type: ignore[misc]
        yield part.last, []
        return
    modules = list(part.children())
    starts = [i for i, module in enumerate(modules) if isinstance(module, nn.Linear)]
    for start, end in zip(starts, [*starts[1:], len(modules)], strict=True):
        yield modules[start], modules[start + 1 : end]  # type: ignore[misc]


def _reads_query(field: Field, number: int) -> bool:
    """Tell whether a later layer of a field reads the query position again."""
    layers = [*field.layers, field.last]
    return layers[number - 1].in_features > layers[number - 2].out_features  # type: ignore[operator]


def _word(module: nn.Module) -> str:
    if isinstance(module, nn.Dropout):
        return f"dropout {module.p:g}"
    return "ReLU" if isinstance(module, nn.ReLU) else "batch norm"


def network_drawing(config: ModelConfig) -> Figure:
    """Draw encoder and decoder (Figure 1b), with the widths of a configuration."""

    def mlp(*widths: int) -> str:
        return "MLP " + ", ".join(map(str, widths))

    figure, (ax,) = subplots(1, 9.2, 4.6)
    ax.set(xlim=(0, 12.2), ylim=(0, 6.1), aspect="equal")
    ax.axis("off")
    field = config.decoder_position
    for x, y, width, text, colour in (
        (1.7, 4.9, 2.1, mlp(*config.encoder_position), ORACLE),
        (1.7, 3.6, 2.1, mlp(*config.encoder_species), ORACLE),
        (4.1, 4.25, 1.6, f"{mlp(*config.encoder_mix)}\nmax over atoms", ORACLE),
        (3.9, 1.6, 1.9, mlp(*config.encoder_latent) + f",\n{config.latent_size}", ORACLE),
        (6.1, 1.6, 0.7, f"$\\mathbf{{z}}$\n{config.latent_size}", SECOND),
        (8.0, 5.2, 2.3, f"position field\nMLP {field[0]}, {len(field) - 1} × {field[-1]}", NESF),
        (8.0, 3.8, 2.3, f"species field\n{mlp(*config.decoder_species)}", NESF),
        (8.0, 2.1, 2.3, f"lattice lengths\n{mlp(*config.decoder_lattice)}", ICSG3D),
        (8.0, 0.8, 2.3, f"lattice angles\n{mlp(*config.decoder_lattice)}", ICSG3D),
    ):
        box = FancyBboxPatch((x, y - 0.45), width, 0.9, BOX_STYLE, fc=f"{colour}22", ec=colour)
        ax.add_patch(box)
        ax.text(x + width / 2, y, text, ha="center", va="center", fontsize=10)
    for x, y, text in (
        (0.1, 4.9, "x, y, z"),
        (0.1, 3.6, "element"),
        (0.1, 1.6, "lattice\na, b, c, α, β, γ"),
        (5.9, 5.2, "query $\\mathbf{p}$"),
        (10.6, 5.2, "vector to the\nnearest atom"),
        (10.6, 3.8, "its element,\nprobabilities"),
        (10.6, 2.1, "a, b, c"),
        (10.6, 0.8, "α, β, γ"),
    ):
        ax.text(x, y, text, va="center", fontsize=10)
    ax.text(1.7, 5.65, "the same two networks for each atom", fontsize=10, color=ORACLE)
    for way in (
        ((1.2, 4.9), (1.7, 4.9)),
        ((1.2, 3.6), (1.7, 3.6)),
        ((3.8, 4.9), (4.1, 4.4)),
        ((3.8, 3.6), (4.1, 4.1)),
        ((4.9, 3.8), (4.9, 2.05)),
        ((2.0, 1.6), (3.9, 1.6)),
        ((5.8, 1.6), (6.1, 1.6)),
        *(((6.8, 1.6), (8.0, y)) for y in (5.0, 3.6, 2.1, 0.8)),
        *(((6.9, 5.2), (8.0, y)) for y in (5.3, 4.0)),
        *(((10.3, y), (10.55, y)) for y in (5.2, 3.8, 2.1, 0.8)),
    ):
        ax.annotate("", way[1], way[0], arrowprops={"arrowstyle": "->", "color": "#606870"})
    return figure


def sampling_pictures(
    crystal: Crystals, box: Box, configs: Mapping[str, SamplingConfig], *, seed: int = 0
) -> Figure:
    """Draw the query positions of one training step (Note 6), a row for each configuration.

    Args:
        crystal: one crystal.
        box: bounding box of the dataset, Å.
        configs: name of a row to its sampling, with every grid point (`n_position` = 0).
        seed: of the perturbations.

    Points within `SLAB` of the crystal's fullest plane are shown, seen along z: the grids as
    crosses, the perturbed points as dots.
    """
    figure, axes = subplots(3, 9.2, 3.3 * len(configs), n_rows=len(configs))
    height = fullest_plane(crystal)
    outline = np.array([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)]) @ crystal.lattice[0, :2, :2]
    low, high = cell_corners(crystal.lattice[0]).min(0), cell_corners(crystal.lattice[0]).max(0)
    for row, (name, config) in enumerate(configs.items()):
        plain = replace(config, global_sigma=0.0, local_sigma=0.0, species_sigma=0.0)
        grids, points = (query_points(crystal, box, c, seed) for c in (plain, config))
        for ax, kind in zip(axes[3 * row :], points, strict=False):
            for (x, y, z), mark in ((grids[kind].T, "+"), (points[kind].T, ".")):
                near = np.abs(z - height) < SLAB
                ax.plot(x[near], y[near], mark, color=NESF if mark == "." else "#a0a0a0", ms=4)
            ax.plot(*outline.T, color="#404040", linewidth=1)
            atoms = zip(crystal.positions, element_colours(crystal.species), strict=True)
            for (x, y, z), colour in atoms:
                if abs(z - height) < SLAB:
                    ax.add_patch(Circle((x, y), 0.2, facecolor=colour, edgecolor="black", zorder=3))
            ax.set(xlim=(low[0] - 2, high[0] + 2), ylim=(low[1] - 2, high[1] + 2), aspect="equal")
            ax.set_title(f"{name}: {kind}\n{len(points[kind])} points", fontsize=10)
    for ax in axes[-3:]:
        ax.set_xlabel("x, Å")
    for ax in axes[::3]:
        ax.set_ylabel("y, Å")
    return figure


def query_points(
    crystal: Crystals, box: Box, config: SamplingConfig, seed: int
) -> dict[str, np.ndarray]:
    """Return the three kinds of query positions of one crystal, [n, 3] each, Å.

    Raises:
        ValueError: the configuration draws some of the points instead of taking all.
    """
    if config.n_position or config.n_species:
        raise ValueError("n_position and n_species must be 0: every grid point is drawn")
    padded = pad(crystal, sorted({int(z) for z in crystal.species}))
    sampler, random = Sampler(config, box), torch.Generator().manual_seed(seed)
    positions = sampler.position_queries(padded, random).positions.numpy()
    n_global = int(sampler.n_global(padded).sum())
    species = sampler.species_queries(padded, random).positions.numpy()
    return {
        "position, global": positions[:n_global],
        "position, local": positions[n_global:],
        "species, local": species,
    }
