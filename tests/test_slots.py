"""The slot decoder: the assignment, the loss, and what it decodes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nesf.config import ReconstructionConfig
from nesf.crystals import PaddedCrystals, pad
from nesf.data import load
from nesf.data.dataset import Dataset
from nesf.saved import TrainedModel
from nesf_design.slots import (
    SlotConfig,
    Slots,
    assign,
    confirmed,
    decode_slots,
    slot_losses,
    train_slots,
)
from nesf_io.errors import ConfigError
from nesf_studies.page import recorded_run
from nesf_studies.slots import Parameters, analyse

STARTER = load("starter")


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return TrainedModel.load(recorded_run("starter"), "cpu")


def few(n: int) -> Dataset:
    part = STARTER.split("train").select(range(n))
    return replace(STARTER, splits={"train": part, "val": part, "test": part})


def test_each_atom_gets_the_slot_that_costs_least_in_all() -> None:
    # atom 0 alone would take slot 1, but then atom 1 would cost 9
    cost = torch.tensor([[[2.0, 9.0], [1.0, 1.5], [5.0, 8.0]]])
    crystal, slot, atom = assign(cost, torch.tensor([2]))
    assert sorted(zip(atom.tolist(), slot.tolist(), strict=True)) == [(0, 0), (1, 1)]
    assert crystal.tolist() == [0, 0]
    # an atom that is padding is assigned to none; of more atoms than slots, some are left
    assert len(assign(cost, torch.tensor([1]))[0]) == 1
    assert len(assign(torch.rand(1, 2, 5), torch.tensor([5]))[0]) == 2


def test_the_loss_does_not_depend_on_the_order_of_the_atoms(model: TrainedModel) -> None:
    torch.manual_seed(0)
    config = SlotConfig(n_slots=12, width=16, layers=1)
    slots = Slots(model.latent_scale, len(model.vocabulary), config).eval()
    crystals = pad(STARTER.split("val").select(range(6)), model.vocabulary)
    z = model.autoencoder.encode(crystals)

    def turned() -> PaddedCrystals:
        n = crystals.mask.sum(1).tolist()
        order = torch.stack([torch.cat([torch.arange(k).flip(0), torch.arange(k, crystals.mask.shape[1])]) for k in n])  # fmt: skip
        positions = crystals.positions.gather(1, order[..., None].expand(-1, -1, 3))
        return replace(crystals, positions=positions, species=crystals.species.gather(1, order))

    before, after = (slot_losses(slots, z, c, config) for c in (crystals, turned()))
    assert torch.allclose(before, after, rtol=1e-5) and before[0] > 0


def test_it_learns_the_crystals_that_it_is_shown(model: TrainedModel) -> None:
    dataset = few(6)
    config = SlotConfig(n_slots=16, width=64, layers=2, epochs=500, batch_size=6)
    slots, log = train_slots(model, dataset, config)
    crystals = dataset.split("train")
    found = decode_slots(slots, model, model.encode(crystals), crystals.ids)
    assert log["loss"].iloc[-1] < log["loss"].iloc[0] / 50
    assert np.array_equal(found.n_atoms, crystals.n_atoms)
    for i in range(len(crystals)):
        ours, theirs = found.atoms(i), crystals.atoms(i)
        assert sorted(found.species[ours]) == sorted(crystals.species[theirs])
        apart = np.linalg.norm(found.positions[ours][:, None] - crystals.positions[theirs], axis=-1)
        assert apart.min(0).max() < 0.3
    again, _ = train_slots(model, dataset, replace(config, epochs=2))
    once, _ = train_slots(model, dataset, replace(config, epochs=2))
    assert all(
        torch.equal(a, b) for a, b in zip(again.parameters(), once.parameters(), strict=True)
    )


def test_the_truth_as_proposal_is_certified_and_stays(model: TrainedModel) -> None:
    crystals = STARTER.split("val").select(range(5))
    config = ReconstructionConfig(mode="consistent", search_rounds=1)
    found, certified = confirmed(model, model.encode(crystals), crystals, config)
    assert certified.all() and np.array_equal(found.n_atoms, crystals.n_atoms)
    assert np.abs(found.positions - crystals.positions).max() < 0.01
    wrong = replace(crystals, positions=crystals.positions + 1.5, species=crystals.species[::-1])
    # without a search such a start leads nowhere, and then the proposal stands
    kept, none = confirmed(model, model.encode(crystals), wrong, replace(config, search_rounds=0))
    assert not none.all()
    i = int(np.flatnonzero(~none)[0])
    assert np.array_equal(kept.positions[kept.atoms(i)], wrong.positions[wrong.atoms(i)])


def test_the_analysis_compares_the_ways_on_one_split(model: TrainedModel) -> None:
    made = analyse(model, few(4), Parameters(epochs=2), progress=False)
    table = made["slots"].set_index("decoder")
    assert table.index.tolist() == [
        "fields",
        "slots",
        "fields, consistent",
        "slots, consistent",
        "fields, then slots",
    ]
    certified = table["n_certified"]
    assert certified.isna().tolist() == [True, True, False, False, False]
    assert certified["fields, then slots"] >= certified["fields, consistent"]
    assert len(made["second"]) == 4 - certified["fields, consistent"]
    assert len(made["log"]) == 2


def test_a_decoder_without_slots_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        SlotConfig(n_slots=0)
