"""Choices of the decoding, compared on the same latent vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nesf import data
from nesf.config import ReconstructionConfig
from nesf.decode import reconstruct
from nesf.metrics import evaluate
from nesf.saved import TrainedModel
from nesf_cli.main import main
from nesf_io.errors import ConfigError
from nesf_studies.decoding import DEFAULT, ERRORS, VARIANTS, Parameters, analyse
from nesf_studies.page import recorded_run
from nesf_studies.record import recorded_analysis

RUN = recorded_run("starter")


def test_each_variant_is_that_reconstruction() -> None:
    dataset, model = data.load("starter"), TrainedModel.load(RUN, "cpu")
    parameters = Parameters(n_crystals=5, only="official position, no votes")
    table = analyse(model, dataset, parameters, progress=False)["decoding"].set_index("variant")
    assert (
        table.index.tolist() == [DEFAULT, "official position", "no votes"]
        and (table["n_crystals"] == 5).all()
    )
    assert table.loc[DEFAULT, "n_changed"] == 0 and table["changes"].tolist() == [
        "",
        "atom_position = cluster_mean",
        "species_range = 0.0",
    ]
    few = dataset.split("val").select(
        np.sort(np.random.default_rng(0).choice(66, 5, replace=False))
    )
    found = reconstruct(model, few, ReconstructionConfig(atom_position="cluster_mean")).crystals
    summary = evaluate(few, found, match=False).summary
    assert table.loc["official position", list(ERRORS)].tolist() == pytest.approx(
        [summary[e] for e in ERRORS]
    )


def test_only_known_variants_that_change_something() -> None:
    assert Parameters(only="fast").names == (DEFAULT, "fast")
    with pytest.raises(ConfigError, match="'slow'.*official position"):
        Parameters(only="slow")
    defaults = ReconstructionConfig()
    assert all(
        getattr(defaults, key) != value
        for changes in VARIANTS.values()
        for key, value in changes.items()
    )


def test_command_records_it(tmp_path: Path) -> None:
    folder = tmp_path / "analysis" / "decoding"
    assert (
        main(
            [
                "analyse",
                "decoding",
                str(RUN),
                "--set",
                "n_crystals=2",
                "--set",
                "only=fast",
                "--out",
                str(folder),
            ]
        )
        == 0
    )
    record = recorded_analysis("decoding", tmp_path)
    assert record.about["parameters"]["only"] == "fast" and record.table("decoding")[
        "variant"
    ].tolist() == [DEFAULT, "fast"]
