"""The page on the voxel baseline: slices of maps, and tables of recorded runs beside the paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from nesf.crystals import Crystals
from nesf.metrics import HEADLINE
from nesf.records import RecordedRun
from nesf_icsg3d.baseline import DecodedMaps
from nesf_icsg3d.config import AS_PUBLISHED, DecodingConfig, VoxelConfig
from nesf_icsg3d.voxels import voxelise
from nesf_studies.page import LABELS
from nesf_studies.style import element_colour
from nesf_studies.voxels import (
    NOT_RECORDED,
    baseline_table,
    decoded_slices,
    label_radius_chart,
    label_radius_table,
    map_slices,
    processor_runs,
    voxel_losses,
)

SALT = Crystals.from_arrays(
    ["salt"],
    [np.array([[0.0, 0, 0], [3.0, 3, 0], [3.0, 0, 3]])],
    [np.array([11, 17, 17])],
    6 * np.eye(3)[None],
)
POSITION = "position_error_actual_angstrom"


def points(ax: Axes, marker: str) -> list[list[float]]:
    return [
        p
        for line in ax.lines
        if line.get_marker() == marker
        for p in np.round(line.get_xydata(), 3).tolist()
    ]


def test_slices_show_the_maps_and_the_atoms_of_the_plane() -> None:
    grid = VoxelConfig(label_frac=0.7)
    density, species, _, parts, *_ = map_slices(SALT, {"small": grid}, DecodingConfig()).axes
    # Two of the three atoms lie at z = 0: at voxel (0 + 1/4) · 32 / 1.5 − 1/2, and half a cell
    # further.
    low, high = 0.25 / 1.5 * 32 - 0.5, 0.75 / 1.5 * 32 - 0.5
    expected = np.round([[low, low], [high, high]], 3).tolist()
    assert points(density, "o") == points(species, "o") == expected
    true, k = voxelise(SALT, grid), round(low)
    assert np.array_equal(density.images[0].get_array(), true.density[0].float().numpy()[:, :, k].T)
    shown, colours = species.images[0].get_array(), species.images[0].get_cmap()
    assert to_hex(colours(int(shown[round(low), round(low)]))) == element_colour(11)
    assert to_hex(colours(int(shown[round(high), round(high)]))) == element_colour(17)
    assert parts.get_title() == "3 atoms found of 3" and np.allclose(
        points(parts, "x"), expected, atol=0.6
    )


def test_decoded_slices_hide_what_is_below_the_threshold() -> None:
    config = AS_PUBLISHED
    true = voxelise(SALT, config.voxels)
    binary = (true.species != 0).float()
    # the chlorine atoms, half a cell along a, are not sure enough
    binary[:, 9:] = 0.5 * config.decoding.binary_threshold
    channels = torch.zeros(1, 4, *true.density.shape[1:])
    channels[:, 0] = 2 * true.density.float()
    decoded = DecodedMaps(channels, true.species, binary, torch.full((1, 3), torch.pi / 2))
    density, twice, species, kept, *_ = decoded_slices(SALT, decoded, config).axes
    assert np.allclose(twice.images[0].get_array(), 2 * density.images[0].get_array())
    assert (species.images[0].get_array()[:, 9:] > 0).any() and not (
        kept.images[0].get_array()[:, 9:] > 0
    ).any()
    assert len(points(kept, "o")) == 2 and np.allclose(
        points(kept, "x"), points(kept, "o")[:1], atol=0.6
    )


def test_losses_of_both_networks() -> None:
    rows = [("unet", 1, 4.0, np.nan), ("unet", 2, 2.0, 3.0), ("vae", 1, 9.0, 8.0)]
    unet, vae = voxel_losses(
        pd.DataFrame(rows, columns=["network", "epoch", "loss", "val_loss"])
    ).axes
    assert [line.get_xydata().tolist() for line in unet.lines] == [[[1, 4], [2, 2]], [[2, 3]]]
    assert [line.get_xydata().tolist() for line in vae.lines] == [[[1, 9]], [[1, 8]]]


def recorded(
    dataset: str, method: str, preset: str, position: float, fold: int | None = None, **config: Any
) -> RecordedRun:
    summary = dict.fromkeys(HEADLINE, 1.0) | {
        "n_materials": 5,
        "n_nothing_detected": 0,
        POSITION: position,
    }
    run = {
        "dataset": {"name": dataset, "fold": fold},
        "method": method,
        "preset": preset,
        "config": {"voxels": config},
    }
    return RecordedRun(
        Path("nowhere"), run, {"test": summary, "val": summary | {POSITION: position / 2}}
    )


def test_variants_stand_beside_the_paper_and_gaps_are_said() -> None:
    runs = [
        recorded("icsg3d-recovered", "icsg3d-oracle", "repaired", 0.125),
        recorded("lcs6", "icsg3d", "repaired", 9.0),
    ]
    runs += [recorded("icsg3d-recovered", "nesf", "cpu", position) for position in (0.1, 0.2)]
    table = baseline_table(runs, "icsg3d")
    row = table.loc[LABELS[POSITION]].str.replace("\N{NO-BREAK SPACE}", " ")
    assert (
        row["oracle, repaired"] == "0.1250"
        and row["NeSF, ours, cpu"] == "0.1500 ± 0.0707"
        and table.loc["n", "NeSF, ours, cpu"] == "2"
    )
    assert row["NeSF, paper"] == "0.0308 ± 0.0112"
    assert (table["repaired"].drop("n") == NOT_RECORDED).all() and table.loc["n", "repaired"] == "–"


def test_radii_are_sorted_and_the_chosen_one_is_marked() -> None:
    runs = [
        recorded("lcs6", "icsg3d-oracle", f"label-frac-{r}", r, label_frac=r)
        for r in (0.5, 0.85, 0.7)
    ]
    table = label_radius_table(runs).loc["LCS6Å"]
    assert [name.split()[0] for name in table.index] == ["0.85", "0.70", "0.50", "paper,"] and sum(
        "*" in name for name in table.index
    ) == 1
    assert table["test", "position, Å"].tolist()[:3] == ["0.8500", "0.7000", "0.5000"]
    assert table["val", "position, Å"].tolist()[:3] == ["0.4250", "0.3500", "0.2500"]
    assert label_radius_table(runs).loc["YBCO-like"].index.tolist() == ["paper, trained"]


def test_the_chart_of_radii_has_mean_errors_and_the_paper_s() -> None:
    runs = [
        recorded("lcs6", "icsg3d-oracle", "repaired", 0.1),
        recorded("lcs6", "icsg3d-oracle", "as-published", 0.4),
    ]
    for run, radius in zip(runs, (0.85, 1.0), strict=True):
        run.run["config"] = {"voxels": {"label_frac": radius}}
    panel = next(ax for ax in label_radius_chart(runs).axes if ax.get_title() == "LCS6Å")
    curve, chosen, paper = (line.get_xydata().tolist() for line in panel.lines)
    assert curve == [[0.85, 0.1], [1.0, 0.4]] and chosen == [[0.85, 0.1]]
    assert paper[0][1] == pytest.approx(0.2006)  # Table 1


def test_trainings_on_a_processor_stand_beside_the_same_folds_only() -> None:
    runs = [
        recorded("ybco", "icsg3d", "repaired-reduced", 0.5, fold=1),
        recorded("ybco", "icsg3d", "repaired-one-copy", 0.4, fold=1),
        recorded("lcs6", "icsg3d", "repaired", 9.0),
    ]
    runs += [
        recorded("ybco", "copy", "default", position, fold=fold)
        for fold, position in ((0, 7.0), (1, 0.25))
    ]
    table = processor_runs(runs)
    assert table.columns.tolist() == [
        "ybco: repaired-one-copy",
        "ybco: repaired-reduced",
        "ybco: copy",
    ]
    assert table.loc[LABELS[POSITION]].tolist() == ["0.4000", "0.5000", "0.2500"]
    assert table.loc["n"].tolist() == ["1", "1", "1"]
    assert processor_runs(runs, "val").loc[LABELS[POSITION]].tolist() == [
        "0.2000",
        "0.2500",
        "0.1250",
    ]
