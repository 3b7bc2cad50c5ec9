"""The voxel baseline: slices of its maps, and what its segmentation makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from nesf.crystals import Crystals
from nesf.icsg3d.config import DecodingConfig, VoxelBaselineConfig, VoxelConfig
from nesf.icsg3d.segmentation import find_atoms, segment
from nesf.icsg3d.voxels import origin, voxelise
from nesf_studies.figures.style import ICSG3D, element_colour, subplots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

    from nesf.icsg3d.baseline import DecodedMaps

IN_PLANE = 1.5  # voxels; an atom this near to a slice is drawn in it


def map_slices(crystals: Crystals, grids: Mapping[str, VoxelConfig], decoding: DecodingConfig, *, axis: int = 2) -> Figure:
    """True maps of one crystal on a plane that holds most of its atoms, and the atoms that the segmentation finds in them.

    First the density; then for each grid the species map above and the parts of the segmentation below.

    Args:
        crystals: a batch of one crystal.
        grids: titles to grids, which differ in `label_frac`.
        decoding: limits of the segmentation.
        axis: 0, 1 or 2, along which of the cell's vectors one looks.
    """
    figure, axes = subplots(len(grids) + 1, 3.2 * (len(grids) + 1), 6.4, n_rows=2)
    above, below = axes[: len(grids) + 1], axes[len(grids) + 1 :]
    first = next(iter(grids.values()))
    plane = [i for i in range(3) if i != axis]
    atoms, k = _in_voxels(crystals, first, axis)
    image = above[0].imshow(voxelise(crystals, first).density[0].float().numpy().take(k, axis).T, origin="lower", cmap="Greys")
    figure.colorbar(image, ax=above[0], label="e/Å³", orientation="horizontal", shrink=0.7)
    above[0].set_title("density")
    _draw(above[0], atoms, plane, k, axis, "o", 9)
    below[0].set_axis_off()
    numbers = sorted(set(crystals.species.tolist()))
    handles: list[Artist] = [Patch(facecolor=element_colour(z), edgecolor="black", label=_symbol(z)) for z in numbers]
    handles += [Line2D([], [], marker="o", linestyle="", markerfacecolor="none", markeredgecolor="black", label="atom of the crystal")]
    handles += [Line2D([], [], marker="x", linestyle="", color="black", label="atom found")]
    below[0].legend(handles=handles, loc="center", frameon=False)
    for i, (title, grid) in enumerate(grids.items(), start=1):
        species = voxelise(crystals, grid).species[0].numpy()
        parts = segment(species != 0, decoding)
        found, _ = find_atoms(species, species != 0, decoding)
        draw_species(above[i], species.take(k, axis))
        above[i].set_title(title)
        inside = parts.take(k, axis).T
        shown = np.ma.masked_where(inside == 0, inside % 20)
        below[i].imshow(shown, origin="lower", cmap=matplotlib.colormaps["tab20"], vmin=0, vmax=19, interpolation="nearest")
        below[i].set_title(f"{len(found)} atoms found of {len(atoms)}", fontsize=10)
        for ax in (above[i], below[i]):
            _draw(ax, atoms, plane, k, axis, "o", 9)
        _draw(below[i], found, plane, k, axis, "x", 7)
    for ax in (*above, *below):
        ax.set(xticks=[], yticks=[])
    above[0].set(xlabel=f"voxels along {'abc'[plane[0]]}", ylabel=f"voxels along {'abc'[plane[1]]}")
    return figure


def draw_species(ax: Axes, species: np.ndarray) -> None:
    """A slice [n, n] of atomic numbers in the elements' colours; white where there is none."""
    numbers, indices = np.unique(species, return_inverse=True)
    colours = ["#ffffff" if z == 0 else element_colour(int(z)) for z in numbers]
    image = indices.reshape(species.shape).T
    ax.imshow(image, origin="lower", cmap=ListedColormap(colours), vmin=-0.5, vmax=len(numbers) - 0.5, interpolation="nearest")


def _draw(ax: Axes, points: np.ndarray, plane: list[int], k: int, axis: int, marker: str, size: int) -> None:
    """Points [N, 3] (voxels) that lie near slice k across an axis."""
    near = points[np.abs(points[:, axis] - k) < IN_PLANE]
    ax.plot(near[:, plane[0]], near[:, plane[1]], marker, markerfacecolor="none", markeredgecolor="black", markersize=size)


def _symbol(z: int) -> str:
    from pymatgen.core import Element

    return Element.from_Z(z).symbol


def voxel_losses(log: DataFrame) -> Figure:
    """Loss of the U-Net and of the autoencoder per epoch, training and validation.

    Args:
        log: `log.csv` of a training of the voxel baseline.
    """
    figure, axes = subplots(2, 9, 3.2)
    for ax, (network, title) in zip(axes, (("unet", "U-Net"), ("vae", "autoencoder")), strict=True):
        rows = log[log["network"] == network]
        ax.plot(rows["epoch"], rows["loss"], color=ICSG3D, label="training")
        known = rows[rows["val_loss"].notna()]
        ax.plot(known["epoch"], known["val_loss"], color=ICSG3D, linestyle=":", label="validation")
        ax.set(title=title, xlabel="epoch", ylabel="loss", yscale="log")
        ax.legend(frameon=False)
    return figure


def decoded_slices(crystals: Crystals, decoded: DecodedMaps, config: VoxelBaselineConfig, *, axis: int = 2) -> Figure:
    """Density and species map of one crystal on a plane that holds most of its atoms: true, and as the networks give them back.

    Args:
        crystals: a batch of one crystal.
        decoded: what `VoxelBaseline.maps` made of it.
        config: of that baseline.
        axis: 0, 1 or 2, along which of the cell's vectors one looks.
    """
    figure, axes = subplots(4, 12.8, 3.4)
    true, plane = voxelise(crystals, config.voxels), [i for i in range(3) if i != axis]
    atoms, k = _in_voxels(crystals, config.voxels, axis)
    before, after = true.density[0].float().numpy().take(k, axis), decoded.channels[0, 0].numpy().take(k, axis)
    inside = decoded.binary[0].numpy() >= config.decoding.binary_threshold
    species = np.where(inside, decoded.species[0].numpy(), 0)
    for ax, density, title in ((axes[0], before, "density"), (axes[1], after, "decoded density")):
        image = ax.imshow(density.T, origin="lower", cmap="Greys", vmin=0, vmax=float(before.max()))
        ax.set_title(title)
    figure.colorbar(image, ax=axes[1], label="e/Å³", shrink=0.7)
    for ax, numbers, title in ((axes[2], true.species[0].numpy(), "species map"), (axes[3], species, "decoded species map")):
        draw_species(ax, numbers.take(k, axis))
        ax.set_title(title)
    found, _ = find_atoms(decoded.species[0].numpy(), inside, config.decoding)
    for ax in axes:
        _draw(ax, atoms, plane, k, axis, "o", 9)
        ax.set(xticks=[], yticks=[])
    _draw(axes[3], found, plane, k, axis, "x", 7)
    axes[0].set(xlabel=f"voxels along {'abc'[plane[0]]}", ylabel=f"voxels along {'abc'[plane[1]]}")
    return figure


def _in_voxels(crystals: Crystals, grid: VoxelConfig, axis: int) -> tuple[np.ndarray, int]:
    """Atoms of the first crystal in voxels [N, 3], and the slice across an axis that holds most of them."""
    fractional = crystals.positions @ np.linalg.inv(crystals.lattice[0]) - origin(crystals)[0]
    atoms = (fractional + grid.margin) / grid.extent * grid.n - 0.5
    slices, counts = np.unique(atoms[:, axis].round().astype(int), return_counts=True)
    return atoms, int(slices[counts.argmax()])
