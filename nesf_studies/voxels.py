"""The voxel baseline: slices of its maps with the atoms that its segmentation finds, its losses, and tables of recorded runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from ase.data import chemical_symbols
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from nesf.crystals import Crystals
from nesf.icsg3d.baseline import DecodedMaps
from nesf.icsg3d.config import LABEL_FRAC_ON, DecodingConfig, VoxelBaselineConfig, VoxelConfig
from nesf.icsg3d.segmentation import find_atoms, segment
from nesf.icsg3d.voxels import origin, voxelise
from nesf.records import RecordedRun
from nesf_studies.page import LABELS, TABLE1, TITLES, unbroken
from nesf_studies.paper import PAPERS_NAME, paper_table, table
from nesf_studies.style import ICSG3D, element_colour, subplots

IN_PLANE = 1.5  # voxels; an atom this near to a slice is drawn in it
NOT_RECORDED = unbroken("not recorded")
ORACLE_METRICS = {  # metric to its column in `label_radius_table`
    "number_of_atoms_error_percent": "atoms, %",
    "position_error_actual_angstrom": "position, Å",
    "species_error_actual_percent": "species, %",
}


def map_slices(crystals: Crystals, grids: Mapping[str, VoxelConfig], decoding: DecodingConfig, *, axis: int = 2) -> Figure:
    """Draw true maps of one crystal on a plane across `axis` that holds most of its atoms, and the atoms that the segmentation finds in them.

    First the density; then for each grid (title to grid, which differ in `label_frac`) the species map above and the parts of the segmentation below.
    """
    figure, axes = subplots(len(grids) + 1, 3.2 * (len(grids) + 1), 6.4, n_rows=2)
    above, below = axes[: len(grids) + 1], axes[len(grids) + 1 :]
    first = next(iter(grids.values()))
    atoms, k = _in_voxels(crystals, first, axis)
    image = above[0].imshow(voxelise(crystals, first).density[0].float().numpy().take(k, axis).T, origin="lower", cmap="Greys")
    figure.colorbar(image, ax=above[0], label="e/Å³", orientation="horizontal", shrink=0.7)
    above[0].set_title("density")
    _draw_points(above[0], atoms, k, axis, "o", 9)
    below[0].set_axis_off()
    numbers = sorted(set(crystals.species.tolist()))
    handles: list[Artist] = [Patch(facecolor=element_colour(z), edgecolor="black", label=chemical_symbols[z]) for z in numbers]
    handles += [Line2D([], [], marker="o", linestyle="", markerfacecolor="none", markeredgecolor="black", label="atom of the crystal")]
    handles += [Line2D([], [], marker="x", linestyle="", color="black", label="atom found")]
    below[0].legend(handles=handles, loc="center", frameon=False)
    for upper, lower, (title, grid) in zip(above[1:], below[1:], grids.items(), strict=True):
        species = voxelise(crystals, grid).species[0].numpy()
        parts = segment(species != 0, decoding)
        found, _ = find_atoms(species, species != 0, decoding)
        draw_species(upper, species.take(k, axis))
        upper.set_title(title)
        inside = parts.take(k, axis).T
        shown = np.ma.masked_where(inside == 0, inside % 20)
        lower.imshow(shown, origin="lower", cmap=matplotlib.colormaps["tab20"], vmin=0, vmax=19, interpolation="nearest")
        lower.set_title(f"{len(found)} atoms found of {len(atoms)}", fontsize=10)
        for ax in (upper, lower):
            _draw_points(ax, atoms, k, axis, "o", 9)
        _draw_points(lower, found, k, axis, "x", 7)
    _label_axes(axes, axis)
    return figure


def decoded_slices(crystals: Crystals, decoded: DecodedMaps, config: VoxelBaselineConfig, *, axis: int = 2) -> Figure:
    """Draw density and species map of one crystal on a plane across `axis` that holds most of its atoms: true, and decoded by `VoxelBaseline.maps`."""
    figure, axes = subplots(4, 12.8, 3.4)
    true = voxelise(crystals, config.voxels)
    atoms, k = _in_voxels(crystals, config.voxels, axis)
    before, after = true.density[0].float().numpy().take(k, axis), decoded.channels[0, 0].numpy().take(k, axis)
    inside = decoded.binary[0].numpy() >= config.decoding.binary_threshold
    for ax, density in zip(axes[:2], (before, after), strict=True):
        image = ax.imshow(density.T, origin="lower", cmap="Greys", vmin=0, vmax=float(before.max()))
    figure.colorbar(image, ax=axes[1], label="e/Å³", shrink=0.7)
    for ax, species in zip(axes[2:], (true.species[0].numpy(), np.where(inside, decoded.species[0].numpy(), 0)), strict=True):
        draw_species(ax, species.take(k, axis))
    for ax, title in zip(axes, ("density", "decoded density", "species map", "decoded species map"), strict=True):
        ax.set_title(title)
        _draw_points(ax, atoms, k, axis, "o", 9)
    found, _ = find_atoms(decoded.species[0].numpy(), inside, config.decoding)
    _draw_points(axes[3], found, k, axis, "x", 7)
    _label_axes(axes, axis)
    return figure


def draw_species(ax: Axes, species: np.ndarray) -> None:
    """Draw a slice [n, n] of atomic numbers in the elements' colours; white where there is none."""
    numbers, indices = np.unique(species, return_inverse=True)
    colours = ["#ffffff" if z == 0 else element_colour(int(z)) for z in numbers]
    image = indices.reshape(species.shape).T
    ax.imshow(image, origin="lower", cmap=ListedColormap(colours), vmin=-0.5, vmax=len(numbers) - 0.5, interpolation="nearest")


def _in_voxels(crystals: Crystals, grid: VoxelConfig, axis: int) -> tuple[np.ndarray, int]:
    """Return the atoms of the first crystal in voxels [N, 3], and the slice across an axis that holds most of them."""
    fractional = crystals.positions @ np.linalg.inv(crystals.lattice[0]) - origin(crystals)[0]
    atoms = (fractional + grid.margin) / grid.extent * grid.n - 0.5
    slices, counts = np.unique(atoms[:, axis].round().astype(int), return_counts=True)
    return atoms, int(slices[counts.argmax()])


def _draw_points(ax: Axes, points: np.ndarray, k: int, axis: int, marker: str, size: int) -> None:
    """Draw the points [N, 3] (voxels) that lie near slice k across an axis."""
    x, y = np.delete(points[np.abs(points[:, axis] - k) < IN_PLANE], axis, axis=1).T
    ax.plot(x, y, marker, markerfacecolor="none", markeredgecolor="black", markersize=size)


def _label_axes(axes: Sequence[Axes], axis: int) -> None:
    for ax in axes:
        ax.set(xticks=[], yticks=[])
    along_x, along_y = (name for i, name in enumerate("abc") if i != axis)
    axes[0].set(xlabel=f"voxels along {along_x}", ylabel=f"voxels along {along_y}")


def voxel_losses(log: pd.DataFrame) -> Figure:
    """Draw the loss of the U-Net and of the autoencoder per epoch, training and validation, from the `log.csv` of a training."""
    figure, axes = subplots(2, 9, 3.2)
    for ax, (network, title) in zip(axes, (("unet", "U-Net"), ("vae", "autoencoder")), strict=True):
        rows = log[log["network"] == network]
        ax.plot(rows["epoch"], rows["loss"], color=ICSG3D, label="training")
        known = rows[rows["val_loss"].notna()]
        ax.plot(known["epoch"], known["val_loss"], color=ICSG3D, linestyle=":", label="validation")
        ax.set(title=title, xlabel="epoch", ylabel="loss", yscale="log")
        ax.legend(frameon=False)
    return figure


def _paper_dataset(run: RecordedRun) -> str:
    name = run.run["dataset"]["name"]
    return PAPERS_NAME.get(name, name)


def _texts(runs: Sequence[RecordedRun], dataset: str, split: str) -> dict[tuple[str, str], dict[str, str]]:
    """Return (method, preset) to metric to text of the recorded runs on one of the paper's datasets, with n; and (method, "paper") to the paper's."""
    rows = table([run for run in runs if _paper_dataset(run) == dataset], split)
    paper = paper_table().query("dataset == @dataset and split == @split").assign(preset="paper")
    return {
        (str(method), str(preset)): dict(zip(group["metric"], map(unbroken, group["text"]), strict=True)) | {"n": str(group["n"].max())}
        for (method, preset), group in pd.concat([paper, rows]).groupby(["method", "preset"])
    }


def _column(texts: Mapping[str, str]) -> dict[str, str]:
    """Return a column of a table: the metrics of Table 1, and n; «not recorded» where there is no run."""
    return {LABELS[metric]: texts.get(metric, "–") if texts else NOT_RECORDED for metric in TABLE1} | {"n": texts.get("n", "–")}


def baseline_table(runs: Sequence[RecordedRun], dataset: str, split: str = "test") -> pd.DataFrame:
    """Compare the variants of the voxel baseline with NeSF and the paper on icsg3d, lcs6 or ybco; a column without a run says so."""
    texts = _texts(runs, dataset, split)
    columns = {
        "ICSG3D, paper": ("icsg3d", "paper"),
        "as published": ("icsg3d", "as-published"),
        "repaired": ("icsg3d", "repaired"),
        "oracle, as published": ("icsg3d-oracle", "as-published"),
        "oracle, repaired": ("icsg3d-oracle", "repaired"),
        "NeSF, ours, cpu": ("nesf", "cpu"),
        "NeSF, paper": ("nesf", "paper"),
    }
    return pd.DataFrame({title: _column(texts.get(key, {})) for title, key in columns.items()})


def label_radius_table(runs: Sequence[RecordedRun]) -> pd.DataFrame:
    """Show the oracle by `label_frac` on the paper's datasets, validation and test crystals; `*`: as preset `repaired`. Last the paper's trained ICSG3D."""
    rows = {}
    for dataset, title in TITLES.items():
        oracles = [run for run in runs if run.run["method"] == "icsg3d-oracle" and _paper_dataset(run) == dataset]
        by_split = {split: _texts(oracles, dataset, split) for split in ("val", "test")}
        radii = {float(run.run["config"]["voxels"]["label_frac"]): run.run["preset"] for run in oracles}  # two presets may have the same one
        keys = {f"{r:.2f}{' *' if r == LABEL_FRAC_ON[dataset] else ''}": ("icsg3d-oracle", radii[r]) for r in sorted(radii, reverse=True)}
        for name, key in (keys | {"paper, trained": ("icsg3d", "paper")}).items():
            rows[title, name] = {
                (split, column): texts.get(key, {}).get(metric, "–") for split, texts in by_split.items() for metric, column in ORACLE_METRICS.items()
            }
    made = pd.DataFrame(list(rows.values()), index=pd.MultiIndex.from_tuples(rows, names=["dataset", "label_frac"]))
    made.columns = pd.MultiIndex.from_tuples(made.columns)
    return made


def reduced_runs(runs: Sequence[RecordedRun], split: str = "test") -> pd.DataFrame:
    """Show recorded trainings of the `-reduced` presets, a column each, with the same folds of the trivial predictors beside them."""
    reduced = [run for run in runs if run.run["method"] == "icsg3d" and run.run["preset"].endswith("-reduced")]
    columns: dict[str, dict[str, str]] = {}
    for dataset in sorted({run.run["dataset"]["name"] for run in reduced}):
        own = [run for run in reduced if run.run["dataset"]["name"] == dataset]
        folds = {run.run["dataset"]["fold"] for run in own}
        same = [run for run in runs if run.run["dataset"]["name"] == dataset and run.run["dataset"]["fold"] in folds]
        texts = _texts(same, PAPERS_NAME.get(dataset, dataset), split)
        names = {("icsg3d", preset): preset for preset in sorted({run.run["preset"] for run in own})} | {
            ("icsg3d-oracle", "as-published"): "oracle, as-published",
            ("icsg3d-oracle", "repaired"): "oracle, repaired",
            ("copy", "default"): "copy",
        }
        columns |= {f"{dataset}: {name}": _column(texts[key]) for key, name in names.items() if key in texts}
    return pd.DataFrame(columns)
