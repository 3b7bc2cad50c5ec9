"""Properties from latent vectors: scores, settings chosen on validation, references, and the
paper's table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nesf import data
from nesf.crystals import Crystals
from nesf.data.dataset import SPLITS, Dataset, save_dataset
from nesf_cli.main import main
from nesf_io.errors import ConfigError, DataError
from nesf_studies.page import recorded_run
from nesf_studies.properties import (
    COMPOSITION,
    FRACTIONS,
    LATENT,
    LOWEST,
    MEAN,
    REGRESSORS,
    Parameters,
    chosen_on_validation,
    composition_features,
    element_fractions,
    fit_all,
    implied_variances,
    known_elements,
    property_parity,
    property_scores,
    property_values,
    table_s3,
    targets,
)
from nesf_studies.record import recorded_analysis

RUN = recorded_run("starter")


def regression(seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A smooth function of four numbers."""
    rng = np.random.default_rng(seed)
    x = {split: rng.normal(size=(n, 4)) for split, n in (("train", 300), ("val", 60), ("test", 60))}
    return x, {split: np.sin(v[:, 0]) + 0.5 * v[:, 1] for split, v in x.items()}


def test_regressors_find_a_smooth_function_and_nothing_in_noise() -> None:
    x, y = regression()
    noise = {split: np.random.default_rng(1).normal(size=v.shape) for split, v in x.items()}
    parameters = Parameters(epochs=60)
    for inputs, good in ((x, True), (noise, False)):
        for (regressor, setting), (choice, predicted) in fit_all(
            inputs, y, parameters, scale=False
        ).items():
            r2 = 1 - np.square(y["test"] - predicted["test"]).mean() / y["test"].var()
            assert r2 > 0.6 if good else r2 < 0.2, (regressor, setting, choice, r2)


def test_neighbours_are_weighted_as_the_papers_training_errors_say() -> None:
    x, y = regression()
    fitted = fit_all(x, y, Parameters(epochs=1), scale=False)
    assert np.abs(fitted["kNN", "paper"][1]["train"] - y["train"]).max() < 1e-9
    assert table_s3().query("regressor == 'kNN' and split == 'train'")["mse"].eq(0).all()


def test_the_test_split_chooses_nothing() -> None:
    x, y = regression()
    other = {**y, "test": y["test"][::-1] * 7}
    first, second = (fit_all(x, v, Parameters(epochs=20), scale=True) for v in (y, other))
    for key in first:
        assert first[key][0] == second[key][0]
        np.testing.assert_array_equal(first[key][1]["test"], second[key][1]["test"])


def test_the_test_score_that_is_compared_was_chosen_on_validation() -> None:
    rows = [
        ("p", "latent vector", "SVR", 0.5, 0.1),
        ("p", "latent vector", "kNN", 0.4, 0.9),
        ("p", "composition", "SVR", -0.2, 0.3),
        ("p", "composition", "kNN", 0.2, -0.3),
    ]
    scores = pd.DataFrame(
        [
            {
                "property": name,
                "input": source,
                "regressor": regressor,
                "setting": "paper",
                "split": split,
                "r2": r2,
            }
            for name, source, regressor, val, test in [
                *rows,
                ("p", "mean of training", "", 0.99, 0.99),
            ]
            for split, r2 in (("val", val), ("test", test))
        ]
    )
    table = chosen_on_validation(scores)
    assert table.loc["p", ["latent vector", "composition"]].tolist() == [0.1, -0.3]
    assert table.loc["p", ["latent vector by", "composition by"]].tolist() == [
        "SVR, paper",
        "kNN, paper",
    ]
    assert chosen_on_validation(scores, "val").loc["p", "latent vector"] == 0.5


def test_composition_features_see_the_formula_and_nothing_else() -> None:
    cell = np.eye(3)[None] * 4.0
    salt = Crystals.from_arrays(["a"], [np.zeros((2, 3))], [np.array([11, 17])], cell)
    twice = Crystals.from_arrays(
        ["b"], [np.random.default_rng(0).random((4, 3))], [np.array([17, 11, 17, 11])], 2 * cell
    )
    other = Crystals.from_arrays(["c"], [np.zeros((3, 3))], [np.array([11, 17, 17])], cell)
    features = composition_features(salt)
    assert features.shape == (1, 62) and np.isfinite(features).all()
    np.testing.assert_allclose(features, composition_features(twice))
    assert np.abs(features - composition_features(other)).max() > 1e-3
    assert element_fractions(other, (8, 11, 17)).round(3).tolist() == [[0, 0.333, 0.667]]
    # mean atomic number and mean deviation from it
    assert features[0, 0] == pytest.approx(14) and features[0, 12] == pytest.approx(3)
    assert features[0, -2:].tolist() == [2, 2] and composition_features(other)[0, -2:].tolist() == [
        2,
        3,
    ]  # elements, atoms of the reduced formula


@pytest.fixture(scope="module")
def with_property(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some starter crystals with a band gap that is half of the number of atoms, unknown of every
    third."""
    starter, splits = data.load("starter"), {}
    for split, n in (("train", 90), ("val", 24), ("test", 24)):
        crystals = starter.split(split).select(range(n))
        gap = np.where(np.arange(n) % 3 == 0, np.nan, crystals.n_atoms / 2)
        splits[split] = Crystals(
            crystals.ids,
            crystals.positions,
            crystals.species,
            crystals.lattice,
            crystals.offsets,
            {"band_gap": gap},
        )
    folder = tmp_path_factory.mktemp("data") / "gaps"
    save_dataset(Dataset("gaps", splits, vocabulary=starter.vocabulary), folder)
    return folder


def test_command_records_scores_of_known_properties_alone(
    with_property: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "made"
    assert (
        main(
            [
                "analyse",
                "properties",
                str(RUN),
                "--dataset",
                str(with_property),
                "--set",
                "epochs=20",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    scores, known, predictions = (
        pd.read_csv(out / f"{name}.csv") for name in ("scores", "known", "predictions")
    )
    assert (
        set(scores["property"]) == {"band_gap"}
        and known["used"].tolist() == [60, 16, 16]
        and len(predictions) == 16
    )
    assert set(scores["input"]) == {LATENT, COMPOSITION, FRACTIONS, MEAN} and len(scores) == 3 * (
        1 + 3 * 6
    )
    mean = scores[(scores["input"] == MEAN) & (scores["split"] == "train")].iloc[0]
    assert mean["r2"] == pytest.approx(0) and mean["mse"] == pytest.approx(
        known["std"][0] ** 2, rel=1e-4
    )
    assert json.loads((out / "analysis.json").read_text())["parameters"]["epochs"] == 20
    assert (
        main(
            [
                "analyse",
                "properties",
                str(RUN),
                "--dataset",
                str(with_property),
                "--set",
                "targets=hardness",
            ]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert "'hardness'" in error and "band_gap, volume_per_atom" in error


def test_what_is_predicted_without_being_asked(with_property: Path) -> None:
    assert targets(data.load("starter")) == {"volume_per_atom": "Å³"}
    assert targets(data.load(str(with_property))) == {"band_gap": "eV"}
    assert list(targets(data.load(str(with_property)), "n_atoms, band_gap")) == [
        "n_atoms",
        "band_gap",
    ]
    with pytest.raises(ConfigError, match="epochs = 0"):
        Parameters(epochs=0)


def test_volume_per_atom_and_unknown_elements() -> None:
    crystals = Crystals.from_arrays(
        ["a"], [np.zeros((2, 3))], [np.array([11, 17])], np.diag([2.0, 3.0, 4.0])[None]
    )
    assert property_values(crystals, "volume_per_atom").tolist() == [pytest.approx(12)]
    assert known_elements(crystals, (11, 17)).tolist() == [True] and known_elements(
        crystals, (11,)
    ).tolist() == [False]
    with pytest.raises(DataError, match="'hardness'"):
        property_values(crystals, "hardness")


def test_paper_table_is_complete_and_its_variances_agree_between_methods() -> None:
    table = table_s3()
    assert (
        len(table) == 54
        and not table.duplicated(["regressor", "property", "dataset", "split"]).any()
    )
    assert (
        table.query(
            "regressor == 'MLP' and property == 'band_gap' and dataset == 'lcs6' and split == 'test'"
        )["r2"].item()
        == 0.3622
    )
    known = pd.DataFrame({"split": SPLITS, "property": "band_gap", "std": [2.0, 3.0, 4.0]})
    variances = implied_variances(known, "icsg3d")
    assert variances.loc[("train", "band_gap"), "Table S3"] == pytest.approx(
        7.3111 / (1 - 0.0157), rel=0.01
    )
    assert variances.loc[("val", "band_gap"), "here"] == pytest.approx(9) and len(variances) == 9


def test_figures_show_what_they_are_given() -> None:
    rows = [
        {
            "property": "band_gap",
            "input": s,
            "regressor": r,
            "setting": t,
            "split": "test",
            "r2": 0.5 if s == LATENT else -9.0,
        }
        for s in (LATENT, COMPOSITION, FRACTIONS)
        for r in REGRESSORS
        for t in ("paper", "chosen")
    ]
    rows.append(
        {
            "property": "band_gap",
            "input": MEAN,
            "regressor": "",
            "setting": "",
            "split": "test",
            "r2": -0.1,
        }
    )
    figure = property_scores(pd.DataFrame(rows), paper=table_s3().query("dataset == 'icsg3d'"))
    lines = figure.axes[0].lines
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    points = [
        (labels[line.get_ydata()[0]], line.get_xdata()[0], line.get_marker()) for line in lines[1:]
    ]
    assert lines[0].get_xdata() == [-0.1, -0.1]  # the mean of training
    assert points.count((f"SVR, {COMPOSITION}", LOWEST, "<")) == 2  # -9, at the border
    assert [point for point in points if point[0] == f"kNN, {LATENT}"][:2] == [
        (f"kNN, {LATENT}", 0.5, "o"),
        (f"kNN, {LATENT}", 0.5, "D"),
    ]
    printed = (
        table_s3()
        .query("dataset == 'icsg3d' and property == 'band_gap' and split == 'test'")
        .set_index("regressor")["r2"]
    )
    hollow = {
        labels[line.get_ydata()[0]]: line.get_xdata()[0]
        for line in lines
        if line.get_markerfacecolor() == "none"
    }
    assert hollow == {f"{regressor}, {LATENT}": r2 for regressor, r2 in printed.items()}
    predictions = pd.DataFrame(
        {"property": "band_gap", "actual": [0.0, 1.0], f"from {LATENT}": [0.1, 0.9]}
    )
    predictions = predictions.assign(
        **{f"from {COMPOSITION}": [0.2, 0.8], f"from {FRACTIONS}": [0.0, 1.0]}
    )
    drawn = [
        collection.get_offsets().tolist()
        for collection in property_parity(predictions).axes[0].collections
    ]
    assert drawn == [[[0, 0.1], [1, 0.9]], [[0, 0.2], [1, 0.8]], [[0, 0], [1, 1]]]


def test_what_the_page_concludes_of_both_models() -> None:
    r2 = {}
    for preset in ("cpu", "plus"):
        record = recorded_analysis("properties", recorded_run("icsg3d-recovered", preset=preset))
        scores = record.table("scores").fillna({"regressor": "", "setting": ""})
        r2[preset] = chosen_on_validation(scores)
    composition = r2["cpu"][["composition", "element fractions"]].max(axis=1)
    faithful, plus = (table["latent vector"] for table in r2.values())
    assert (composition >= faithful).all()
    better = plus[(plus > composition) & (plus > faithful)]
    assert set(better.index) == {"energy_above_hull", "total_magnetization"}
    assert (faithful > plus).sum() == 1
