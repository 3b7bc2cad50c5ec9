"""Self-made training crystals, and the switches of nesf+."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nesf import data
from nesf.augmentation import vary
from nesf.config import AugmentationConfig, for_dataset, preset
from nesf.crystals import PaddedCrystals, pad
from nesf.fields import BatchRandom
from nesf.model import Autoencoder
from nesf.saved import TrainedModel
from nesf.training import train

STILL = AugmentationConfig(share=1.0, strain=0.0, displacement=0.0, exchange=0.0)
N_SPECIES = 100


@pytest.fixture
def batch() -> PaddedCrystals:
    crystals = data.load("starter").split("train").select(range(20))
    return pad(crystals, tuple(range(1, N_SPECIES + 1)))


def varied(batch: PaddedCrystals, config: AugmentationConfig) -> PaddedCrystals:
    return vary(batch, config, N_SPECIES, BatchRandom(torch.Generator().manual_seed(0)))


def test_strain_keeps_fractional_coordinates(batch: PaddedCrystals) -> None:
    made = varied(batch, replace(STILL, strain=0.08))
    ratio = made.lengths / batch.lengths
    assert ratio.min() >= 0.92 - 1e-6 and ratio.max() <= 1.08 + 1e-6 and ratio.std() > 0.02
    before, after = ((c.positions @ torch.linalg.inv(c.lattice))[c.mask] for c in (batch, made))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)
    torch.testing.assert_close(made.lattice.norm(dim=-1), made.lengths)
    torch.testing.assert_close(made.angles, batch.angles)
    assert torch.equal(made.species, batch.species)


def test_atoms_move_by_at_most_the_displacement(batch: PaddedCrystals) -> None:
    made = varied(batch, replace(STILL, displacement=0.12))
    moved = (made.positions - batch.positions).norm(dim=-1)
    assert 0.05 < moved[batch.mask].mean() < 0.07 and moved.max() <= 0.12 + 1e-5
    assert (moved[~batch.mask] == 0).all()


def test_equal_atoms_stay_equal_under_an_exchange(batch: PaddedCrystals) -> None:
    made = varied(batch, replace(STILL, exchange=0.5))
    changed = 0
    for before, after, mask in zip(batch.species, made.species, batch.mask, strict=True):
        for element in before[mask].unique():
            others = after[mask & (before == element)].unique()
            assert len(others) == 1
            changed += int(others[0] != element)
    assert 10 < changed < 60
    assert (made.species[~batch.mask] == 0).all()


def test_only_a_share_is_changed(batch: PaddedCrystals) -> None:
    made = varied(batch, AugmentationConfig(share=0.5))
    changed = (made.positions != batch.positions).any(-1).any(-1)
    assert 4 <= changed.sum() <= 16
    same = ~changed
    assert torch.equal(made.lengths[same], batch.lengths[same])
    assert torch.equal(made.species[same], batch.species[same])


def test_nesf_plus_is_small_and_the_faithful_presets_have_none_of_it() -> None:
    assert Autoencoder(preset("plus").model).n_parameters < 1_200_000
    for name in ("paper", "official", "cpu"):
        assert preset(name).augmentation.share == 0
        assert Autoencoder(preset(name).model).n_parameters == 765_465
    assert for_dataset(preset("plus"), "ybco").augmentation.share == 0.8


def test_bounded_lattices_stay_bounded() -> None:
    torch.manual_seed(0)
    autoencoder = Autoencoder(preset("plus").model).eval()
    lattice = autoencoder.decode_lattice(1e4 * torch.randn(50, 192))
    assert lattice.lengths.min() > 0.24 and lattice.lengths.max() < 101
    assert lattice.angles.min() >= 0 and lattice.angles.max() <= math.pi


def test_every_grid_point_of_strained_cells_is_sampled(tmp_path: Path) -> None:
    config = preset("plus").with_values(
        {"training.epochs": 1, "training.compile": False, "training.precision": "fp32"}
        | {"sampling.n_position": 0, "sampling.n_species": 0, "augmentation.share": 1.0}
        | {"training.batch_size": 4, "sampling.local_range": 0.3, "sampling.species_range": 0.1}
    )
    starter = data.load("starter")
    few = replace(
        starter, splits={name: starter.split(name).select(range(8)) for name in starter.splits}
    )
    assert train(few, config, tmp_path, progress=False).finished


def test_a_short_training_of_nesf_plus(tmp_path: Path) -> None:
    config = preset("plus").with_values(
        {"training.epochs": 2, "training.compile": False, "training.precision": "fp32"}
    )
    result = train(data.load("starter"), config, tmp_path, progress=False)
    scale = torch.tensor(result.model.latent_scale)
    z = result.model.encode(data.load("starter").split("train"))
    torch.testing.assert_close(scale, z.std(0, correction=0), rtol=1e-2, atol=1e-4)
    model = TrainedModel.load(tmp_path, "cpu")
    assert model.latent_scale == result.model.latent_scale
    assert model.config.decoding.mode == "consistent"
    composition = model.autoencoder.composition_decoder
    assert composition is not None and composition(z).shape == (len(z), len(model.vocabulary))
    assert result.log[1]["loss"] < result.log[0]["loss"]
