"""Consistent decoding: derivatives, polishing, discrete moves, the search and its certificate."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from nesf import data
from nesf.config import ModelConfig, ReconstructionConfig, preset
from nesf.consistent import Moves, Search, State, Target, finished, grid_in_cell
from nesf.crystals import Crystals, pad
from nesf.decode import reconstruct
from nesf.export import write_reconstruction
from nesf.forms import from_values
from nesf.model import Encoder
from nesf.polishing import Candidates, FixedEncoder, polish
from nesf.saved import TrainedModel
from nesf_io.errors import ConfigError
from nesf_studies.page import recorded_run

ENCODERS = {
    "faithful": ModelConfig(n_species=100),
    "plus": dataclasses.replace(preset("plus").model, n_species=100),
}
VOCABULARY = tuple(range(1, 101))
CONFIG = ReconstructionConfig(mode="consistent")


def candidates_of(crystals: Crystals, vocabulary: tuple[int, ...]) -> Candidates:
    """The crystals themselves as candidates."""
    padded = pad(crystals, vocabulary, dtype=torch.float64)
    return Candidates(
        padded.positions.masked_fill(~padded.mask[..., None], 0.0),
        padded.species,
        padded.mask,
        torch.cat([padded.lengths, padded.angles], dim=-1),
        padded.mask.sum(1),
    )


@pytest.fixture(scope="module")
def crystals() -> Crystals:
    return data.load("starter").split("val").select(range(6))


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return TrainedModel.load(recorded_run("starter"), "cpu")


def some_encoder(name: str) -> Encoder:
    """An encoder of random weights and running statistics."""
    torch.manual_seed(1)
    encoder = Encoder(ENCODERS[name]).double().eval()
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return encoder


@pytest.mark.parametrize("name", ENCODERS)
def test_the_fixed_encoder_is_the_encoder(name: str, crystals: Crystals) -> None:
    encoder, vocabulary = some_encoder(name), VOCABULARY
    expected = encoder(pad(crystals, vocabulary, dtype=torch.float64))
    found = FixedEncoder(encoder)(candidates_of(crystals, vocabulary))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ENCODERS)
def test_derivatives_are_those_of_automatic_differentiation(name: str, crystals: Crystals) -> None:
    encoder = FixedEncoder(some_encoder(name))
    one = candidates_of(crystals.select([3]), VOCABULARY)
    latent, slopes = encoder.derivatives(one)
    torch.testing.assert_close(latent, encoder(one))

    def of_positions(positions: torch.Tensor) -> torch.Tensor:
        return encoder(one._replace(positions=positions))[0]

    def of_lattice(lattice: torch.Tensor) -> torch.Tensor:
        return encoder(one._replace(lattice=lattice))[0]

    expected = torch.autograd.functional.jacobian(of_positions, one.positions)[:, 0].flatten(1)
    torch.testing.assert_close(slopes[0, :-6].T, expected)
    expected = torch.autograd.functional.jacobian(of_lattice, one.lattice)[:, 0]
    torch.testing.assert_close(slopes[0, -6:].T, expected)


def targets(model: TrainedModel, crystals: Crystals) -> tuple[torch.Tensor, torch.Tensor]:
    """Latent vectors of the crystals, and a scale."""
    return model.encode(crystals).double(), torch.full((192,), 0.3, dtype=torch.float64)


def test_polishing_brings_displaced_atoms_back(model: TrainedModel, crystals: Crystals) -> None:
    truth = candidates_of(crystals, model.vocabulary)
    z, scale = targets(model, crystals)
    noise = torch.randn(truth.positions.shape, generator=torch.Generator().manual_seed(0))
    start = truth._replace(
        positions=truth.positions + 0.03 * noise * truth.mask[..., None],
        lattice=truth.lattice + torch.tensor([0.02, -0.02, 0.01, 0, 0, 0]),
    )
    encoder = FixedEncoder(model.autoencoder.encoder)
    before = ((encoder(start) - z) / scale).square().mean(-1)
    found, distances = polish(encoder, start, z, scale, start.lattice, 25, 1e-12)
    assert (distances <= before).all()
    close = distances < 1e-9
    assert close.sum() >= 5  # of 6
    assert (found.positions - truth.positions)[close].abs().max() < 1e-3  # Å
    assert (found.lattice - truth.lattice)[close, :3].abs().max() < 0.01  # Å
    none, unmoved = polish(encoder, start, z, scale, start.lattice, 0)
    torch.testing.assert_close(unmoved, before)
    torch.testing.assert_close(none.positions, start.positions)


def state_of(crystals: Crystals, model: TrainedModel, i: int) -> State:
    """A crystal as a state of the search."""
    one = candidates_of(crystals.select([i]), model.vocabulary)
    return State(0.0, 0.0, "start", *one.atoms(0), one.lattice[0], int(one.told[0]))


@pytest.mark.parametrize(("with_counts", "missing"), [(False, 0), (True, 0), (True, 2)])
def test_the_energy_of_a_move_is_that_of_the_crystal_it_makes(
    model: TrainedModel, crystals: Crystals, with_counts: bool, missing: int
) -> None:
    state = state_of(crystals, model, 2)
    state = state._replace(told=state.told + missing)
    z, scale = targets(model, crystals)
    n = len(model.vocabulary)
    counts = torch.bincount(state.species, minlength=n).double() if with_counts else None
    target = Target(z[0], scale, state.lattice, counts, len(state.species))
    rough = FixedEncoder(model.autoencoder.encoder, torch.float32)
    moves = Moves(rough, state, target, CONFIG).all(grid_in_cell(state.lattice, 1.0))
    assert {m.kind for m in moves} >= {"rename", "swap", "remove", "add", "move"}
    for move in moves:
        made = Candidates.of([(move.positions, move.species)], move.lattice[None], [move.told])
        assert move.told - len(move.species) == max(0, missing - (move.kind == "add")) + (
            missing > 0 and move.kind == "remove"
        )
        latent = FixedEncoder(model.autoencoder.encoder)(made)
        have = torch.bincount(move.species, minlength=n).double()
        expected = ((latent - z[0]) / scale).square().mean() + target.mismatch(
            have, CONFIG.composition_weight
        )
        assert move.energy == pytest.approx(float(expected), rel=1e-3, abs=1e-5), move.kind
        assert len(move.species) - len(state.species) == {"add": 1, "remove": -1}.get(move.kind, 0)


@pytest.mark.parametrize("fault", ["element", "missing", "additional"])
def test_the_search_mends(model: TrainedModel, crystals: Crystals, fault: str) -> None:
    truth = state_of(crystals, model, 2)
    z, scale = targets(model, crystals)
    positions, species = truth.positions, truth.species
    if fault == "element":
        species = species.clone()
        species[0] = (species[0] + 7) % len(model.vocabulary)
    elif fault == "missing":
        positions, species = positions[1:], species[1:]
    else:
        place = positions[:1] + torch.tensor([[1.1, 0.9, 1.2]])
        positions, species = torch.cat([positions, place]), torch.cat([species, species[:1]])
    start = truth._replace(
        energy=1.0, positions=positions, species=species, distance=1.0, told=len(species)
    )
    target = Target(z[2], scale, truth.lattice, None, len(species))
    search = Search(FixedEncoder(model.autoencoder.encoder, torch.float32), target, CONFIG)
    exact = FixedEncoder(model.autoencoder.encoder)
    found = finished(exact, search.pruned(search.run([start])), target)
    assert found.distance < CONFIG.certified and search.tried > 0
    assert sorted(found.species.tolist()) == sorted(truth.species.tolist())
    assert torch.cdist(truth.positions, found.positions).amin(1).max() < 1e-3  # Å
    nothing = Search(search.rough, target, dataclasses.replace(CONFIG, search_rounds=0))
    assert nothing.run([start]) is start and nothing.tried == 0


def test_only_a_second_atom_at_one_place_is_left_out(
    model: TrainedModel, crystals: Crystals
) -> None:
    truth = state_of(crystals, model, 2)
    z, scale = targets(model, crystals)
    positions, species = truth.positions, truth.species
    twice = truth._replace(
        positions=torch.cat([positions, positions[:1] + 0.05]),
        species=torch.cat([species, species[:1]]),
        distance=0.0,
    )
    # an encoder that feels no atom at all: every crystal is certified
    config = dataclasses.replace(CONFIG, certified=1e9)
    target = Target(z[2], scale, truth.lattice, None, len(species))
    search = Search(FixedEncoder(model.autoencoder.encoder, torch.float32), target, config)
    found = search.pruned(twice)
    assert sorted(found.species.tolist()) == sorted(species.tolist())
    assert torch.pdist(found.positions).min() > config.nms_radius
    assert search.pruned(truth._replace(distance=0.0)).kind == truth.kind


def test_the_search_adds_atoms_up_to_the_decoded_number(
    model: TrainedModel, crystals: Crystals
) -> None:
    truth = state_of(crystals, model, 2)
    z, scale = targets(model, crystals)
    counts = torch.bincount(truth.species, minlength=len(model.vocabulary)).double()
    target = Target(z[2], scale, truth.lattice, counts, len(truth.species) - 1)
    search = Search(FixedEncoder(model.autoencoder.encoder, torch.float32), target, CONFIG)
    start = truth._replace(positions=truth.positions[1:], species=truth.species[1:], energy=1.0)
    completed = search.completed(start, len(truth.species))
    assert completed and all(len(s.species) == s.told == len(truth.species) for s in completed)
    assert min(s.distance for s in completed) < 1e-6


@pytest.mark.parametrize("name", ["search_width", "search_top", "search_candidates"])
def test_a_search_without_room_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} = 0: a whole number from 1"):
        from_values(ReconstructionConfig, {"mode": "consistent", name: 0})


def test_a_composition_of_hundreds_of_atoms_is_not_followed(
    model: TrainedModel, crystals: Crystals
) -> None:
    truth = state_of(crystals, model, 2)
    z, scale = targets(model, crystals)
    counts = torch.full((len(model.vocabulary),), 30.0, dtype=torch.float64)
    target = Target(z[2], scale, truth.lattice, counts, len(truth.species))
    search = Search(FixedEncoder(model.autoencoder.encoder, torch.float32), target, CONFIG)
    made = search.completions(truth._replace(energy=1e9))
    assert all(len(state.species) == len(truth.species) for state in made)


def test_decoding_with_a_certificate(
    model: TrainedModel, crystals: Crystals, tmp_path: Path
) -> None:
    config = dataclasses.replace(CONFIG, search_rounds=1)
    decoded = reconstruct(model, crystals, config)
    fast = reconstruct(model, crystals, dataclasses.replace(config, mode="fast"))
    certificates = [report["certificate"] for report in decoded.reports]
    assert sum(c["certified"] for c in certificates) >= 3
    for i, certificate in enumerate(certificates):
        found, plain = decoded.crystals.select([i]), fast.crystals.select([i])
        assert certificate["certified"] == (certificate["latent_distance"] < config.certified)
        assert certificate["candidates"] >= 1 and certificate["field_distance"] >= 0
        if certificate["certified"]:
            change = model.encode(found) - model.encode(crystals.select([i]))
            assert change.abs().max() < 1e-3
            distance = np.linalg.norm(
                crystals.select([i]).positions[:, None] - found.positions, axis=-1
            )
            assert distance.min(1).max() < 1e-2  # Å
        else:
            np.testing.assert_array_equal(found.positions, plain.positions)
            np.testing.assert_array_equal(found.species, plain.species)
    again = reconstruct(model, crystals, config)
    np.testing.assert_array_equal(again.crystals.positions, decoded.crystals.positions)
    write_reconstruction(tmp_path, decoded, {})
    texts = [path.read_text() for path in sorted((tmp_path / "cif").glob("*.cif"))]
    assert sum("# nesf: certified" in text for text in texts) == sum(
        c["certified"] for c in certificates
    )
    assert "not_certified" in (tmp_path / "summary.json").read_text()
