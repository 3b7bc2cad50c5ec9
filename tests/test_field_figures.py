"""Figures 1 and 2: fields on a plane, and the reconstruction step by step."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.quiver import Quiver

from nesf import data
from nesf.config import ReconstructionConfig
from nesf.crystals import Crystals, pad
from nesf.decode import reconstruct
from nesf.decoding_fields import GroundTruthFields
from nesf.saved import TrainedModel
from nesf_io.errors import DataError
from nesf_studies import fields, particles
from nesf_studies.crystals import from_front
from nesf_studies.fields import DISTANCES, encode_one, field_errors
from nesf_studies.particles import MOMENTS, follow, particles_left
from nesf_studies.style import save
from nesf_studies.viewer import picture_slider

STARTER = Path(__file__).parents[1] / "results" / "starter" / "nesf" / "cpu" / "seed-0"
BOX = ((0.0, 0.0, 0.0), (4.0, 4.0, 4.0))
SALT = Crystals.from_arrays(
    ["salt"],
    [np.array([[0.0, 0, 0], [2.0, 2.0, 0], [2.0, 0, 2.0]])],
    [np.array([11, 17, 17])],
    4 * np.eye(3)[None],
)


class Shrunk(GroundTruthFields):
    """The true fields with steps of half the length, and an element that is wrong where x > 1 Å."""

    def position(
        self, queries: torch.Tensor, crystal: torch.Tensor, rough: bool = False
    ) -> torch.Tensor:
        return 0.5 * super().position(queries, crystal, rough)

    def species(self, queries: torch.Tensor, crystal: torch.Tensor) -> torch.Tensor:
        return torch.where(queries[:, 0] > 1, 1, 0)


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return TrainedModel.load(STARTER, device="cpu")


@pytest.fixture(scope="module")
def example() -> Crystals:
    test = data.load("starter").split("test")
    return test.select([fields.best_for_slice(test)])


def test_steps_of_the_true_field_end_at_the_atoms() -> None:
    steps = follow(GroundTruthFields(pad(SALT, (11, 17))), BOX, (11, 17))
    start, once, end = steps.moments[0], steps.moments[1], steps.moments[64]
    # one step of the true field is the whole way
    assert np.allclose(once, end, atol=1e-4) and len(start) == len(end)
    nearest = np.linalg.norm(start[:, None] - SALT.positions, axis=-1).argmin(1)
    clear = np.sort(np.linalg.norm(start[:, None] - SALT.positions, axis=-1), 1)
    clear = clear[:, 1] - clear[:, 0] > 1e-3
    assert np.allclose(end[clear], SALT.positions[nearest[clear]], atol=1e-4)
    assert sorted(map(tuple, steps.positions.round(3).tolist())) == sorted(
        map(tuple, SALT.positions.tolist())
    )
    assert steps.kept.all() and steps.sizes.sum() == len(start) and steps.accepted.all()
    assert sorted(steps.species.tolist()) == [11, 17, 17] and steps.answers.shape == (3, 216)


def test_moments_are_those_of_an_unfinished_movement() -> None:
    halved = Shrunk(pad(SALT, (11, 17)))
    steps = follow(halved, BOX, (11, 17), moments=(0, 1, 3))
    rest = [
        np.linalg.norm(steps.moments[t] - SALT.positions[:, None], axis=-1).min(0).max()
        for t in (0, 1, 3)
    ]
    assert rest[1] == pytest.approx(rest[0] / 2, rel=0.05) and rest[2] == pytest.approx(
        rest[0] / 8, rel=0.05
    )
    strict = follow(
        halved, BOX, (11, 17), ReconstructionConfig(score_threshold=0.01), moments=(0, 1)
    )
    assert not strict.kept.all() and (strict.cluster[~strict.kept] == -1).all()
    assert (strict.kept == (strict.scores <= 0.01)).all()
    lonely = follow(halved, BOX, (11, 17), ReconstructionConfig(min_particles=10**6))
    assert not lonely.accepted.any() and len(lonely.positions) == 0
    particles.reconstruction_steps(lonely, SALT)
    assert (
        len(particles.votes_chart(lonely, SALT).axes[0].patches) == 0
        and particles.votes_table(lonely, SALT).empty
    )
    votes = particles.votes_table(steps, SALT)
    assert votes.groupby("atom")["votes"].sum().tolist() == [steps.answers.shape[1]] * len(
        steps.positions
    )
    assert votes.groupby("atom")["share_percent"].sum().to_numpy() == pytest.approx(100)
    most = votes.loc[votes.groupby("atom")["votes"].idxmax()]
    assert (most["element"] == most["winner"]).all()


def test_followed_steps_give_what_reconstruct_gives(model: TrainedModel, example: Crystals) -> None:
    steps = follow(encode_one(model, example), model.box, model.vocabulary)
    crystals = reconstruct(model, example).crystals
    assert len(steps.positions) == len(crystals.positions)
    distances = np.linalg.norm(steps.positions[:, None] - crystals.positions, axis=-1)
    # particles of `reconstruct` stop where a step would be below 1e-4 Å
    assert distances.min(1).max() < 1e-3
    assert (crystals.species[distances.argmin(1)] == steps.species).all()
    table = particles_left(steps)
    assert table["particles"].tolist()[:6] == [len(steps.scores)] * 5 + [int(steps.kept.sum())]
    with pytest.raises(DataError, match="not of 2"):
        encode_one(model, data.load("starter").split("val").select([0, 1]))


def test_plane_of_the_true_field_agrees_with_itself(example: Crystals) -> None:
    table = fields.plane_fields(example, fields.true_field(example), n=36)
    found = fields.plane_agreement(table)
    assert found == {
        "difference_median": 0,
        "difference_84": 0,
        "same_end_percent": 100,
        "same_species_percent": 100,
    }
    inside = table[table["inside"]]
    assert (
        0 < len(inside) < len(table)
        and inside["x"].min() > -1e-6
        and inside["x"].max() < example.lattice[0, 0, 0] + 1e-6
    )


def test_agreement_counts_what_differs() -> None:
    true = fields.true_field(SALT)

    def wrong(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        vectors, species = true(points)
        right_side = points[..., 0] > 2
        return vectors + np.where(right_side[..., None], [0.0, 0.0, 1.0], 0.0), np.where(
            right_side, 99, species
        )

    found = fields.plane_agreement(fields.plane_fields(SALT, wrong, height=0.0, n=101))
    assert found["same_end_percent"] == pytest.approx(50, abs=3) and found[
        "same_species_percent"
    ] == pytest.approx(50, abs=3)
    assert found["difference_84"] == pytest.approx(1, abs=1e-6)
    table = fields.plane_fields(SALT, wrong, height=0.0, n=36)
    panels = {ax.get_title(): ax for ax in fields.compare_fields(SALT, table).axes}
    difference = panels["position field, difference"].images[0].get_array()
    assert np.allclose(difference[:, table["x"][:36] > 2], 1) and np.allclose(
        difference[:, table["x"][:36] < 2], 0
    )
    (arrows,) = (c for c in panels["position field, learned"].collections if isinstance(c, Quiver))
    drawn = table.set_index(["x", "y"]).loc[list(map(tuple, np.column_stack([arrows.X, arrows.Y])))]
    assert np.allclose(arrows.U, drawn["learned_x"]) and np.allclose(arrows.V, drawn["learned_y"])
    (share,) = (title for title in panels if title.startswith("another element: "))
    assert float(share.split()[2]) == pytest.approx(50, abs=6)


def test_slice_draws_the_field_it_is_given() -> None:
    def upwards(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.broadcast_to([0.0, 2.0, 0.0], points.shape), np.full(points.shape[:-1], 17)

    left, right = fields.structure_field(SALT, field=upwards).axes
    (arrows,) = (c for c in left.collections if isinstance(c, Quiver))
    assert (arrows.U == 0).all() and (arrows.V == 2).all()
    # chlorine is the second of sodium and chlorine
    assert (left.images[0].get_array() == 2).all() and (right.images[0].get_array() == 1).all()
    inside = [p for p in left.patches if p.get_fill()]
    # the third atom is 2 Å above the fullest plane
    assert sorted(p.center for p in inside) == [(0, 0), (2, 2)]
    middle = fields.overview(SALT, SALT, field=upwards).axes[1]
    assert (
        all((c.V == 2).all() for c in middle.collections if isinstance(c, Quiver))
        and "field" in middle.get_title()
    )


def test_error_curves_draw_the_table() -> None:
    rows = [
        ("nesf", 0.0, 0.5, 20, 0.1, 0.2, 0.3, 100.0),
        ("nesf", 0.5, 1.0, 30, 0.2, 0.4, 0.8, 90.0),
        ("nesf", 1.0, 2.0, 9, 1.0, 1.0, 1.0, 0.0),
    ]
    table = pd.DataFrame(
        rows, columns=["field", "from", "to", "n_points", "low", "median", "high", "species"]
    )
    position, species = fields.field_error_curves(table).axes
    # nine points are too few
    assert np.allclose(position.lines[0].get_xydata(), [(0.25, 0.2), (0.75, 0.4)])
    assert list(species.lines[0].get_ydata()) == [100, 90]
    band = position.collections[0].get_paths()[0].vertices
    assert {(0.25, 0.1), (0.25, 0.3), (0.75, 0.2), (0.75, 0.8)} <= {
        tuple(v) for v in band.round(6).tolist()
    }


def test_panels_draw_particles_clusters_and_votes() -> None:
    steps = follow(GroundTruthFields(pad(SALT, (11, 17))), BOX, (11, 17), moments=(0, 64))
    panels = {
        ax.get_title(): ax
        for ax in particles.reconstruction_steps(steps, SALT).axes
        if ax.get_title()
    }
    start = panels[f"start: {len(steps.scores)} particles on a grid"]
    true, dots = start.collections[1:]  # after the edges of the cell
    assert np.allclose(true.get_offsets(), from_front(SALT.positions)[:, :2])
    assert np.allclose(dots.get_offsets(), from_front(steps.moments[0])[:, :2])
    clusters = panels["clusters: 3 atoms"]
    assert [t.get_text() for t in clusters.texts] == [str(size) for size in steps.sizes]
    assert np.allclose([t.xy for t in clusters.texts], from_front(steps.positions)[:, :2])
    colours = [tuple(c) for c in dots.get_facecolors()]
    assert (
        len({(cluster, colour) for cluster, colour in zip(steps.cluster, colours, strict=True)})
        == 3
    )  # one colour a cluster
    chart = particles.votes_chart(steps, SALT).axes[0]
    table = particles.votes_table(steps, SALT)
    assert sorted(b.get_width() for b in chart.patches if b.get_width()) == pytest.approx(
        sorted(table["share_percent"])
    )  # type: ignore[attr-defined]
    assert [t.get_text() for t in chart.get_yticklabels()] == [
        f"{winner}   (true: {true})"
        for winner, true in table.groupby("atom")[["winner", "nearest_true_atom"]]
        .first()
        .to_numpy()
    ]
    (seen,) = particles.particle_paths({"start": steps.moments[0]}, SALT).axes
    assert (
        np.allclose(seen.lines[0].get_xydata(), steps.moments[0][:, :2])
        and seen.get_title() == f"start\n{len(steps.scores)} particles"
    )


def test_film_and_still_come_from_one_decoding(model: TrainedModel, example: Crystals) -> None:
    film = follow(encode_one(model, example), model.box, model.vocabulary, moments=(*range(7), 64))
    still = follow(encode_one(model, example), model.box, model.vocabulary)
    assert tuple(film.at(MOMENTS).moments) == MOMENTS
    assert particles.steps_table(film.at(MOMENTS)).equals(particles.steps_table(still))


def test_field_errors_by_distance(model: TrainedModel) -> None:
    val = data.load("starter").split("val").select(range(8))
    table = field_errors(model, val, {"itself": val}, n_points=100)
    itself, learned = table[table["field"] == "itself"], table[table["field"] == "nesf"]
    assert (itself["high"].dropna() == 0).all() and (itself["species"].dropna() == 100).all()
    assert (
        itself["n_points"].sum() <= 800
        and learned["n_points"].tolist() == itself["n_points"].tolist()
    )
    assert learned["from"].tolist() == list(DISTANCES[:-1])
    near = learned[learned["to"] <= 0.75]
    assert (near["median"].dropna() < 0.3).all() and (near["median"].dropna() > 0).all()
    assert table.equals(field_errors(model, val, {"itself": val}, n_points=100))


def test_film_is_small_and_complete(model: TrainedModel, example: Crystals, tmp_path: Path) -> None:
    from PIL import Image

    steps = follow(encode_one(model, example), model.box, model.vocabulary, moments=(0, 1, 64))
    images, titles = particles.reconstruction_frames(steps, example, between=2)
    assert (
        len(images) == len(titles)
        and titles[-3].startswith("kept")
        and titles[-1].startswith("votes")
    )
    # they start Å away from where they are after one step
    assert titles[1:3] == ["on the way to iteration 1"] * 2
    assert {Image.open(io.BytesIO(i)).size for i in images} == {(380, 380)} and sum(
        map(len, images)
    ) < 500_000
    gif = Image.open(io.BytesIO(particles.animation(images)))
    assert gif.n_frames >= 5
    one, other = (picture_slider(images, titles, start=1).data for _ in range(2))
    assert len(set(re.findall(r'id="(pictures-\w+)"', one + other))) == 2
    assert base64.b64encode(images[1]).decode() in one.split("<script>")[0] and len(one) < 700_000
    table = particles.steps_table(steps)
    assert len(table) == 3 * len(steps.scores)
    save(particles.reconstruction_steps(steps, example), tmp_path / "steps", table)
    assert (
        (tmp_path / "steps.csv").read_text().startswith("iterations,particle,x,y,z,score,cluster")
    )
