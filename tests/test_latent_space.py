"""The latent space: embeddings, descriptors, and what neighbours share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure

from nesf import data
from nesf.crystals import Crystals
from nesf.data.dataset import Dataset
from nesf.saved import TrainedModel
from nesf_cli.main import main
from nesf_io.errors import ConfigError, DataError
from nesf_studies import viewer as views
from nesf_studies.latent_space import (
    SYSTEM_COLOURS,
    Parameters,
    analyse,
    descriptors,
    frequent_groups,
    latent_map,
    neighbour_chart,
    neighbour_indices,
    neighbour_table,
    purity,
    relative_difference,
    shown_crystals,
    value_colours,
)

RUN = Path(__file__).parents[1] / "results" / "starter" / "nesf" / "cpu" / "seed-0"


@pytest.fixture(scope="module")
def starter() -> Dataset:
    return data.load("starter")


@pytest.fixture(scope="module")
def made(starter: Dataset) -> dict[str, pd.DataFrame]:
    return analyse(
        TrainedModel.load(RUN, "cpu"), starter, Parameters(n_train=100, umap=False), progress=False
    )  # type: ignore[return-value]


def test_neighbours_are_others_and_purity_is_their_share() -> None:
    line = np.array([[0.0], [1.0], [2.1], [10.0]])
    nearest = neighbour_indices(line, 2)
    assert nearest.tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]
    assert purity(nearest[:, :1], np.array([0, 0, 0, 1])) == 75
    assert relative_difference(nearest[:, :1], np.array([1.0, 2.0, 2.0, 4.0])) == pytest.approx(
        100 * (1 + 0.5 + 0 + 0.5) / 4
    )


def test_a_space_that_is_the_label_is_pure_and_shuffled_labels_are_chance() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, 400)
    labels = pd.DataFrame(
        {
            "space_group": label,
            "crystal_system": label,
            "n_atoms": rng.integers(0, 2, 400),
            "volume": 10.0 + label,
        }
    )
    space = label[:, None] + 1e-3 * rng.random((400, 3))
    table = neighbour_table({"latent vector": space}, labels, Parameters(k=(1, 5))).set_index(
        ["space", "k"]
    )
    assert (
        table.loc[("latent vector", 5), "space_group"] == 100
        and table.loc[("latent vector", 5), "volume"] == 0
    )
    assert table.loc[("labels shuffled", 5), "space_group"] == pytest.approx(25, abs=3)
    assert (
        table.loc[("labels shuffled", 5), "n_atoms"]
        == pytest.approx(50, abs=4)
        == table.loc[("latent vector", 5), "n_atoms"]
    )


def test_descriptors_see_composition_and_cell_alone() -> None:
    def two(x: float, a: float) -> Structure:
        return Structure(Lattice.cubic(a), ["Na", "Cl"], [[0, 0, 0], [x, x, x]])

    found = descriptors(
        Crystals.from_structures([two(0.5, 4), two(0.3, 4), two(0.5, 5)], list("abc"))
    )
    assert found["composition"].tolist() == [[0.5, 0.5]] * 3
    assert np.allclose(found["cell"][0], found["cell"][1]) and not np.allclose(
        found["cell"][0], found["cell"][2]
    )
    assert (
        found["composition and cell"].shape == (3, 8)
        and np.isfinite(found["composition and cell"]).all()
    )


def test_points_are_every_crystal_once_and_the_draw_is_fixed(
    made: dict[str, pd.DataFrame], starter: Dataset
) -> None:
    points = made["points"]
    assert (
        len(points)
        == 100 + len(starter.split("val")) + len(starter.split("test"))
        == points["id"].nunique()
    )
    assert shown_crystals(starter, Parameters(n_train=100))[0].ids == tuple(points["id"])
    assert shown_crystals(starter, Parameters(n_train=100, seed=1))[0].ids != tuple(points["id"])
    assert len(shown_crystals(starter, Parameters(n_train=None))[0]) == sum(
        len(starter.split(s)) for s in ("train", "val", "test")
    )
    assert points[["pca_1", "pca_2", "tsne_1", "tsne_2"]].notna().all().all()
    # the prototypes' labels hold their space group
    named = points["id"].str.extract(r"_[a-z][A-Z](\d+)_(\d+)_")
    assert (named[1].astype(int) == points["space_group"]).mean() > 0.95


def test_latent_neighbours_share_more_than_chance(made: dict[str, pd.DataFrame]) -> None:
    table = made["neighbours"].set_index(["space", "k"])
    for column in ("space_group", "n_atoms"):
        assert (
            table.loc[("latent vector", 1), column] > table.loc[("labels shuffled", 1), column] + 20
        )
    assert table.loc[("latent vector", 1), "volume"] < table.loc[("labels shuffled", 1), "volume"]


def test_figures_and_the_view_that_answers(made: dict[str, pd.DataFrame]) -> None:
    points = made["points"]
    figure = latent_map(points, "pca")
    volumes = figure.axes[0].collections[0]
    assert (
        volumes.get_offsets().tolist() == points[["pca_1", "pca_2"]].to_numpy().tolist()
        and volumes.get_array().tolist() == points["volume"].tolist()
    )
    counts = points["crystal_system"].value_counts()
    legend = {text.get_text() for text in figure.axes[2].get_legend().get_texts()}
    assert legend == {f"{name} ({counts[name]})" for name in counts.index}
    table = made["neighbours"]
    nearest = neighbour_chart(table).axes[0].collections[0].get_offsets()
    assert nearest[:, 0].tolist() == table.loc[table["k"] == 1, "space_group"].tolist()
    colours = value_colours(points["n_atoms"], logarithmic=True)
    assert len(colours) == len(points) and colours[int(points["n_atoms"].argmax())] == "#fde725"
    assert value_colours([2, 2, 2], logarithmic=True) == value_colours([7.0] * 3)  # one value only
    page = views.points_view(
        np.array([[0, 0], [2, 1.0]]), ["</script>", "b"], {"all": ["#000000", "#ffffff"]}
    ).data
    assert (
        page.count("</script>") == 1
        and '[10.0,470.0,"<\\/script>"]' in page
        and '[630.0,10.0,"b"]' in page
    )


def test_too_few_crystals_and_bad_values(starter: Dataset, made: dict[str, pd.DataFrame]) -> None:
    few = Dataset("few", {s: starter.split(s).select(range(5)) for s in ("train", "val", "test")})
    with pytest.raises(DataError, match="few: 15 crystals.*31"):
        analyse(TrainedModel.load(RUN, "cpu"), few, Parameters(umap=False), progress=False)
    with pytest.raises(ConfigError, match="perplexity = 0"):
        Parameters(perplexity=0)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "analyse",
        "latent-space",
        str(RUN),
        "--out",
        str(tmp_path / "made"),
        "--set",
        "umap=false",
        "--set",
        "n_train=20",
    ]
    assert main([*command, "--set", "k=[1]", "--set", "perplexity=5"]) == 0
    assert set(pd.read_csv(tmp_path / "made" / "neighbours.csv")["k"]) == {1}
    capsys.readouterr()
    assert main([*command, "--replace", "--set", "k=[500]"]) == 2
    error = capsys.readouterr().err
    assert "156 crystals" in error and "501" in error


def test_frequent_space_groups_have_colours_and_the_others_are_grey() -> None:
    symbols = [name for i, name in enumerate("ABCDEFGHI") for _ in range(9 - i)]
    colours, groups = frequent_groups(pd.DataFrame({"symbol": symbols}))
    assert (
        list(colours) == [*"ABCDEFG", "others"] and colours["others"] == SYSTEM_COLOURS["unknown"]
    )
    assert groups.value_counts()["others"] == 3 and groups[0] == "A"
    assert "others" not in frequent_groups(pd.DataFrame({"symbol": ["A", "B"]}))[0]
