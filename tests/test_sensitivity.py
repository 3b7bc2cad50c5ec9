"""Sweeps over the hyperparameters of the reconstruction: as many separate reconstructions, but for
the time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from nesf import data
from nesf.config import ReconstructionConfig
from nesf.crystals import Crystals, pad
from nesf.decode import reconstruct
from nesf.decoding_fields import GroundTruthFields, NeuralFields
from nesf.records import read_csv
from nesf.saved import TrainedModel
from nesf_cli.main import main
from nesf_io.errors import ConfigError, DataError
from nesf_studies.page import recorded_run
from nesf_studies.record import recorded_analysis
from nesf_studies.sensitivity import (
    CHARGED,
    ERRORS,
    NETWORK,
    VALUES,
    Parameters,
    analyse,
    decode_with_each,
    drawn_error,
    free_hyperparameters,
    jumps,
    sample,
    sensitivity,
    sensitivity_curves,
    tolerant_range,
)

RUN = recorded_run("starter")


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return TrainedModel.load(RUN, "cpu")


@pytest.fixture(scope="module")
def few() -> Crystals:
    return data.load("starter").split("val").select([3, 11, 40])


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_shared_steps_give_what_separate_reconstructions_give(
    model: TrainedModel, few: Crystals, mode: str
) -> None:
    config = ReconstructionConfig(mode=mode)  # type: ignore[arg-type]
    values = {
        "grid_interval": (0.5, 1.0),
        "iterations": (1, 3, 64),
        "score_threshold": (0.02,),
        "nms_radius": (1.5,),
        "min_particles": (150,),
        "species_interval": (0.25,),
        "species_range": (0.0,),
    }
    fields = NeuralFields(model.autoencoder, model.encode(few))
    made = decode_with_each(fields, few.ids, model.box, model.vocabulary, config, values)
    assert set(made) == {(name, value) for name in values for value in values[name]}
    for (name, value), crystals in made.items():
        alone = reconstruct(model, few, replace(config, **{name: value})).crystals
        assert crystals.n_atoms.tolist() == alone.n_atoms.tolist(), (name, value)
        assert crystals.species.tolist() == alone.species.tolist()
        np.testing.assert_allclose(crystals.positions, alone.positions, atol=1e-4)
    # the values do matter
    assert made["min_particles", 150].n_atoms.sum() < made["grid_interval", 0.5].n_atoms.sum()


def test_a_wide_radius_merges_atoms_of_a_known_crystal() -> None:
    crystals = Crystals.from_arrays(
        ["pair"],
        [np.array([[1.0, 1.0, 1.0], [2.2, 1.0, 1.0]])],
        [np.array([11, 17])],
        np.eye(3)[None] * 4.0,
    )
    fields = GroundTruthFields(pad(crystals, (11, 17)))
    values = {"nms_radius": (0.5, 1.1, 1.3), "min_particles": (10, 10_000)}
    made = decode_with_each(
        fields, crystals.ids, ((0.0,) * 3, (3.0,) * 3), (11, 17), ReconstructionConfig(), values
    )  # type: ignore[arg-type]
    assert {key: int(c.n_atoms[0]) for key, c in made.items()} == {
        ("nms_radius", 0.5): 2, ("nms_radius", 1.1): 2, ("nms_radius", 1.3): 1, ("min_particles", 10): 2, ("min_particles", 10_000): 0,
    }  # fmt: skip


def test_table_counts_what_is_lost(model: TrainedModel, few: Crystals) -> None:
    padded = pad(few, model.vocabulary)
    table = sensitivity(
        few,
        lambda a, b: GroundTruthFields(padded.select(torch.arange(a, b))),
        model,
        ReconstructionConfig(),
        {"min_particles": (10, 100_000)},
    )
    good, lost = table.iloc[0], table.iloc[1]
    assert (
        good["is_default"]
        and good["number_of_atoms_error_percent"] == 0
        and good["atoms_detected_percent"] == 100
    )
    assert good["position_error_actual_angstrom"] < 1e-3
    assert (
        lost["number_of_atoms_error_percent"] == 100
        and lost["n_nothing_detected"] == 3
        and lost["atoms_detected_percent"] == 0
    )
    assert (
        np.isnan(lost["position_error_actual_angstrom"])
        and lost["position_error_actual_charged_angstrom"] > 1
    )


def test_the_models_own_decoding_is_the_default(model: TrainedModel) -> None:
    other = replace(
        model,
        config=model.config.with_values({"decoding.min_particles": 7, "decoding.nms_radius": 0.6}),
    )
    parameters = Parameters(n_crystals=1, only="min_particles", true_fields=False)
    table = analyse(other, data.load("starter"), parameters, progress=False)["sensitivity"]
    assert table["value"].tolist() == sorted({*VALUES["min_particles"], 7}) and table.loc[
        table["is_default"], "value"
    ].tolist() == [7]


def test_range_ends_at_the_first_value_that_is_worse_in_any_error() -> None:
    position = [0.1, 0.3, 0.1, 0.1, 0.105, 0.1, 0.1]
    atoms = [5.0, 5.0, 5.0, 5.0, 5.0, 6.0, 5.0]
    table = pd.DataFrame(
        {
            "hyperparameter": "nms_radius",
            "value": [1.0, 2, 3, 4, 5, 6, 7],
            ERRORS[0]: position,
            ERRORS[1]: 1.0,
            ERRORS[2]: atoms,
        }
    )
    table["is_default"] = table["value"] == 4
    row = tolerant_range(table, tolerance=0.1).loc["nms_radius"]
    assert (row["default"], row["from"], row["to"]) == (4, 3, 5)
    assert (row[f"lowest {ERRORS[0]}"], row[f"{ERRORS[0]} at"]) == (0.1, 1)


def test_defaults_are_among_the_values_and_the_draw_is_fixed(few: Crystals) -> None:
    assert (
        all(getattr(ReconstructionConfig(), name) in values for name, values in VALUES.items())
        and len(VALUES) == 7
    )
    assert sample(few, 2, 0).ids == sample(few, 2, 0).ids and len(sample(few, 0, 0)) == 3
    with pytest.raises(DataError, match="n_crystals = 4"):
        sample(few, 4, 0)
    with pytest.raises(ConfigError, match="'radius'"):
        Parameters(only="nms_radius,radius")


def test_figure_has_a_row_a_hyperparameter_and_marks_the_defaults() -> None:
    table = pd.DataFrame(
        [
            {
                "hyperparameter": name,
                "value": value,
                "is_default": value == values[2],
                **dict.fromkeys(ERRORS, value),
            }
            for name, values in VALUES.items()
            for value in values
        ]
    )
    figure = sensitivity_curves(
        {"network": table, "true fields": table.query("hyperparameter != 'iterations'")}
    )
    for row, name in enumerate(VALUES):
        for ax in figure.axes[3 * row : 3 * row + 3]:
            curve, dashed, true_fields = ax.lines[:3]
            assert curve.get_xdata().tolist() == curve.get_ydata().tolist() == list(VALUES[name])
            assert dashed.get_xdata() == [VALUES[name][2]] * 2
            assert len(true_fields.get_xdata()) == (
                0 if name == "iterations" else len(VALUES[name])
            )


def test_command_records_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--out",
        str(tmp_path / "made"),
        "--set",
        "n_crystals=2",
        "--set",
        "only=min_particles,species_range",
    ]
    assert main(["analyse", "sensitivity", str(RUN), *options]) == 0
    made = pd.read_csv(tmp_path / "made" / "sensitivity.csv")
    assert len(made) == 2 * (8 + 8) and set(made["fields"]) == {"network", "true fields"}
    assert (
        main(
            [
                "analyse",
                "sensitivity",
                str(RUN),
                "--out",
                str(tmp_path / "other"),
                "--set",
                "only=radius",
            ]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert "'radius'" in error and not (tmp_path / "other").exists()


def test_a_crystal_without_an_atom_makes_a_step_that_is_listed() -> None:
    run = recorded_run("icsg3d-recovered")
    rows = recorded_analysis("sensitivity", run).table("sensitivity")
    rows = rows[rows["fields"] == NETWORK]
    # as the page says: none is lost, and the crystal in the cell of hundreds of Å is not drawn
    assert not len(jumps(rows)) and rows.loc[rows["is_default"], ERRORS[0]].max() < 1
    errors = read_csv(run / "materials.csv").query("split == 'val'")
    assert (errors["lattice_length_error_angstrom"] > 100).sum() == 1
    lost = (rows["hyperparameter"] == "iterations") & (rows["value"] <= 8)
    rows = rows.assign(n_nothing_detected=lost.astype(int))
    rows[CHARGED] = rows[ERRORS[0]] + 0.05 * lost
    found = jumps(rows)
    assert found.loc["iterations", ["from", "to"]].tolist() == ["8", "16"]
    assert found.loc["iterations", "without an atom"] == "1 → 0"
    few = rows[(rows["hyperparameter"] == "iterations") & (rows["value"] <= 8)]
    # the drawn error charges the crystal, the plain one leaves it out
    assert (drawn_error(few, ERRORS[0]) > few[ERRORS[0]] + 0.03).all()
    figure = sensitivity_curves({NETWORK: rows})
    row = list(dict.fromkeys(rows["hyperparameter"])).index("iterations")
    drawn, hollow = (line.get_ydata() for line in figure.axes[3 * row].lines[:2])
    assert drawn.tolist()[:4] == drawn_error(few, ERRORS[0]).tolist() == hollow.tolist()


def test_defaults_at_an_edge_are_named() -> None:
    for dataset in ("lcs6", "icsg3d-recovered"):
        rows = recorded_analysis("sensitivity", recorded_run(dataset)).table("sensitivity")
        assert free_hyperparameters(rows[rows["fields"] == NETWORK]).all()  # as the page says
    values = {1.0: 0.1, 2.0: 0.1, 3.0: 0.5}
    edge = pd.DataFrame(
        [
            {"hyperparameter": "nms_radius", "value": v, "is_default": v == 2.0}
            | dict.fromkeys(ERRORS, e)
            for v, e in values.items()
        ]
    )
    assert not free_hyperparameters(edge)["nms_radius"]
    assert free_hyperparameters(
        edge.assign(**{ERRORS[0]: 0.1, ERRORS[1]: 0.1, ERRORS[2]: 0.1})
    ).all()
