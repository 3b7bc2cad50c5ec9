"""How well certificate and scores tell failures: on data of which the answer is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import nesf
from nesf_io.errors import DataError
from nesf_studies.trust import (
    SIGNALS,
    reliability,
    reliability_chart,
    roc,
    roc_chart,
    signals,
    training_distance,
    verdicts,
    wilson,
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with six crystals: e has no atoms, and the others' scores are their ranks."""
    ids = list("abcdef")
    materials = pd.DataFrame(
        {
            "split": "test",
            "id": ids,
            "n_atoms_actual": 2,
            "n_atoms_detected": [2, 2, 2, 2, 0, 3],
            "species_error_actual_percent": [0, 0, 0, 50, 100, 0],
            "position_error_actual_angstrom": [0.001, 0.002, 0.05, 0.001, np.nan, 0.001],
            "matched": [True, True, True, False, False, False],
        }
    )
    other = materials.assign(split="val")
    pd.concat([other, materials]).to_csv(tmp_path / "materials.csv", index=False)
    decoded = tmp_path / "reconstruction" / "test"
    decoded.mkdir(parents=True)
    shuffled = ids[::-1]
    worst = dict(zip(ids, [0.1, 0.2, 0.3, 0.4, np.nan, 0.6], strict=True))
    pd.DataFrame({"id": shuffled, "worst_score": [worst[i] for i in shuffled]}).to_csv(
        decoded / "structures.csv", index=False
    )
    atoms = [(i, s) for i in ids if i != "e" for s in (0.0, worst[i])]
    pd.DataFrame(atoms, columns=["id", "score"]).to_csv(decoded / "atoms.csv", index=False)
    distances = dict(zip(ids, [1e-12, 2e-12, 1e-3, 3e-12, 0.5, 0.1], strict=True))
    certificates = {
        i: {"certified": d < 1e-8, "latent_distance": d, "field_distance": 0.0}
        for i, d in distances.items()
    }
    summary = {"wall_time_seconds": 1.0, "reconstruction": {}, "certificates": certificates}
    (decoded / "summary.json").write_text(json.dumps(summary))
    return tmp_path


def test_signals_and_outcomes_belong_to_their_crystals(run: Path) -> None:
    table = signals(run, "test").set_index("id")
    assert table["exact"].tolist() == [True, True, False, False, False, False]
    assert table.loc["c", "worst_score"] == 0.3 and table.loc["c", "mean_score"] == pytest.approx(
        0.15
    )
    assert np.isnan(table.loc["e", "worst_score"]) and table.loc["d", "certified"]
    assert "training_distance" not in table
    table = verdicts(table.reset_index())
    assert table.loc["certified", ["n", "matched", "exact"]].tolist() == [3, 2, 2]
    assert table.loc["not certified", ["n", "matched"]].tolist() == [3, 1]
    assert table.loc["all", "matched_percent"] == 50


def test_the_area_is_the_chance_that_a_failure_is_doubted_more(run: Path) -> None:
    curves = roc(signals(run, "test")).groupby("signal")["area"].first()
    # scores rank all failures behind all right crystals; nothing detected is the most doubtful
    assert curves["worst_score"] == 1
    # certificate: of the 9 pairs of a failure and a right crystal, d is below c, and above a and b
    assert curves["latent_distance"] == pytest.approx(8 / 9)
    exact = roc(signals(run, "test"), "exact").groupby("signal")["area"].first()
    assert exact["latent_distance"] == 1


def test_a_signal_that_says_nothing_has_half_the_area() -> None:
    table = pd.DataFrame({"matched": [True, False] * 10, "latent_distance": 1.0})
    curve = roc(table)
    assert curve["area"].iloc[0] == 0.5
    assert curve[["false_alarms", "caught"]].iloc[[0, -1]].to_numpy().tolist() == [[0, 0], [1, 1]]
    for same in (True, False):
        with pytest.raises(DataError, match="all" if same else "none"):
            roc(table.assign(matched=same))


def test_reliability_counts_the_right_ones_in_each_group() -> None:
    n = 100
    table = pd.DataFrame({"matched": np.arange(n) < 60, "latent_distance": np.arange(n) / n})
    found = reliability(table, bins=5)
    assert found["n"].tolist() == [20] * 5 and found["right"].tolist() == [1, 1, 1, 0, 0]
    assert (found["right_low"] <= found["right"]).all()
    assert (found["right"] <= found["right_high"]).all()
    tied = reliability(table.assign(latent_distance=0.0))
    assert tied["n"].tolist() == [n] and tied["right"].tolist() == [0.6]
    low, high = wilson(0.5, 100)
    assert (high - low) / 2 == pytest.approx(0.05, rel=0.01)  # the normal approximation
    assert wilson(1.0, 4) == pytest.approx((0.8, 1.0))


def test_materials_of_other_crystals_are_not_joined_in_silence(run: Path) -> None:
    path = run / "reconstruction" / "test" / "structures.csv"
    path.write_text(path.read_text().replace("\na,", "\ng,"))
    with pytest.raises(DataError, match="different crystals"):
        signals(run, "test")


def test_a_training_crystal_has_no_distance_from_the_training_crystals() -> None:
    model, dataset = nesf.load_model("starter", device="cpu"), nesf.load_dataset("starter")
    assert training_distance(model, dataset, "train").max() < 1e-6
    held_out = training_distance(model, dataset, "test")
    assert held_out.shape == (len(dataset.split("test")),) and np.median(held_out) > 0.05


def test_figures_show_every_signal_and_group(run: Path) -> None:
    table = signals(run, "test")
    figure = roc_chart({"matched": roc(table), "exact": roc(table, "exact")})
    assert len(figure.axes) == 2
    texts = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert len(texts) == 3 and texts[0] == f"{SIGNALS['latent_distance']}: 0.89"
    found = reliability(table, bins=3)
    (ax,) = reliability_chart({"starter": found}).axes
    assert ax.lines[0].get_ydata().tolist() == found["right"].tolist()
