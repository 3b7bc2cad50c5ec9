"""Densities, samples, trivial generators and the metrics of generated crystals."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure

import nesf
from nesf.crystals import Crystals
from nesf_cli.main import main
from nesf_design.density import BATCH, Coupling, Flow, fit
from nesf_design.generators import copies, exchanged
from nesf_design.quality import Reference, amd, judged_crystals, matched, summary, unique
from nesf_design.sample import sample
from nesf_io.errors import ConfigError, DataError


def rock_salt(a: float, *elements: str) -> Structure:
    return Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(a), elements, [[0, 0, 0], [0.5, 0.5, 0.5]]
    )


def crystals(*structures: Structure) -> Crystals:
    return Crystals.from_structures(list(structures), [f"c-{i}" for i in range(len(structures))])


@pytest.fixture(scope="module")
def two_clouds() -> np.ndarray:
    """Points [1200, 6] of two narrow clouds on a plane, at 0 and 4."""
    random = np.random.default_rng(0)
    centres = np.where(random.random(1200) < 0.25, 4.0, 0.0)
    plane = np.stack(
        [centres + 0.3 * random.standard_normal(1200), random.standard_normal(1200)], 1
    )
    return plane @ random.standard_normal((2, 6))


@pytest.mark.parametrize("kind", ["mixture", "flow"])
def test_a_density_fitted_on_known_vectors_gives_them_back(
    kind: str, two_clouds: np.ndarray
) -> None:
    density = fit(two_clouds[:1000], two_clouds[1000:], kind)
    drawn = density.sample(2000, seed=1)
    assert np.allclose(drawn.mean(0), two_clouds.mean(0), atol=0.25 * two_clouds.std(0).max())
    assert np.allclose(
        np.cov(drawn.T), np.cov(two_clouds.T), atol=0.25 * np.cov(two_clouds.T).max()
    )
    # on the plane of the data, and both clouds with their weights
    _, spread, plane = np.linalg.svd(two_clouds - two_clouds.mean(0), full_matrices=False)
    assert spread[2] < 1e-9
    outside = (drawn - two_clouds.mean(0)) @ plane[2:].T
    assert np.abs(outside).max() < 1e-6
    # a draw of the data has a higher density than uniform noise
    noise = fit(two_clouds[:1000], two_clouds[1000:], "noise").sample(500)
    assert density.log_density(two_clouds[1000:]).mean() > density.log_density(noise).mean() + 1


def test_the_flow_finds_both_clouds(two_clouds: np.ndarray) -> None:
    share = []
    for z in (two_clouds, fit(two_clouds[:1000], two_clouds[1000:], "flow").sample(2000)):
        share.append(np.quantile(np.linalg.norm(z, axis=1), [0.1, 0.5, 0.9]))
    assert np.allclose(share[0], share[1], atol=0.35 * share[0].max())


def test_a_flow_is_inverted_and_its_density_integrates_to_one() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = Coupling(5, generator)
    torch.nn.init.normal_(layer.network[-1].weight, std=0.3, generator=generator)
    y = torch.randn(BATCH, 5, generator=generator)
    assert torch.allclose(layer.inverse(layer(y)[0]), y, atol=1e-5)
    flow = Flow(2, 0)
    for part in flow.layers:
        torch.nn.init.normal_(part.network[-1].weight, std=0.1, generator=generator)
    axis = np.linspace(-12, 12, 400)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    total = np.exp(flow.log_density(grid)).sum() * (axis[1] - axis[0]) ** 2
    assert total == pytest.approx(1, abs=0.02)


def test_bad_densities_are_refused(two_clouds: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="density 'gan' does not exist"):
        fit(two_clouds, two_clouds, "gan")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="5 training"):
        fit(two_clouds[:5], two_clouds, "flow")


def test_uniqueness_and_novelty_on_hand_made_sets() -> None:
    known = crystals(rock_salt(5.64, "Na", "Cl"), rock_salt(4.21, "Mg", "O"))
    made = crystals(
        rock_salt(5.7, "Na", "Cl"),  # known
        rock_salt(5.6, "Na", "Cl"),  # known, and the first again
        rock_salt(6.3, "K", "Cl"),  # new
        Structure(Lattice.cubic(3.9), ["K", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),  # another KCl
    )
    assert unique(made).tolist() == [True, False, True, True]
    assert matched(made, known).tolist() == [True, True, False, False]


def test_metrics_of_copies_are_those_of_the_data() -> None:
    of = [
        rock_salt(a, *e)
        for a, e in ((5.64, ("Na", "Cl")), (4.21, ("Mg", "O")), (6.29, ("K", "Cl")))
    ]
    data = crystals(*of)
    reference = Reference.of(data, data, data)
    table = judged_crystals(data, reference)
    scores = summary(table, data, reference)
    assert scores["valid"] == scores["cov_recall"] == scores["cov_precision"] == 100
    assert scores["wdist_density"] == scores["wdist_elements"] == 0
    assert scores["novel"] == scores["new"] == 0 and scores["unique"] == 100
    assert table["space_group"].tolist() == [225] * 3 and scores["systems_like_test"] == 100
    collapsed = replace(data, positions=data.positions * 0.02, lattice=data.lattice * 0.02)
    assert summary(judged_crystals(collapsed, reference), collapsed, reference)["valid"] == 0


def test_average_minimum_distances_do_not_depend_on_the_cell() -> None:
    cubic = rock_salt(5.64, "Na", "Cl")
    primitive = cubic.get_primitive_structure()
    large = cubic.get_primitive_structure().make_supercell((2, 1, 1), in_place=False)
    rows = amd(crystals(cubic, primitive, large))
    assert np.allclose(rows, rows[0], atol=1e-6)
    # six neighbours at half the cubic length
    assert np.allclose(rows[0, :6], 2.82 / (5.64**3 / 8) ** (1 / 3))


def test_trivial_generators_keep_the_prototype() -> None:
    data = crystals(
        rock_salt(5.64, "Na", "Cl"), rock_salt(4.21, "Mg", "O"), rock_salt(6.3, "K", "Br")
    )
    made = exchanged(data, 20, seed=3)
    assert copies(data, 20, seed=3).n_atoms.tolist() == made.n_atoms.tolist()
    for structure in made.to_structures():
        assert len(structure.composition) == 2
        assert structure.get_space_group_info()[1] == 225
    salts = [{e.symbol for e in s.composition} for s in made.to_structures()]
    # an alkali metal stays one; magnesium and oxygen have no other of their group here
    assert {"K", "Br"} in salts and {"Mg", "O"} in salts and {"Na", "Cl"} in salts
    assert all(("Na" in s) == ("Cl" in s) for s in salts)


def test_sampling_from_python_and_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = sample("starter", 3, passes=1, seed=2, symmetrise=0.1)
    assert made.z.shape == (3, 192) and len(made.crystals) == 3 and len(made.stages) == 1
    assert nesf.sample is sample
    # what is certified has its latent vector given back by the encoder: it decodes to itself
    model = nesf.load_model("starter")
    assert {e for e in made.crystals.species.tolist()} <= set(model.vocabulary)
    again = sample(model, 3, passes=1, seed=2, symmetrise=0.1)
    assert np.array_equal(made.crystals.positions, again.crystals.positions)
    for arguments, words in (
        (["-n", "0"], "n = 0"),
        (["--passes", "-1"], "passes = -1"),
        (["--symmetrise", "7"], "tolerance"),
    ):
        assert main(["sample", "starter", "--out", str(tmp_path / "no"), *arguments]) == 2
        assert words in capsys.readouterr().err
    out = tmp_path / "new"
    assert main(["sample", "starter", "-n", "2", "--passes", "0", "--all", "--out", str(out)]) == 0
    assert {"structures.csv", "z.npy", "summary.json"} <= {p.name for p in out.iterdir()}
    assert main(["sample", "starter", "-n", "2", "--out", str(out)]) == 2
    assert "--replace" in capsys.readouterr().err
