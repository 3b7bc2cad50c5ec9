"""Controlled runs: what was changed, and how large the effect is beside the spread of seeds."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from nesf.config import CPU, PAPER
from nesf.records import RecordedRun, read_run
from nesf_io.errors import DataError
from nesf_studies.page import LABELS, recorded_run
from nesf_studies.style import ICSG3D, NESF
from nesf_studies.trials import (
    ERRORS,
    changed,
    changes_table,
    config_table,
    effects,
    effects_chart,
    effects_table,
    presets_table,
)

BASE = CPU.with_values({"sampling.local_sigma": 0.15, "sampling.half_open": True})


def run(
    label: str,
    atoms: float,
    seed: int = 0,
    dataset: str = "lcs6",
    split: str = "val",
    **settings: Any,
) -> RecordedRun:
    config = BASE.with_values(
        {key.replace("__", "."): value for key, value in settings.items()}
    ).to_dict()
    about = {
        "dataset": {"name": dataset},
        "method": "nesf",
        "preset": label,
        "seed": seed,
        "config": config,
        "wall_time_seconds": {"train": 120.0},
    }
    return RecordedRun(Path("r"), about, {split: dict.fromkeys(ERRORS, atoms)})


def test_effects_are_measured_in_spreads_of_the_reference() -> None:
    runs = [
        run("short-wide", 13.0, sampling__local_sigma=0.5),
        run("short", 10.0),
        run("short", 12.0, seed=1),
        run("shorter", 99.0),
        run("short-other", 99.0, dataset="starter"),
        run("short-test", 99.0, split="test"),
    ]
    table = effects(runs, "lcs6", "short")
    assert (
        table.index.tolist() == ["short", "short-wide"]
        and table["n"].tolist() == [2, 1]
        and table["minutes"].tolist() == [2.0, 2.0]
    )
    assert table["changed"].tolist() == ["", "local_sigma: 0.15 → 0.5"]
    assert table[ERRORS[0]].tolist() == [11.0, 13.0]
    shift = table[f"{ERRORS[0]} shift"].tolist()
    assert math.isnan(shift[0]) and shift[1] == pytest.approx(math.sqrt(2))
    # one seed has no spread
    assert effects(runs[:2], "lcs6", "short")[f"{ERRORS[0]} shift"].isna().all()


def test_without_the_reference_nothing_is_compared() -> None:
    with pytest.raises(DataError, match="lcs6.*'short'.*test"):
        effects([run("short-wide", 1.0), run("short", 1.0)], "lcs6", "short", split="test")


def test_all_changes_are_named() -> None:
    text = changed(
        run("a", 1.0),
        run(
            "b", 1.0, sampling__half_open=False, sampling__global_share=None, model__latent_size=64
        ),
    )
    assert text == "latent_size: 192 → 64; half_open: true → false; global_share: 0.5 → –"


def test_effects_in_words() -> None:
    runs = [
        run("short", 10.0),
        run("short", 12.0, seed=1),
        run("short-wide", 13.0, sampling__local_sigma=0.5),
    ]
    table = effects_table(effects(runs, "lcs6", "short"))
    assert table.index.tolist() == ["short", "wide"] and table["changed"].tolist() == [
        "nothing",
        "local_sigma: 0.15 → 0.5",
    ]
    assert table[LABELS[ERRORS[0]]].tolist() == ["11.00", "13.00 (+1.4\N{NO-BREAK SPACE}σ)"]
    assert table["minutes"].tolist() == ["2.0", "2.0"]


def test_effects_are_drawn_with_their_sign() -> None:
    runs = [
        run("short", 10.0),
        run("short", 12.0, seed=1),
        run("short-better", 4.0, sampling__local_sigma=0.5),
        run("short-like", 12.0, sampling__local_sigma=0.3),
        run("short-worse", 20.0, sampling__local_sigma=0.1),
    ]
    figure = effects_chart(effects(runs, "lcs6", "short"))
    assert len(figure.axes) == len(ERRORS)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["better", "like", "worse"]
    for ax in figure.axes:
        dots = [line for line in ax.lines if line.get_marker() == "o"]
        shifts = [line.get_xdata()[0] for line in dots]
        assert shifts == pytest.approx([x / math.sqrt(2) for x in (-7, 1, 9)])
        assert [line.get_color() for line in dots] == [NESF, "#6b7280", ICSG3D]
    # one seed has no spread, so no shift is known
    without = effects_chart(effects([runs[0], *runs[2:]], "lcs6", "short"))
    assert not [line for ax in without.axes for line in ax.lines if line.get_marker() == "o"]


def test_named_labels_are_compared_instead() -> None:
    runs = [
        run("other", 9.0),
        run("short-wide", 13.0),
        run("short", 10.0),
        run("short", 12.0, seed=1),
    ]
    assert effects(runs, "lcs6", "short", others=["other"])[ERRORS[0]].to_dict() == {
        "short": 11.0,
        "other": 9.0,
    }


def test_configurations_are_shown_where_they_differ() -> None:
    table = config_table({"paper": PAPER, "half": PAPER.with_values({"training.batch_size": 64})})
    assert table.to_dict(orient="index") == {"training.batch_size": {"paper": "128", "half": "64"}}


def test_recipes_show_the_settings_that_differ() -> None:
    runs = [
        run("cpu", 6.0),
        run("trial-wide", 0.1, sampling__local_sigma=0.5, sampling__global_share=None),
        run("cpu", 7.0, seed=1),
        run("trial-search-1-01", 0.1, model__latent_size=64),
    ]
    table = changes_table(runs, "lcs6")
    assert table.columns.tolist()[:4] == [
        "n",
        "sampling.local_sigma",
        "sampling.global_share",
        "minutes",
    ]
    assert table.loc["cpu"].tolist()[:5] == [2, "0.15", "0.5", "2.0", "6.50"]
    assert (
        table.loc["trial-wide"].tolist()[:5] == [1, "0.5", "–", "2.0", "0.10"] and len(table) == 2
    )
    assert changes_table(runs, "ybco").empty


def test_presets_are_read_from_the_recorded_runs() -> None:
    table = presets_table("lcs6", ["cpu", "not-recorded"])
    runs = [read_run(recorded_run("lcs6", seed=seed)) for seed in range(3)]
    atoms = [r.metrics["val"][ERRORS[0]] for r in runs]
    minutes = " ".join(f"{r.run['wall_time_seconds']['train'] / 60:.1f}" for r in runs)
    assert table.columns.tolist() == ["cpu"] and table["cpu"].tolist()[:3] == ["3", "1200", minutes]
    assert table.loc[LABELS[ERRORS[0]], "cpu"] == f"{mean(atoms):.2f} ± {stdev(atoms):.2f}"


def test_the_species_term_on_validation_is_lowest_in_the_first_half() -> None:
    """As the pages Differences (LCS6Å) and Training (starter: no rise, it stops falling) say."""
    for seed in range(3):
        log = read_run(recorded_run("lcs6", seed=seed)).log().dropna()
        species = log.set_index("epoch")["val_loss_species"]
        assert species.idxmin() < 0.5 * species.index.max()
        assert species.iloc[-10:].mean() > 1.1 * species.min()
    species = read_run(recorded_run("starter")).log().dropna()["val_loss_species"].to_numpy()
    n = len(species)
    assert abs(species[-n // 4 :].mean() / species[n // 2 : 3 * n // 4].mean() - 1) < 0.2
