"""The voxel baseline: slices of its maps, its losses, and tables of recorded runs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from ase.data import chemical_symbols
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from nesf.crystals import Crystals
from nesf.records import RecordedRun
from nesf_icsg3d.baseline import DecodedMaps
from nesf_icsg3d.config import LABEL_FRAC_ON, DecodingConfig, VoxelBaselineConfig, VoxelConfig
from nesf_icsg3d.segmentation import find_atoms, segment
from nesf_icsg3d.voxels import origin, voxelise
from nesf_studies.links import PAPER, Source, from_runs
from nesf_studies.page import LABELS, TABLE1, TITLES, unbroken
from nesf_studies.paper import paper_table, table
from nesf_studies.record import PAPERS_NAME, folders, run_rows
from nesf_studies.style import ICSG3D, ORACLE, draw_species, element_colour, on_any_ground, subplots

IN_PLANE = 1.5  # voxels; an atom this near to a slice is drawn in it
NOT_RECORDED = unbroken("not recorded")
POSITION = "position_error_actual_angstrom"
FOR_A_PROCESSOR = ("-reduced", "-one-copy")  # how the names of such presets end
ORACLE_METRICS = {  # metric to its column in `label_radius_table`
    "number_of_atoms_error_percent": "atoms, %",
    POSITION: "position, Å",
    "species_error_actual_percent": "species, %",
}


def map_slices(
    crystals: Crystals, grids: Mapping[str, VoxelConfig], decoding: DecodingConfig, *, axis: int = 2
) -> Figure:
    """Draw true maps of one crystal across `axis` where most of its atoms lie, and the atoms found.

    First the density; then for each grid (title to grid, which differ in `label_frac`) the species
    map above and the parts of the segmentation below.
    """
    columns = len(grids) + 1
    figure, axes = subplots(columns, 3.2 * columns, 6.4, n_rows=2)
    first = next(iter(grids.values()))
    atoms, k = _in_voxels(crystals, first, axis)
    image = axes[0].imshow(
        voxelise(crystals, first).density[0].float().numpy().take(k, axis).T,
        origin="lower",
        cmap="Greys",
    )
    figure.colorbar(image, ax=axes[0], label="e/Å³", orientation="horizontal", shrink=0.7)
    axes[0].set_title("density")
    _draw_points(axes[0], atoms, k, axis, "o", 9)
    axes[columns].set_axis_off()
    handles: list[Artist] = [
        Patch(facecolor=element_colour(z), edgecolor="black", label=chemical_symbols[z])
        for z in np.unique(crystals.species)
    ]
    handles += [
        Line2D(
            [],
            [],
            marker="o",
            linestyle="",
            markerfacecolor="none",
            markeredgecolor="black",
            label="atom of the crystal",
        )
    ]
    handles += [Line2D([], [], marker="x", linestyle="", color="black", label="atom found")]
    axes[columns].legend(handles=handles, loc="center", frameon=False)
    for upper, lower, (title, grid) in zip(
        axes[1:columns], axes[columns + 1 :], grids.items(), strict=True
    ):
        species = voxelise(crystals, grid).species[0].numpy()
        parts = segment(species != 0, decoding)
        found, _ = find_atoms(species, species != 0, decoding)
        draw_species(upper, species.take(k, axis).T, np.unique(species), interpolation="nearest")
        upper.set_title(title)
        inside = parts.take(k, axis).T
        shown = np.ma.masked_where(inside == 0, inside % 20)
        lower.imshow(
            shown,
            origin="lower",
            cmap=matplotlib.colormaps["tab20"],
            vmin=0,
            vmax=19,
            interpolation="nearest",
        )
        lower.set_title(f"{len(found)} atoms found of {len(atoms)}", fontsize=10)
        for ax in (upper, lower):
            _draw_points(ax, atoms, k, axis, "o", 9)
        _draw_points(lower, found, k, axis, "x", 7)
    _label_axes(axes, axis)
    return figure


def decoded_slices(
    crystals: Crystals, decoded: DecodedMaps, config: VoxelBaselineConfig, *, axis: int = 2
) -> Figure:
    """Draw maps of one crystal as in `map_slices`: true, and decoded by `VoxelBaseline.maps`."""
    figure, axes = subplots(4, 12.8, 3.4)
    true = voxelise(crystals, config.voxels)
    atoms, k = _in_voxels(crystals, config.voxels, axis)
    inside = decoded.binary[0].numpy() >= config.decoding.binary_threshold
    densities = [
        density.float().numpy().take(k, axis)
        for density in (true.density[0], decoded.channels[0, 0])
    ]
    for ax, density in zip(axes, densities, strict=False):
        image = ax.imshow(
            density.T, origin="lower", cmap="Greys", vmin=0, vmax=float(densities[0].max())
        )
    figure.colorbar(image, ax=axes[1], label="e/Å³", shrink=0.7)
    for ax, species in zip(
        axes[2:],
        (true.species[0].numpy(), np.where(inside, decoded.species[0].numpy(), 0)),
        strict=True,
    ):
        draw_species(ax, species.take(k, axis).T, np.unique(species), interpolation="nearest")
    for ax, title in zip(
        axes, ("density", "decoded density", "species map", "decoded species map"), strict=True
    ):
        ax.set_title(title)
        _draw_points(ax, atoms, k, axis, "o", 9)
    found, _ = find_atoms(decoded.species[0].numpy(), inside, config.decoding)
    _draw_points(axes[3], found, k, axis, "x", 7)
    _label_axes(axes, axis)
    return figure


def _in_voxels(crystals: Crystals, grid: VoxelConfig, axis: int) -> tuple[np.ndarray, int]:
    """Return the atoms of a crystal in voxels [N, 3], and the slice across an axis with most."""
    fractional = crystals.positions @ np.linalg.inv(crystals.lattice[0]) - origin(crystals)[0]
    atoms = (fractional + grid.margin) / grid.extent * grid.n - 0.5
    slices, counts = np.unique(atoms[:, axis].round().astype(int), return_counts=True)
    return atoms, int(slices[counts.argmax()])


def _draw_points(ax: Axes, points: np.ndarray, k: int, axis: int, marker: str, size: int) -> None:
    """Draw the points [N, 3] (voxels) that lie near slice k across an axis."""
    x, y = np.delete(points[np.abs(points[:, axis] - k) < IN_PLANE], axis, axis=1).T
    ax.plot(x, y, marker, markerfacecolor="none", markersize=size, **on_any_ground())


def _label_axes(axes: Sequence[Axes], axis: int) -> None:
    for ax in axes:
        ax.set(xticks=[], yticks=[])
    along_x, along_y = (name for i, name in enumerate("abc") if i != axis)
    axes[0].set(xlabel=f"voxels along {along_x}", ylabel=f"voxels along {along_y}")


def voxel_losses(log: pd.DataFrame) -> Figure:
    """Draw the losses of both networks per epoch, training and validation, from a `log.csv`."""
    figure, axes = subplots(2, 9, 3.2)
    for ax, (network, title) in zip(axes, (("unet", "U-Net"), ("vae", "autoencoder")), strict=True):
        rows = log[log["network"] == network]
        ax.plot(rows["epoch"], rows["loss"], color=ICSG3D, label="training")
        known = rows[rows["val_loss"].notna()]
        ax.plot(known["epoch"], known["val_loss"], color=ICSG3D, linestyle=":", label="validation")
        ax.set(title=title, xlabel="epoch", ylabel="loss", yscale="log")
        ax.legend(frameon=False)
    return figure


def _texts(runs: Sequence[RecordedRun], split: str) -> dict[Hashable, dict[str, str]]:
    """Return (the paper's dataset, method, preset, or "paper") to metric to text, with n."""
    cells = pd.concat(
        [paper_table().query("split == @split").assign(preset="paper"), table(runs, split)]
    )
    return {
        key: dict(zip(group["metric"], map(unbroken, group["text"]), strict=True))
        | {"n": str(group["n"].max())}
        for key, group in cells.replace({"dataset": PAPERS_NAME}).groupby(
            ["dataset", "method", "preset"]
        )
    }


def _column(texts: Mapping[str, str]) -> dict[str, str]:
    """Return the metrics of Table 1, and n; «not recorded» without a run."""
    return {
        LABELS[metric]: texts.get(metric, "–") if texts else NOT_RECORDED for metric in TABLE1
    } | {"n": texts.get("n", "–")}


def baseline_table(runs: Sequence[RecordedRun], dataset: str, split: str = "test") -> pd.DataFrame:
    """Compare variants of the voxel baseline with NeSF and the paper on icsg3d, lcs6 or ybco."""
    texts = _texts(runs, split)
    columns = {
        "ICSG3D, paper": ("icsg3d", "paper"),
        "as published": ("icsg3d", "as-published"),
        "repaired": ("icsg3d", "repaired"),
        "oracle, as published": ("icsg3d-oracle", "as-published"),
        "oracle, repaired": ("icsg3d-oracle", "repaired"),
        "NeSF, ours, cpu": ("nesf", "cpu"),
        "NeSF, paper": ("nesf", "paper"),
    }
    shown = {title: _column(texts.get((dataset, *key), {})) for title, key in columns.items()}
    return from_runs(
        pd.DataFrame(shown),
        {title: _source(runs, dataset, *key) for title, key in columns.items()},
    )


def _source(runs: Sequence[RecordedRun], dataset: str, method: str, preset: str) -> Source:
    return PAPER if preset == "paper" else folders(runs, dataset, method, preset)


def label_radius_table(runs: Sequence[RecordedRun]) -> pd.DataFrame:
    """Show the oracle by `label_frac` (`*`: preset `repaired`), last the paper's trained ICSG3D."""
    by_split = {split: _texts(runs, split) for split in ("val", "test")}
    oracles = run_rows(runs).query("method == 'icsg3d-oracle'")
    rows, made_by = {}, {}
    for dataset, title in TITLES.items():
        own = [runs[i].run for i in oracles["run"][oracles["paper_dataset"] == dataset]]
        # two presets may have the same one
        radii = {float(run["config"]["voxels"]["label_frac"]): run["preset"] for run in own}
        keys = {
            f"{r:.2f}{' *' if r == LABEL_FRAC_ON[dataset] else ''}": ("icsg3d-oracle", radii[r])
            for r in sorted(radii, reverse=True)
        }
        for name, key in (keys | {"paper, trained": ("icsg3d", "paper")}).items():
            found = {split: texts.get((dataset, *key), {}) for split, texts in by_split.items()}
            made_by[title, name] = _source(runs, dataset, *key)
            rows[title, name] = {
                (split, column): found[split].get(metric, "–")
                for split in found
                for metric, column in ORACLE_METRICS.items()
            }
    shown = pd.DataFrame.from_dict(rows, orient="index").rename_axis(["dataset", "label_frac"])
    return from_runs(shown, made_by)


def label_radius_chart(runs: Sequence[RecordedRun]) -> Figure:
    """Draw the oracle's position error (actual) on test crystals by `label_frac`, a panel a dataset.

    Filled: preset `repaired`; dashed: the paper's trained ICSG3D.
    """
    about = run_rows(runs).query("method == 'icsg3d-oracle'")
    wanted = "method == 'icsg3d' and split == 'test' and metric == @POSITION"
    printed = paper_table().query(wanted).set_index("dataset")["mean"]
    figure, axes = subplots(len(TITLES), 3.0 * len(TITLES), 3.2)
    for ax, (dataset, title) in zip(axes, TITLES.items(), strict=True):
        own = [runs[i] for i in about["run"][about["paper_dataset"] == dataset]]
        found = pd.DataFrame(
            [
                (run.run["config"]["voxels"]["label_frac"], run.metrics["test"][POSITION])
                for run in own
                if run.metrics.get("test", {}).get(POSITION) is not None
            ],
            columns=["radius", "error"],
        )
        means = found.groupby("radius")["error"].mean()
        ax.plot(means.index, means, "o-", color=ORACLE, markerfacecolor="none")
        if LABEL_FRAC_ON[dataset] in means.index:
            chosen = LABEL_FRAC_ON[dataset]
            ax.plot([chosen], [means[chosen]], "o", color=ORACLE)
        if dataset in printed.index:
            ax.axhline(printed[dataset], color=ICSG3D, linestyle="--")
        ax.set_title(title)
        ax.set_xlabel("label_frac")
        ax.set_ylim(bottom=0)
    axes[0].set_ylabel("position (actual), Å")
    return figure


def processor_runs(runs: Sequence[RecordedRun], split: str = "test") -> pd.DataFrame:
    """Show trainings that a processor can do (`FOR_A_PROCESSOR`) beside predictors on their folds."""
    about = run_rows(runs)
    own_runs = about[(about["method"] == "icsg3d") & about["preset"].str.endswith(FOR_A_PROCESSOR)]
    columns: dict[str, dict[str, str]] = {}
    made_by: dict[str, Source] = {}
    for (dataset, papers_name), own in own_runs.groupby(["dataset", "paper_dataset"]):
        same = about[(about["dataset"] == dataset) & about["fold"].isin(own["fold"])]
        chosen = [runs[i] for i in same["run"]]
        texts = _texts(chosen, split)
        names = {("icsg3d", preset): preset for preset in sorted(own["preset"].unique())} | {
            ("icsg3d-oracle", "as-published"): "oracle, as-published",
            ("icsg3d-oracle", "repaired"): "oracle, repaired",
            ("copy", "default"): "copy",
        }
        columns |= {
            f"{dataset}: {name}": _column(texts[papers_name, *key])
            for key, name in names.items()
            if (papers_name, *key) in texts
        }
        made_by |= {f"{dataset}: {n}": folders(chosen, dataset, *k) for k, n in names.items()}
    return from_runs(pd.DataFrame(columns), made_by)
