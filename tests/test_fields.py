"""Ground-truth fields against brute force and pymatgen, and the queries of Supplementary Note 6."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice
from scipy.spatial import KDTree
from torch import Tensor

from nesf.config import SamplingConfig, preset
from nesf.crystals import Crystals, PaddedCrystals, pad, standard_lattice, vocabulary_of
from nesf.data import load
from nesf.data.dataset import bounding_box
from nesf.fields import Queries, Sampler, box_grid, into_cell, local_grid, nearest_atom

LCS6_LIKE_BOX = ((0.0, 0.0, -1.4), (5.95, 5.95, 5.95))


@pytest.fixture(scope="module")
def crystals() -> Crystals:
    """Twelve real crystals, then four at random in oblique cells."""
    train = load("starter").splits["train"]
    real = train.select(range(0, 1200, 100))
    rng = np.random.default_rng(0)
    lattice = standard_lattice(rng.uniform(3, 6, (4, 3)), np.radians(rng.uniform(70, 110, (4, 3))))
    fractional = [rng.random((n, 3)) for n in (1, 3, 6, 9)]
    oblique = [f @ m for f, m in zip(fractional, lattice, strict=True)]
    return Crystals.from_arrays(
        [f"crystal-{i}" for i in range(16)],
        [real.positions[real.atoms(i)] for i in range(12)] + oblique,
        [real.species[real.atoms(i)] for i in range(12)]
        + [rng.integers(1, 80, len(p)) for p in oblique],
        np.concatenate([real.lattice, lattice]),
    )


@pytest.fixture(scope="module")
def batch(crystals: Crystals) -> PaddedCrystals:
    return pad(crystals, vocabulary_of(crystals), dtype=torch.float64)


def flat(queries: Tensor) -> Queries:
    b, q = queries.shape[:2]
    return Queries(queries.reshape(-1, 3), torch.arange(b).repeat_interleave(q))


def queries_around(crystals: Crystals, n: int = 60) -> Tensor:
    """Queries [B, n, 3] in the cells and up to half a cell outside."""
    rng = np.random.default_rng(1)
    return torch.as_tensor(rng.uniform(-0.5, 1.5, (len(crystals), n, 3)) @ crystals.lattice)


def test_field_points_to_the_nearest_atom_and_names_it(
    crystals: Crystals, batch: PaddedCrystals
) -> None:
    p = queries_around(crystals)
    vectors, species = nearest_atom(Queries(p, None), batch)
    for i in range(len(crystals)):
        distances, nearest = KDTree(crystals.positions[crystals.atoms(i)]).query(p[i].numpy())
        np.testing.assert_allclose(vectors[i].norm(dim=-1).numpy(), distances, atol=1e-10)
        np.testing.assert_allclose(
            (p[i] + vectors[i]).numpy(), crystals.positions[crystals.atoms(i)][nearest], atol=1e-9
        )
        assert (
            np.array(vocabulary_of(crystals))[species[i]]
            == crystals.species[crystals.atoms(i)][nearest]
        ).all()


def test_periodic_field_is_the_minimum_image(crystals: Crystals, batch: PaddedCrystals) -> None:
    far = torch.as_tensor(
        np.random.default_rng(2).integers(-2, 3, (len(crystals), 60, 3)) @ crystals.lattice
    )
    # queries cells away, as a box common to the dataset holds, see the same field
    p = queries_around(crystals) + far
    vectors, species = nearest_atom(Queries(p, None), batch, periodic=True)
    for i in range(len(crystals)):
        lattice, atoms = Lattice(crystals.lattice[i]), crystals.positions[crystals.atoms(i)]
        all_distances = lattice.get_all_distances(
            lattice.get_fractional_coords(p[i].numpy()), lattice.get_fractional_coords(atoms)
        )
        np.testing.assert_allclose(vectors[i].norm(dim=-1).numpy(), all_distances.min(1), atol=1e-7)
        end = lattice.get_fractional_coords((p[i] + vectors[i]).numpy())
        offset = end[:, None] - lattice.get_fractional_coords(atoms)[None]
        # [Q, N]; 0 where the vector ends on an image of the atom
        at = np.abs(offset - np.round(offset)).max(-1)
        assert (at.min(1) < 1e-7).all()
        assert (
            np.array(vocabulary_of(crystals))[species[i]]
            == crystals.species[crystals.atoms(i)][at.argmin(1)]
        ).all()
    without, _ = nearest_atom(Queries(p, None), batch)
    # the published field knows no images
    assert (without.norm(dim=-1) > vectors.norm(dim=-1) + 0.1).any()


def test_atoms_outside_their_cell_have_the_same_periodic_field(
    crystals: Crystals, batch: PaddedCrystals
) -> None:
    p = Queries(queries_around(crystals), None)
    shift = torch.as_tensor(
        np.random.default_rng(3).integers(-2, 3, (len(crystals), batch.positions.shape[1], 3))
        @ crystals.lattice
    )
    moved = dataclasses.replace(
        batch, positions=torch.where(batch.mask[..., None], batch.positions + shift, batch.FAR)
    )
    torch.testing.assert_close(
        nearest_atom(p, moved, periodic=True)[0].norm(dim=-1),
        nearest_atom(p, batch, periodic=True)[0].norm(dim=-1),
    )
    wrapped = torch.linalg.solve(batch.lattice.mT, into_cell(p.positions, batch.lattice).mT).mT
    assert (wrapped > -1e-9).all() and (wrapped < 1 + 1e-9).all()


def test_field_vanishes_at_atoms_and_is_minus_the_gradient_of_its_potential(
    batch: PaddedCrystals, crystals: Crystals
) -> None:
    at_atoms, species = nearest_atom(Queries(batch.positions, None), batch)
    assert (at_atoms[batch.mask] == 0).all() and (species == batch.species)[batch.mask].all()
    # f_p = -∇φ with φ(p) = ½ min ‖a - p‖² (Section 1)
    p = queries_around(crystals).requires_grad_()
    vectors, _ = nearest_atom(Queries(p, None), batch)
    potential = 0.5 * (p[:, :, None] - batch.positions[:, None]).square().sum(-1).amin(-1)
    (gradient,) = torch.autograd.grad(potential.sum(), p)
    torch.testing.assert_close(vectors.detach(), -gradient)


@pytest.mark.parametrize("periodic", [False, True])
def test_parts_and_shapes_do_not_matter(
    batch: PaddedCrystals, crystals: Crystals, periodic: bool
) -> None:
    p = queries_around(crystals)
    vectors, species = nearest_atom(Queries(p, None), batch, periodic=periodic)
    for queries in (Queries(p, None), flat(p)):
        for max_distances in (1 << 24, 1000, 1):
            v, s = nearest_atom(queries, batch, periodic=periodic, max_distances=max_distances)
            assert torch.equal(v.reshape(-1, 3), vectors.reshape(-1, 3)) and torch.equal(
                s.flatten(), species.flatten()
            )


def test_single_precision_is_enough(batch: PaddedCrystals, crystals: Crystals) -> None:
    p = queries_around(crystals)
    exact = nearest_atom(Queries(p, None), batch)[0].norm(dim=-1)
    single = nearest_atom(Queries(p.float(), None), batch.to("cpu"))[0].norm(dim=-1)
    assert (exact - single).abs().max() < 1e-5


def test_local_grids_of_supplementary_note_6() -> None:
    # paper
    assert local_grid(0.3, 1.2).shape == (125, 3) and local_grid(0.1, 0.5).shape == (216, 3)
    assert local_grid(0.3, 1.2, half_open=True).shape == (64, 3) and local_grid(
        0.1, 0.6, half_open=True
    ).shape == (216, 3)  # official
    assert sorted({round(float(v), 4) for v in local_grid(0.1, 0.5)[:, 0]}) == [
        -0.25,
        -0.15,
        -0.05,
        0.05,
        0.15,
        0.25,
    ]
    official = np.arange(-0.6, 0.6, 0.3)
    np.testing.assert_allclose(
        np.unique(local_grid(0.3, 1.2, half_open=True).double()), official, atol=1e-6
    )


@pytest.mark.parametrize(
    ("interval", "extent"),
    [(0.3, 1.2), (0.1, 0.5), (0.15, 0.5), (0.3, 0.5), (0.4, 0.5), (0.7, 0.5)],
)
def test_local_grids_are_centred_and_within_their_range(interval: float, extent: float) -> None:
    grid = local_grid(interval, extent, dtype=torch.float64)
    assert grid.mean(0).abs().max() < 1e-12 and grid.abs().max() <= extent / 2 + 1e-9
    assert len(grid) == round(len(grid) ** (1 / 3)) ** 3
    axis = grid[:, 0].unique()
    assert len(axis) == 1 or torch.allclose(
        axis.diff(), torch.tensor(interval, dtype=torch.float64)
    )
    # no room for one more point on each side
    assert grid.abs().max() + interval > extent / 2 - 1e-9


def test_box_grid_covers_the_box_grown_by_one_interval() -> None:
    (low, high), h = LCS6_LIKE_BOX, 0.5
    grid = box_grid(LCS6_LIKE_BOX, h, dtype=torch.float64)
    counts = [math.ceil((b - a + 2 * h) / h) for a, b in zip(low, high, strict=True)]
    assert len(grid) == math.prod(counts)
    np.testing.assert_allclose(grid.amin(0), np.array(low) - h)
    # upper end excluded
    assert ((grid.amax(0) >= torch.tensor(high)) & (grid.amax(0) < torch.tensor(high) + h)).all()
    assert len(box_grid(((0.0,) * 3, (5.0,) * 3), 1.0)) == 7**3


def test_box_grids_of_the_release(mirror, tmp_path) -> None:
    box = bounding_box(load("lcs6", data_dir=tmp_path, mirror=mirror).splits["train"])
    assert len(box_grid(box, 1.0)) == 1232 and len(box_grid(box, 0.5)) == 7280


def full(config: SamplingConfig, batch: PaddedCrystals, seed: int = 0) -> tuple[Queries, Queries]:
    sampler, generator = Sampler(config, LCS6_LIKE_BOX), torch.Generator().manual_seed(seed)
    return sampler.position_queries(batch, generator), sampler.species_queries(batch, generator)


def cell_points(crystals: Crystals, interval: float = 1.0) -> np.ndarray:
    """Grid points of each unit cell, [B]."""
    return np.ceil(crystals.lengths / interval - 1e-4).prod(1)


def test_full_sampling_has_every_grid_point_of_every_atom(
    batch: PaddedCrystals, crystals: Crystals
) -> None:
    position, species = full(preset("paper").sampling, batch)
    assert position.crystal is not None and species.crystal is not None
    assert np.array_equal(
        torch.bincount(position.crystal).numpy(), cell_points(crystals) + 125 * crystals.n_atoms
    )
    assert np.array_equal(torch.bincount(species.crystal).numpy(), 216 * crystals.n_atoms)
    position, species = full(preset("official").sampling, batch)
    assert position.crystal is not None and species.crystal is not None
    assert np.array_equal(
        torch.bincount(position.crystal).numpy(),
        len(box_grid(LCS6_LIKE_BOX, 1.0)) + 64 * crystals.n_atoms,
    )
    assert np.array_equal(torch.bincount(species.crystal).numpy(), 216 * crystals.n_atoms)


def test_full_sampling_without_perturbation_is_the_grids(
    batch: PaddedCrystals, crystals: Crystals
) -> None:
    still = dataclasses.replace(
        preset("paper").sampling, global_sigma=0.0, local_sigma=0.0, species_sigma=0.0
    )
    position, species = full(still, batch)
    assert position.crystal is not None and species.crystal is not None
    for i in range(len(crystals)):
        atoms = batch.positions[i][batch.mask[i]]
        around = (atoms[:, None] + local_grid(0.3, 1.2)).flatten(0, 1)
        queries = position.positions[position.crystal == i]
        n_global = len(queries) - len(around)
        torch.testing.assert_close(queries[n_global:], around)
        # the rest: uniform over the cell
        fractional = np.linalg.solve(crystals.lattice[i].T, queries[:n_global].numpy().T).T
        assert (fractional > 0).all() and (fractional < 1).all()
        np.testing.assert_allclose(fractional.mean(0), 0.5, atol=1e-6)
        spacing = [
            crystals.lengths[i, k] * np.diff(np.unique(fractional[:, k].round(6))) for k in range(3)
        ]
        assert all((s <= 1 + 1e-3).all() for s in spacing)  # no coarser than 1 Å
        torch.testing.assert_close(
            species.positions[species.crystal == i],
            (atoms[:, None] + local_grid(0.1, 0.5)).flatten(0, 1),
        )


@pytest.mark.parametrize("name", ["paper", "official"])
def test_perturbations_are_gaussian_of_the_given_scale(batch: PaddedCrystals, name: str) -> None:
    config = preset(name).sampling
    still = dataclasses.replace(config, global_sigma=0.0, local_sigma=0.0, species_sigma=0.0)
    (p, index), (s, _) = full(config, batch)
    (p0, index0), (s0, _) = full(still, batch)
    assert index is not None and index0 is not None and torch.equal(index, index0)
    n_local = int(batch.mask.sum()) * (125 if name == "paper" else 64)
    noise = {"global": (p - p0)[:-n_local], "local": (p - p0)[-n_local:], "species": s - s0}
    for kind, sigma in (
        ("global", config.global_sigma),
        ("local", config.local_sigma),
        ("species", config.species_sigma),
    ):
        x = noise[kind] / sigma
        error = 4 / math.sqrt(2 * x.numel())
        assert x.std() == pytest.approx(1, abs=error) and abs(float(x.mean())) < 2 * error, kind
        assert (x**4).mean() == pytest.approx(3, rel=0.1), kind  # kurtosis of a Gaussian


def drawn(
    batch: PaddedCrystals, n: int = 4000, **changes: object
) -> tuple[Sampler, Queries, Queries]:
    config = dataclasses.replace(preset("paper").sampling, n_position=n, n_species=n, **changes)  # type: ignore[arg-type]
    sampler, generator = Sampler(config, LCS6_LIKE_BOX), torch.Generator().manual_seed(0)
    return (
        sampler,
        sampler.position_queries(batch, generator),
        sampler.species_queries(batch, generator),
    )


@pytest.mark.parametrize("region", ["cell", "box"])
def test_drawn_queries_have_fixed_shapes_and_the_share_of_the_full_sampling(
    batch: PaddedCrystals, crystals: Crystals, region: str
) -> None:
    still = {
        "local_sigma": 0.0,
        "global_sigma": 1e-3,
        "species_sigma": 0.0,
        "global_region": region,
    }
    _, position, species = drawn(batch, **still)
    assert position.crystal is None and position.positions.shape == (16, 4000, 3)
    assert species.crystal is None and species.positions.shape == (16, 4000, 3)
    n_global = cell_points(crystals) if region == "cell" else len(box_grid(LCS6_LIKE_BOX, 1.0))
    expected = n_global / (n_global + 125 * crystals.n_atoms)
    for i in range(len(crystals)):
        local = (batch.positions[i][batch.mask[i]][:, None] + local_grid(0.3, 1.2)).flatten(0, 1)
        distance, nearest = KDTree(local.numpy()).query(position.positions[i].numpy())
        on_grid = distance < 1e-5
        assert 1 - on_grid.mean() == pytest.approx(expected[i], abs=0.035)  # 4 standard deviations
        # atoms equally often, up to grids that overlap
        counts = np.bincount(nearest[on_grid] // 125, minlength=crystals.n_atoms[i])
        assert (counts > 0).all()
        points = (batch.positions[i][batch.mask[i]][:, None] + local_grid(0.1, 0.5)).flatten(0, 1)
        distance, nearest = KDTree(points.numpy()).query(species.positions[i].numpy())
        assert distance.max() < 1e-5
        counts = np.bincount(nearest // 216, minlength=crystals.n_atoms[i])
        np.testing.assert_allclose(counts / 4000, 1 / crystals.n_atoms[i], atol=0.035)


def test_a_chosen_share_is_kept(batch: PaddedCrystals) -> None:
    _, all_global, _ = drawn(batch, global_share=1.0, global_sigma=0.0)
    fractional = torch.linalg.solve(batch.lattice.mT, all_global.positions.mT).mT
    assert (fractional > 0).all() and (fractional < 1).all()
    _, none_global, _ = drawn(batch, global_share=0.0, local_sigma=0.0)
    vectors, _ = nearest_atom(none_global, batch)
    assert vectors.norm(dim=-1).max() <= math.sqrt(3) * 0.6 + 1e-5
    _, half, _ = drawn(
        batch, global_share=0.5, global_sigma=0.0, global_region="box", local_sigma=0.0
    )
    on_box_grid = (
        KDTree(box_grid(LCS6_LIKE_BOX, 1.0).numpy()).query(half.positions.reshape(-1, 3).numpy())[0]
        < 1e-6
    )
    assert on_box_grid.mean() == pytest.approx(0.5, abs=0.02)


def test_drawn_queries_have_the_perturbations_of_the_full_sampling(batch: PaddedCrystals) -> None:
    points = {"local_range": 0.0, "species_range": 0.0}  # grids of one point, the atom itself
    alone = batch.select(torch.tensor([12]))  # a crystal of one atom
    sigmas = {"local_sigma": 0.15, "species_sigma": 0.05, "global_sigma": 0.5}
    _, position, species = drawn(alone, global_share=0.0, **points, **sigmas)
    error = 4 / math.sqrt(2 * 3 * 4000)
    for queries, sigma in ((position, 0.15), (species, 0.05)):
        assert ((queries.positions - alone.positions[:, :1]) / sigma).std() == pytest.approx(
            1, abs=error
        )


def test_queries_of_the_cell_stay_near_it(batch: PaddedCrystals) -> None:
    _, position, _ = drawn(batch, global_share=1.0)
    wrapped = torch.linalg.solve(batch.lattice.mT, position.positions.mT).mT
    outside = (wrapped - wrapped.clamp(0, 1)) @ batch.lattice
    assert outside.norm(dim=-1).max() < 6 * 0.5
    # The perturbed grid is about uniform: a quarter of the queries in each quarter of the cell, but
    # for those that leave it.
    inside = ((wrapped > 0) & (wrapped < 1)).all(-1)
    assert 0.4 < inside.double().mean() < 0.95
    quarters = torch.histc(wrapped[inside][:, 0].float(), 4, 0, 1) / inside.sum()
    assert (quarters - 0.25).abs().max() < 0.05


@pytest.mark.parametrize("n", [0, 32])
def test_queries_follow_from_the_seed_alone(batch: PaddedCrystals, n: int) -> None:
    config = dataclasses.replace(preset("cpu").sampling, n_position=n, n_species=n)

    def run(seed: int) -> list[Tensor]:
        return [q.positions for q in full(config, batch, seed)]

    first, again, other = run(1), (torch.rand(3), run(1))[1], run(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(
        a.shape == b.shape and not torch.equal(a, b) for a, b in zip(first, other, strict=True)
    )
