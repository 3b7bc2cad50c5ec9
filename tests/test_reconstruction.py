"""Section 2.1, step by step; and the oracle: a ground-truth field decodes to its crystal exactly."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pymatgen.core import Structure
from scipy.spatial import KDTree

from nesf.config import ReconstructionConfig, preset
from nesf.crystals import Crystals, concatenate, pad, standard_lattice, vocabulary_of
from nesf.data import load
from nesf.data.dataset import Box, Dataset, bounding_box
from nesf.data.official import to_crystals
from nesf.decode import (
    DetectedAtoms,
    GroundTruthFields,
    Particles,
    Reconstruction,
    _batches,
    decode,
    detect_atoms,
    estimate_species,
    initialize_particles,
    merge_particles,
    move_particles,
    oracle,
    reconstruct,
    score_particles,
    start_boxes,
)
from nesf.export import write_reconstruction
from nesf.fields import box_grid, grid_size
from nesf.saved import TrainedModel, model_for
from nesf_io.errors import DataError
from nesf_studies.page import recorded_run

DEFAULT = ReconstructionConfig()


def random_crystals(n: int, seed: int) -> Crystals:
    """Crystals in oblique cells, 1 to 12 atoms at random places at least 1.6 Å apart (the nearest
    in real ones are farther, hydrogen left aside)."""
    rng = np.random.default_rng(seed)
    lattice = standard_lattice(rng.uniform(3, 6, (n, 3)), np.radians(rng.uniform(75, 105, (n, 3))))
    positions = []
    for matrix, wanted in zip(lattice, rng.integers(1, 13, n), strict=True):
        chosen: list[np.ndarray] = []
        for point in rng.random((300, 3)) @ matrix:
            if len(chosen) < wanted and all(np.linalg.norm(point - c) > 1.6 for c in chosen):
                chosen.append(point)
        positions.append(np.array(chosen))
    return Crystals.from_arrays(
        [f"random-{i}" for i in range(n)],
        positions,
        [rng.integers(1, 90, len(p)) for p in positions],
        lattice,
    )


def decode_truth(
    crystals: Crystals, config: ReconstructionConfig = DEFAULT, box: Box | None = None
) -> Reconstruction:
    return oracle(crystals, box or bounding_box(crystals), vocabulary_of(crystals), config)


def is_exact(actual: Crystals, detected: Crystals) -> None:
    assert detected.ids == actual.ids
    assert np.array_equal(detected.n_atoms, actual.n_atoms)
    for i in range(len(actual)):
        distances, nearest = KDTree(detected.positions[detected.atoms(i)]).query(
            actual.positions[actual.atoms(i)]
        )
        assert distances.max() < 1e-4 and sorted(nearest) == list(range(len(nearest))), actual.ids[
            i
        ]
        assert np.array_equal(
            detected.species[detected.atoms(i)][nearest], actual.species[actual.atoms(i)]
        ), actual.ids[i]
    np.testing.assert_allclose(detected.lengths, actual.lengths, atol=1e-5)
    np.testing.assert_allclose(detected.angles, actual.angles, atol=1e-5)
    # in the standard setting, so also the matrix
    np.testing.assert_allclose(detected.lattice, actual.lattice, atol=1e-4)


@pytest.mark.parametrize("atom_position", ["lowest_score", "cluster_mean"])
def test_ground_truth_decodes_exactly_at_random(atom_position: str) -> None:
    crystals = random_crystals(12, seed=0)
    assert len(set(crystals.n_atoms)) > 4
    is_exact(
        crystals,
        decode_truth(crystals, dataclasses.replace(DEFAULT, atom_position=atom_position)).crystals,
    )


def test_ground_truth_decodes_exactly_on_lattices() -> None:
    """Symmetric crystals, many particles equally far from several atoms."""
    frac = np.array([[x, y, z] for x in (0, 0.5) for y in (0, 0.5) for z in (0, 0.5)])
    rock_salt = Crystals.from_arrays(
        ["NaCl"], [frac * 5.6], [np.array([11, 17, 17, 11, 17, 11, 11, 17])], np.eye(3)[None] * 5.6
    )
    bcc = Crystals.from_arrays(
        ["Fe"],
        [np.array([[0, 0, 0], [0.5, 0.5, 0.5]]) * 2.87],
        [np.array([26, 26])],
        np.eye(3)[None] * 2.87,
    )
    lattice = standard_lattice(np.array([[3.2, 3.2, 5.2]]), np.radians([[90, 90, 120]]))
    hcp = Crystals.from_arrays(
        ["Mg"],
        [np.array([[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]]) @ lattice[0]],
        [np.array([12, 12])],
        lattice,
    )
    crystals = concatenate([rock_salt, bcc, hcp])
    is_exact(crystals, decode_truth(crystals).crystals)


def test_ground_truth_decodes_exactly_on_starter() -> None:
    starter = load("starter")
    test = starter.splits["test"]
    result = oracle(test, bounding_box(starter.splits["train"]), starter.vocabulary)
    is_exact(test, result.crystals)
    assert result.nothing_detected == [] and not any(r["lattice_repaired"] for r in result.reports)
    report, grid = result.reports[7], len(box_grid(bounding_box(starter.splits["train"]), 0.5))
    assert (
        report["id"] == test.ids[7]
        and report["n_atoms"] == test.n_atoms[7] == len(report["atoms"])
        and report["n_particles"] == grid
    )
    # the truth discards no particle
    assert sum(a["particles"] for a in report["atoms"]) + sum(report["clusters_rejected"]) == grid
    assert all(a["votes"] == 216 and a["score"] < 1e-5 for a in report["atoms"])
    assert [a["atomic_number"] for a in report["atoms"]] == result.crystals.species[
        result.crystals.atoms(7)
    ].tolist()


@pytest.mark.parametrize(("name", "fold"), [("lcs6", None), ("ybco", 0), ("icsg3d", None)])
def test_ground_truth_of_the_release_decodes_exactly(
    mirror: Path, tmp_path: Path, name: str, fold: int | None
) -> None:
    # not every copy of the release has its training split: the test atoms give the box
    if name == "icsg3d":
        folder = mirror / "data/dataset_paper/dataset_ICSG3D_test"
        test, vocabulary = to_crystals(
            (folder / "dataset.pkl").read_bytes(),
            (folder / "dataset_attr.json").read_bytes(),
            str(folder),
        )
        part = test.select(range(0, len(test), 10))
        is_exact(part, oracle(part, bounding_box(test), vocabulary).crystals)
        return
    dataset = load(name, fold=fold, data_dir=tmp_path, mirror=mirror)
    part = dataset.splits["test"].select(range(0, len(dataset.splits["test"]), 10))
    is_exact(part, oracle(part, bounding_box(dataset.splits["train"]), dataset.vocabulary).crystals)


def test_periodic_truth_decodes_to_the_crystal_up_to_images() -> None:
    crystals = random_crystals(3, seed=1)
    detected = oracle(
        crystals, bounding_box(crystals), vocabulary_of(crystals), periodic=True
    ).crystals
    for i, (actual, ours) in enumerate(
        zip(crystals.to_structures(), detected.to_structures(), strict=True)
    ):
        distances = actual.lattice.get_all_distances(ours.frac_coords, actual.frac_coords)
        # every atom, and nothing else
        assert distances.min(1).max() < 1e-4 and distances.min(0).max() < 1e-4, i


def test_step_1_particles_are_a_grid_for_every_crystal() -> None:
    box: Box = ((0.0, -1.0, 0.0), (2.0, 1.0, 3.0))
    particles = initialize_particles([box] * 3, DEFAULT)
    grid = box_grid(box, 0.5)
    assert particles.positions.shape == (3 * len(grid), 3) and len(grid) == 6 * 6 * 8
    assert torch.equal(particles.positions.view(3, -1, 3)[2], grid) and torch.equal(
        torch.bincount(particles.crystal), torch.tensor([len(grid)] * 3)
    )
    assert particles.counts.eq(1).all() and particles.scores.isnan().all()


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_particles_that_start_in_each_cell_find_the_same_atoms_with_less_work(mode: str) -> None:
    crystals = random_crystals(12, seed=3)
    # one long cell blows up the box common to all
    long = Crystals.from_arrays(
        ["long"],
        [np.array([[0.5, 0.5, 0.5], [1.0, 1.0, 29.0]])],
        [np.array([3, 8])],
        np.diag([4.0, 4.0, 30.0])[None],
    )
    crystals = concatenate([crystals, long])
    config = dataclasses.replace(DEFAULT, mode=mode)
    in_box = decode_truth(crystals, config)
    in_cell = decode_truth(crystals, dataclasses.replace(config, particles="cell"))
    is_exact(crystals, in_cell.crystals)
    assert np.array_equal(in_box.crystals.n_atoms, in_cell.crystals.n_atoms)
    most, few = ([r["n_particles"] for r in made.reports] for made in (in_box, in_cell))
    assert len(set(most)) == 1 and len(set(few)) > 6 and max(few[:-1]) < most[0] / 4


def test_the_box_of_a_cell_holds_its_corners_and_ends_at_that_of_the_dataset() -> None:
    crystals = random_crystals(6, seed=1)
    fields = GroundTruthFields(pad(crystals, vocabulary_of(crystals)), False)
    config = dataclasses.replace(DEFAULT, particles="cell")
    wide: Box = ((-20.0,) * 3, (20.0,) * 3)
    for box, lattice in zip(start_boxes(fields, 6, wide, config), crystals.lattice, strict=True):
        grid = box_grid(box, 0.5).numpy()
        corners = np.array(list(np.ndindex(2, 2, 2))) @ lattice
        # `CELL_MARGIN`; the upper end is within an interval of the grid's end
        assert grid.min(0) == pytest.approx(corners.min(0) - 0.3, abs=1e-4)
        assert (corners.max(0) + 0.3 - grid.max(0) < 0.5 + 1e-4).all()
        assert (grid.max(0) <= corners.max(0) + 0.3 + 1e-4).all()
    narrow: Box = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert start_boxes(fields, 6, narrow, config) == [
        (low, narrow[1]) for low, _ in start_boxes(fields, 6, narrow, config)
    ]
    assert start_boxes(fields, 6, narrow, DEFAULT) == [narrow] * 6


def test_a_network_decodes_from_particles_in_its_own_cells() -> None:
    model = TrainedModel.load(recorded_run("starter"), "cpu")
    crystals = load("starter").splits["val"].select(range(8))
    config = dataclasses.replace(DEFAULT, mode="fast", particles="cell")
    made = reconstruct(model, crystals, config)
    few = [r["n_particles"] for r in made.reports]
    boxed = reconstruct(model, crystals, dataclasses.replace(config, particles="box"))
    assert len(set(few)) > 1 and max(few) < boxed.reports[0]["n_particles"]
    same = made.crystals.n_atoms == boxed.crystals.n_atoms
    assert same.mean() >= 0.75


@pytest.mark.parametrize("box", [((0.0,) * 3, (1.0, 2.5, 3.0)), ((-3.1, 0.2, -2.7),) * 2])
@pytest.mark.parametrize("interval", [0.3, 0.5, 0.7])
def test_the_size_of_a_grid_is_known_without_making_it(box: Box, interval: float) -> None:
    assert grid_size(box, interval) == len(box_grid(box, interval))


def test_batches_hold_each_crystal_once_and_not_too_many_particles() -> None:
    sizes = [30, 50, 40, 500, 10, 20, 70]
    parts = list(_batches(sizes, 100))
    assert [i for start, stop in parts for i in range(start, stop)] == list(range(7))
    assert all(stop - start == 1 or sum(sizes[start:stop]) <= 100 for start, stop in parts)
    assert parts == [(0, 2), (2, 3), (3, 4), (4, 7)]


class HalfWay:
    """A position field that goes half of the way to (1, 1, 1), whatever the crystal; and asks to be
    asked in parts of at most 50."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def position(
        self, queries: torch.Tensor, crystal: torch.Tensor, rough: bool = False
    ) -> torch.Tensor:
        self.asked.append(len(queries))
        return (1 - queries) / 2 + 0.02 * rough

    def species(self, queries: torch.Tensor, crystal: torch.Tensor) -> torch.Tensor:
        return (queries[:, 0] > 1).long() * 2 + crystal  # species by the side of x = 1 Å

    def lattice(self) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full((2, 3), 4.0), torch.full((2, 3), torch.pi / 2)


def test_steps_2_and_3_follow_the_field() -> None:
    start = particles(torch.rand(120, 3) * 4)
    config = ReconstructionConfig(iterations=3, converged=0.0, max_queries=50)
    fields = HalfWay()
    moved = move_particles(fields, start, config)
    torch.testing.assert_close(moved.positions, 1 + (start.positions - 1) / 8)
    assert fields.asked == [50, 50, 20] * 3 and moved.scores.isnan().all()
    scores = score_particles(fields, moved, config).scores
    # ‖f_p‖ at the final position
    torch.testing.assert_close(scores, (moved.positions - 1).norm(dim=-1) / 2)
    frozen = HalfWay()  # a particle stays where its next step would be shorter than 0.2 Å
    start = start._replace(counts=torch.arange(120))  # to know them again
    arrived = move_particles(
        frozen, start, ReconstructionConfig(iterations=64, converged=0.2, max_queries=1000)
    )
    assert (
        frozen.asked[0] == 120
        and sorted(frozen.asked, reverse=True) == frozen.asked
        and len(frozen.asked) < 8
    )
    order = arrived.counts.argsort()
    expected = start.positions - 1
    for _ in range(64):
        expected = torch.where(
            expected.norm(dim=-1, keepdim=True) / 2 < 0.2, expected, expected / 2
        )
    torch.testing.assert_close(arrived.positions[order], 1 + expected)
    torch.testing.assert_close(arrived.scores[order], expected.norm(dim=-1) / 2)
    asked = len(frozen.asked)
    assert (
        torch.equal(score_particles(frozen, arrived, config).scores, arrived.scores)
        and len(frozen.asked) == asked + 1
        and frozen.asked[-1] == 0
    )


def test_fast_mode_merges_particles_that_met_and_keeps_their_counts() -> None:
    generator = torch.Generator().manual_seed(0)
    start = particles(torch.rand(500, 3, generator=generator) * 4, torch.arange(500) % 2)
    fields = HalfWay()
    moved = move_particles(fields, start, ReconstructionConfig(mode="fast", merge_distance=0.05))
    # at most the eight cells that meet at (1, 1, 1), twice
    assert fields.asked[0] == 500 and fields.asked[-1] <= 16
    assert torch.bincount(moved.crystal, moved.counts.double()).tolist() == [250, 250]
    # rough first steps are corrected by later ones
    assert (moved.positions - 1).norm(dim=-1).max() < 0.01
    a = torch.tensor(
        [
            [0.011, 0.0, 0.0],
            [0.014, 0.0, 0.0],
            [0.9, 0.0, 0.0],
            [0.012, 0.0, 0.0],
            [-0.01, 0.0, 0.0],
            [5e8, 0.0, 0.0],
        ]
    )
    merged = merge_particles(
        particles(a, torch.tensor([0, 0, 0, 1, 0, 0]))._replace(
            counts=torch.tensor([1, 3, 1, 1, 1, 1])
        ),
        0.05,
    )
    rows = sorted(
        zip(
            merged.crystal.tolist(),
            merged.counts.tolist(),
            merged.positions[:, 0].tolist(),
            strict=True,
        )
    )
    assert [r[:2] for r in rows] == [(0, 1), (0, 1), (0, 1), (0, 4), (1, 1)]
    assert [r[2] for r in rows] == pytest.approx([-0.01, 0.9, 5e8, (0.011 + 3 * 0.014) / 4, 0.012])


def particles(
    positions: torch.Tensor, crystal: torch.Tensor | None = None, scores: torch.Tensor | None = None
) -> Particles:
    crystal = torch.zeros(len(positions), dtype=torch.long) if crystal is None else crystal
    return Particles(
        positions,
        crystal,
        torch.ones_like(crystal),
        torch.full((len(positions),), torch.nan) if scores is None else scores,
    )


def cluster(
    n: int, centre: tuple[float, float, float], scores: list[float] | float, spread: float = 0.05
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    return np.array(centre) + rng.uniform(-spread, spread, (n, 3)), np.broadcast_to(
        np.array(scores, float), (n,)
    ).copy()


def detect(*parts: tuple[np.ndarray, np.ndarray], **changes: object) -> DetectedAtoms:
    config = dataclasses.replace(DEFAULT, **changes)  # type: ignore[arg-type]
    positions, scores = (
        torch.as_tensor(np.concatenate([part[k] for part in parts])) for k in (0, 1)
    )
    return detect_atoms(particles(positions, None, scores), 1, config)[0]


def test_step_4_ten_particles_are_an_atom_nine_are_not() -> None:
    nine, ten = cluster(9, (0, 0, 0), 0.01), cluster(10, (2, 0, 0), 0.02)
    found = detect(nine, ten)
    assert found.particles.tolist() == [10] and found.rejected.tolist() == [9]
    assert np.linalg.norm(found.positions[0] - [2, 0, 0]) < 0.1 and found.scores.tolist() == [0.02]
    assert detect(nine, ten, min_particles=9).particles.tolist() == [9, 10]
    assert detect(nine, ten, min_particles=11).particles.tolist() == []


def test_step_4_takes_the_lowest_score_first_and_its_place() -> None:
    points, scores = cluster(20, (1, 1, 1), 0.3)
    scores[13] = 0.1
    other = cluster(15, (3, 1, 1), 0.05)
    found = detect((points, scores), other)
    np.testing.assert_allclose(found.positions[1], points[13])
    assert found.scores.tolist() == [0.05, 0.1] and found.particles.tolist() == [15, 20]
    mean = detect((points, scores), other, atom_position="cluster_mean")
    weights = np.exp(-(scores**2)) / np.exp(-(scores**2)).sum()
    np.testing.assert_allclose(mean.positions[1], weights @ points)


def test_step_4_radius_and_what_is_removed() -> None:
    a, b = cluster(12, (0, 0, 0), 0.01, spread=1e-6), cluster(12, (0.49, 0, 0), 0.02, spread=1e-6)
    assert detect(a, b).particles.tolist() == [24]  # nearer than 0.5 Å: one atom
    c = cluster(12, (0.51, 0, 0), 0.02, spread=1e-6)
    assert detect(a, c).particles.tolist() == [12, 12]
    assert detect(a, c, nms_radius=0.6).particles.tolist() == [24]
    # A rejected candidate takes its neighbours with it, and each particle counts once.
    lonely = cluster(1, (1.0, 0, 0), 0.001, spread=0)
    edge = cluster(5, (1.3, 0, 0), 0.5, spread=1e-6)
    found = detect(lonely, edge, cluster(9, (1.6, 0, 0), 0.6, spread=1e-6))
    assert found.particles.tolist() == [] and found.rejected.tolist() == [6, 9]
    assert detect((np.zeros((0, 3)), np.zeros(0))).positions.shape == (0, 3)
    assert len(detect(a, nms_radius=0.0, min_particles=1).particles) == 12  # it ends


def test_step_4_is_the_paper_s_loop() -> None:
    """Against non-maximum suppression written as Section 2.1 says it, one particle after another."""
    rng = np.random.default_rng(0)
    points, scores = rng.uniform(0, 3, (400, 3)), 0.9 * rng.random(400)  # none above the threshold
    accepted, candidates = [], list(range(400))
    while candidates:
        best = min(candidates, key=lambda i: scores[i])
        near = [i for i in candidates if np.linalg.norm(points[i] - points[best]) < 0.5]
        if len(near) >= 10:
            accepted.append(best)
        candidates = [i for i in candidates if i not in near]
    found = detect((points, scores))
    assert 0 < len(accepted) < 30 and len(found.rejected) > 0
    np.testing.assert_allclose(found.positions, points[accepted])


def test_step_5_takes_the_majority() -> None:
    positions, crystal = (
        torch.tensor([[1.06, 0.0, 0.0], [0.94, 0.0, 0.0], [0.2, 0, 0]]),
        torch.tensor([0, 0, 1]),
    )
    species, votes = estimate_species(HalfWay(), positions, crystal, 4, DEFAULT)
    # Of six planes of 36 points, at -0.25, -0.15, ..., 0.25 Å, four are on the larger side.
    assert votes.tolist() == [
        [72, 0, 144, 0],
        [144, 0, 72, 0],
        [0, 216, 0, 0],
    ] and species.tolist() == [2, 0, 1]
    finer = dataclasses.replace(DEFAULT, species_interval=0.05, species_range=0.2)
    assert estimate_species(HalfWay(), positions, crystal, 4, finer)[1].sum(1).tolist() == [125] * 3


def test_particles_with_a_high_score_are_discarded() -> None:
    class Lost(HalfWay):
        def position(
            self, queries: torch.Tensor, crystal: torch.Tensor, rough: bool = False
        ) -> torch.Tensor:
            return torch.where(crystal[:, None] == 0, 0.0, torch.tensor([1.0, 0.0, 0.0])).expand(
                len(queries), 3
            )

    box: Box = ((0.0,) * 3, (1.0,) * 3)
    config = ReconstructionConfig(iterations=1, min_particles=1)
    result = decode(Lost(), ["still", "restless"], box, (1, 2, 3, 4), config)
    assert result.crystals.n_atoms[0] > 0 and result.crystals.n_atoms[1] == 0
    assert (
        result.nothing_detected == ["restless"]
        and result.reports[1]["n_atoms"] == 0
        and result.reports[1]["atoms"] == []
    )
    loose = dataclasses.replace(config, score_threshold=1.1)
    assert decode(Lost(), ["still", "restless"], box, (1, 2, 3, 4), loose).crystals.n_atoms[1] > 0


def test_impossible_lattice_is_repaired_and_reported() -> None:
    class Absurd(HalfWay):
        def lattice(self) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.tensor([[4.0, 4.0, 4.0], [-1.0, 4.0, 4.0]]), torch.tensor(
                [[3.0, 0.2, 0.2], [1.5, 1.5, 1.5]]
            )

    result = decode(
        Absurd(),
        ["angles", "length"],
        ((0.0,) * 3, (1.0,) * 3),
        (1, 2, 3, 4),
        ReconstructionConfig(iterations=2),
    )
    assert [r["lattice_repaired"] for r in result.reports] == [True, True]
    np.testing.assert_allclose(np.degrees(result.crystals.angles[0]), 90)
    assert (result.crystals.lengths > 0).all() and result.reports[1]["lengths"][0] == -1


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    """An untrained model whose field, scaled down, still makes clusters: the machinery's test, not
    the network's."""
    starter = load("starter")
    dataset = Dataset(
        "few", {name: starter.splits[name].select(range(6)) for name in ("train", "val", "test")}
    )
    torch.manual_seed(0)
    config = preset("paper").with_values(
        {"model.decoder_position": [32, 16], "model.decoder_species": [16], "model.latent_size": 8}
    )
    model = model_for(dataset, config)
    with torch.no_grad():
        field = model.autoencoder.position_field
        field.last.weight.mul_(3)
        field.layers[0].weight[:, -3:].mul_(2)
    model.autoencoder.eval()
    return model


@pytest.fixture(scope="module")
def six() -> Crystals:
    return load("starter").splits["train"].select(range(6))


FEW = ReconstructionConfig(iterations=16, min_particles=3, score_threshold=3.0, converged=0.0)


def test_decoding_is_deterministic_and_memory_does_not_matter(
    model: TrainedModel, six: Crystals
) -> None:
    first = reconstruct(model, six, FEW)
    assert first.crystals.n_atoms.sum() > 0 and first.crystals.ids == six.ids
    torch.rand(5)
    again = reconstruct(model, six, FEW)
    assert first.reports == again.reports and np.array_equal(
        first.crystals.positions, again.crystals.positions
    )
    small = reconstruct(model, six, dataclasses.replace(FEW, max_queries=1000))
    assert np.array_equal(first.crystals.n_atoms, small.crystals.n_atoms) and np.array_equal(
        first.crystals.species, small.crystals.species
    )
    # matrix products of another size round otherwise
    np.testing.assert_allclose(first.crystals.positions, small.crystals.positions, atol=1e-3)


def test_a_model_is_decoded_with_its_own_parameters_unless_others_are_given(
    model: TrainedModel, six: Crystals
) -> None:
    own = dataclasses.replace(model, config=dataclasses.replace(model.config, decoding=FEW))
    by_default, explicit = reconstruct(own, six), reconstruct(model, six, FEW)
    assert (
        by_default.reports == explicit.reports
        and explicit.reports != reconstruct(model, six).reports
    )
    assert reconstruct(own, six, DEFAULT).reports == reconstruct(model, six).reports


def test_oracle_in_small_parts_is_identical() -> None:
    crystals = random_crystals(4, seed=3)
    whole = decode_truth(crystals)
    parts = decode_truth(crystals, dataclasses.replace(DEFAULT, max_queries=777))
    assert parts.reports == whole.reports and np.array_equal(
        parts.crystals.positions, whole.crystals.positions
    )


def test_particles_that_arrived_may_stay() -> None:
    crystals = random_crystals(6, seed=4)
    frozen, moving = (
        decode_truth(crystals),
        decode_truth(crystals, dataclasses.replace(DEFAULT, converged=0.0)),
    )
    assert np.array_equal(frozen.crystals.n_atoms, moving.crystals.n_atoms)
    assert frozen.reports[0]["clusters_rejected"] == moving.reports[0]["clusters_rejected"]


def test_reconstruction_refuses_what_the_model_does_not_know(
    model: TrainedModel, six: Crystals
) -> None:
    foreign = dataclasses.replace(
        six, species=np.where(np.arange(len(six.species)) == 0, 86, six.species)
    )
    with pytest.raises(DataError, match=f"^{six.ids[0]}: .*86"):
        reconstruct(model, foreign, FEW)
    with pytest.raises(DataError, match="no crystal"):
        reconstruct(model, six.select([]), FEW)


def test_nothing_detected_at_all_keeps_every_crystal(
    model: TrainedModel, six: Crystals, tmp_path: Path
) -> None:
    result = reconstruct(model, six, dataclasses.replace(FEW, score_threshold=0.0))
    assert (
        result.crystals.ids == six.ids
        and result.crystals.n_atoms.sum() == 0
        and result.nothing_detected == list(six.ids)
    )
    write_reconstruction(tmp_path, result, {"dataset": "few"})
    with open(tmp_path / "structures.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == list(six.ids) and all(
        row["n_atoms"] == "0" and row["cif"] == "" for row in rows
    )
    assert json.loads((tmp_path / "summary.json").read_text())["nothing_detected"] == list(six.ids)
    assert not (tmp_path / "cif").exists()


def test_written_files_hold_the_crystals(tmp_path: Path) -> None:
    crystals = random_crystals(4, seed=5)
    # two ids that make the same file name
    crystals = dataclasses.replace(crystals, ids=("a/b", "a_b", "c", "d"))
    result = decode_truth(crystals)
    empty = Crystals.from_arrays(["none"], [np.zeros((0, 3))], [np.zeros(0)], np.eye(3)[None] * 4)
    report = {"id": "none", "n_atoms": 0, "atoms": [], "lattice_repaired": False}
    write_reconstruction(
        tmp_path,
        Reconstruction(concatenate([result.crystals, empty]), [*result.reports, report]),
        {"dataset": "random"},
    )
    with open(tmp_path / "structures.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["a/b", "a_b", "c", "d", "none"] and len(
        {row["cif"] for row in rows}
    ) == 5
    for i, (row, actual) in enumerate(zip(rows, crystals.to_structures(), strict=False)):
        back = Structure.from_file(tmp_path / row["cif"])
        pairs = actual.distance_matrix[np.triu_indices(len(actual), 1)]  # with periodic images
        assert (
            row["shortest_distance"] == ""
            if len(actual) == 1
            else abs(float(row["shortest_distance"]) - pairs.min()) < 1e-3
        )
        assert (
            len(back) == len(actual) == int(row["n_atoms"])
            and back.composition == actual.composition
        )
        distances = actual.lattice.get_all_distances(actual.frac_coords, back.frac_coords)
        assert distances.min(1).max() < 1e-4, i
        np.testing.assert_allclose(back.lattice.parameters, actual.lattice.parameters, atol=1e-4)
        np.testing.assert_allclose(
            [float(row[k]) for k in ("a", "b", "c", "alpha", "beta", "gamma")],
            actual.lattice.parameters,
            atol=1e-4,
        )
    with open(tmp_path / "atoms.csv", newline="") as file:
        atoms = list(csv.DictReader(file))
    assert len(atoms) == crystals.n_atoms.sum() and all(
        a["votes"] == "216" and int(a["particles"]) >= 10 for a in atoms
    )
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["dataset"], summary["n_crystals"], summary["nothing_detected"]) == (
        "random",
        5,
        ["none"],
    )
    packed = Crystals.load(tmp_path / "crystals.safetensors")
    assert packed.ids == ("a/b", "a_b", "c", "d", "none") and packed.n_atoms[-1] == 0


def test_ground_truth_fields_are_the_protocol_s() -> None:
    crystals = random_crystals(2, seed=6)
    fields = GroundTruthFields(pad(crystals, vocabulary_of(crystals)))
    lengths, angles = fields.lattice()
    np.testing.assert_allclose(lengths, crystals.lengths, atol=1e-5)
    np.testing.assert_allclose(angles, crystals.angles, atol=1e-5)
