"""How well domain flag and certificate tell failures: recorded on crystals of several datasets."""

from pathlib import Path

import pandas as pd
import pytest

from nesf.data import load
from nesf.data.dataset import Dataset, save_dataset
from nesf.saved import TrainedModel, model_folder
from nesf_io.errors import DataError
from nesf_studies.domain import Parameters, analyse, domain_reliability
from nesf_studies.trust import roc


def test_crystals_are_new_to_the_model_and_flagged_by_its_domain(tmp_path: Path) -> None:
    starter = load("starter")
    test, train = starter.splits["test"], starter.splits["train"]
    near = test.select([*range(4)])
    other = Dataset("other", {"train": near, "val": near, "test": train.select([0, 1])})
    save_dataset(other, tmp_path / "other")
    model = TrainedModel.load(model_folder("starter"), "cpu")
    asked = Parameters(others="other", data=str(tmp_path), n=3, mode="fast")
    with pytest.raises(DataError, match="other: all of its test crystals"):
        analyse(model, starter, asked, progress=False)
    cells = near.lattice * 3  # far larger than any in training
    far = type(near).from_arrays(
        [f"far-{i}" for i in near.ids],
        [near.positions[near.atoms(i)] * 3 for i in range(4)],
        [near.species[near.atoms(i)] for i in range(4)],
        cells,
    )
    save_dataset(
        Dataset("other", {"train": near, "val": near, "test": far}),
        tmp_path / "other",
        replace=True,
    )
    table = analyse(model, starter, asked, progress=False)["crystals"]
    assert table["dataset"].value_counts().to_dict() == {"starter": 3, "other": 3}
    assert {*table["id"]} <= {*test.ids, *far.ids}
    assert (table["outside"] != "").tolist() == [False] * 3 + [True] * 3
    assert "in training" in table["outside"].iloc[-1] and not table["exact"].iloc[3:].any()


def test_the_flag_is_scored_like_any_signal() -> None:
    table = pd.DataFrame(
        {
            "dataset": ["a", "a", "b", "b"],
            "outside": [0.0, 0.0, 1.0, 1.0],
            "certified": [True, False, True, False],
            "latent_distance": [1e-12, 1e-3, 1e-12, 1e-2],
            "n_atoms": [2, 2, 2, 2],
            "matched": [True, True, True, False],
            "exact": [True, False, True, False],
        }
    )
    areas = roc(table).groupby("signal")["area"].first()
    assert areas["outside"] == pytest.approx(5 / 6)  # the failure is flagged, and one right crystal
    assert areas["latent_distance"] == 1 and areas["n_atoms"] == 0.5
    words = domain_reliability(table)
    assert words.loc[("b", "outside", "all"), "match, %"].startswith("50 (")
    assert words.loc[("all", "outside", "not certified"), "crystals"] == 1
    assert words.loc[("all", "inside", "certified"), "exact, %"].startswith("100 (")
