"""The search of Supplementary Note 7: candidates as runs of the workflow, and the winner by the
paper's rule."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from nesf.config import PAPER
from nesf.records import RecordedRun
from nesf_io.errors import ConfigError
from nesf_studies.search import (
    PRIMARY,
    SECONDARY,
    UNCHANGED,
    candidates,
    decisions,
    described,
    entries,
    followed,
    initial,
    outcome,
    search_steps,
    seed_spread,
    settings,
    steps,
    winner_table,
)
from nesf_studies.style import NESF
from workflow.plan import planned_runs

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
from write_search import SEARCHES, text_of, write_next  # noqa: E402


def run(
    label: str, atoms: float | None, position: float | None, seed: int = 0, dataset: str = "starter"
) -> RecordedRun:
    about: dict[str, Any] = {
        "dataset": {"name": dataset, "fold": None},
        "method": "nesf",
        "preset": label,
        "seed": seed,
    }
    return RecordedRun(Path("r"), about, {"val": {PRIMARY: atoms, SECONDARY: position}})


def test_eight_steps_end_in_the_network_of_the_paper() -> None:
    assert [(s.number, len(s.candidates)) for s in steps()] == [
        (1, 9),
        (2, 7),
        (3, 3),
        (4, 5),
        (5, 9),
        (6, 9),
        (7, 8),
        (8, 81),
    ]
    final = initial()
    for step in steps():
        final |= step.adopted
    network = {
        f"{part}.{name}": getattr(getattr(PAPER, part), name)
        for part in ("model", "training")
        for name in vars(getattr(PAPER, part))
    }
    assert all(
        network[key] == (tuple(value) if isinstance(value, list) else value)
        for key, value in final.items()
    )
    assert [s.number for s in steps() if s.adopted not in s.candidates] == [6]


def test_a_candidate_starts_from_what_was_adopted_before_it() -> None:
    third = steps()[2]
    values = settings(third, third.candidates[0])
    assert values["training.learning_rate"] == 0.01
    # steps 1 and 2
    assert values["model.latent_size"] == 192 and values["training.weight_position"] == 10.0
    assert (
        values["model.decoder_species"] == initial()["model.decoder_species"]
        and values["training.batch_size"] == 64
    )  # later steps


@pytest.mark.parametrize("name", SEARCHES)
def test_the_workflow_files_are_those_of_the_steps_and_can_be_planned(name: str) -> None:
    text = (ROOT / "workflow" / "search" / f"{name}.yaml").read_text()
    assert text == text_of(name), "run `python scripts/write_search.py`"
    runs = planned_runs(yaml.safe_load(text)["more"])
    assert len(runs) == {"starter": 50 + 3, "lcs6": 131 + 3}[name] and {r.splits for r in runs} == {
        ("val",)
    }
    smallest = next(r for r in runs if r.label == "trial-search-2-01")
    assert smallest.config().model.latent_size == 64 and smallest.dataset == name
    same = [r for r in runs if r.label == UNCHANGED]
    start = next(r for r in runs if r.label == "trial-search-1-05")
    assert [r.seed for r in same] == [0, 1, 2] and replace(same[0].config(), preset="") == replace(
        start.config(), preset=""
    )


def test_unknown_step() -> None:
    with pytest.raises(ConfigError, match="step 9"):
        entries("starter", preset="cpu", numbers=[9])


def test_fewer_wrong_numbers_of_atoms_win_then_the_smaller_position_error() -> None:
    runs = [
        run("trial-search-3-01", 6.0, 0.1),
        run("trial-search-3-02", 4.0, 0.3),
        run("trial-search-3-03", 3.0, 0.2),
        run("trial-search-3-03", 5.0, 0.3, seed=1),  # in the mean 4 and 0.25
        run("trial-search-2-01", None, None),
        run("trial-search-2-02", 9.0, 9.0),
        run("trial-search-1-01", 0.0, 0.0, dataset="lcs6"),
        run("cpu", 0.0, 0.0),
    ]
    table = candidates(runs, "starter").set_index("label")
    assert table.index[table["wins"]].tolist() == ["trial-search-2-02", "trial-search-3-03"]
    assert table.loc["trial-search-3-03", ["n", PRIMARY, SECONDARY]].tolist() == [2, 4.0, 0.25]
    assert table["n"].sum() == 6
    summary = winner_table(table.reset_index())
    assert summary.loc[
        (3, "learning rate"), ["candidates", "recorded", "winner among them"]
    ].tolist() == [3, 3, "learning_rate = 0.0001"]
    assert summary.loc[
        (1, "weights of the loss functions"), ["recorded", "winner among them"]
    ].tolist() == [0, "–"]
    figure = search_steps(table.reset_index())
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["step 2", "step 3"]
    drawn = [(line.get_xdata()[0], line.get_markerfacecolor()) for line in figure.axes[1].lines]
    third = steps()[2]
    adopted = third.candidates.index(third.adopted)
    assert [x for x, face in drawn if face != "none"] == [6.0, 4.0, 4.0] and [
        x for x, face in drawn if face == "none"
    ] == [[6.0, 4.0, 4.0][adopted]]
    assert drawn[[face for _, face in drawn].index(NESF)][0] == 4.0


def test_one_step_after_the_other_starts_from_the_recorded_winners(tmp_path: Path) -> None:
    first, second, third = steps()[:3]
    # the seventh: what the paper adopted
    runs = [run(first.label(i), float(i != 6), 0.1) for i in range(9)]
    assert first.label(0) == "trial-search-1-01" and followed(runs, "starter") == {
        1: dict(first.adopted)
    }
    # not what the paper adopted
    runs += [run(second.label(i), float(i != 1), 0.1) for i in range(7)]
    won = followed(runs, "starter")
    assert won == {1: dict(first.adopted), 2: {"model.latent_size": 92}}
    assert (
        second.label(1, won) == "trial-search-2-02"
        and third.label(0, won) == "trial-followed-3-01"
        and third.label(0) == "trial-search-3-01"
    )
    assert settings(third, third.candidates[0], won)["model.latent_size"] == 92
    # those that start from the paper's do not count
    assert followed(runs + [run(third.label(i), 0.0, 0.0) for i in range(3)], "starter") == won
    more = [*runs, run("trial-followed-3-01", 1.0, 1.0), run("trial-followed-3-02", 1.0, 0.5)]
    table = candidates(more, "starter", winners=won)
    assert (
        table["step"].unique().tolist() == [1, 2, 3]
        and table["n"].sum() == 18
        and followed(more, "starter") == won
    )
    assert followed([*more, run("trial-followed-3-03", 2.0, 0.0)], "starter")[3] == {
        "training.learning_rate": 0.001
    }
    reached = outcome(won)
    assert reached.loc["model.latent_size"].tolist() == ["256", "92", "192"] and reached.loc[
        "training.batch_size"
    ].tolist() == ["64", "64", "128"]
    (planned, *others) = planned_runs(yaml.safe_load(text_of("starter", won))["more"])
    assert planned.label == "trial-followed-3-01" and len(others) == 2
    assert planned.config().model.latent_size == 92 and planned.config().training.epochs == 20
    written = write_next("starter", results=tmp_path, out=tmp_path / "next.yaml")
    assert (
        written
        and "trial-search-1-09" in written.read_text()
        and "trial-search-2" not in written.read_text()
    )


def test_the_papers_choices_and_the_spread_of_seeds_are_counted() -> None:
    first, third = steps()[0], steps()[2]
    runs = [run(first.label(i), float(i != 6), 0.1) for i in range(9)] + [
        run(third.label(i), float(i), 0.1) for i in range(3)
    ]
    runs += [
        run(steps()[1].label(0), 0.0, 0.0),
        run(UNCHANGED, 10.0, 0.1),
        run(UNCHANGED, 14.0, 0.1, seed=1),
    ]
    counted = decisions(candidates(runs, "starter"))
    assert counted == {
        "steps recorded": 2,
        "with the paper's choice": 2,
        "the paper's choice wins": 1,
        "expected by chance": pytest.approx(1 / 9 + 1 / 3),
    }
    spread = seed_spread(runs)
    assert spread.index.tolist() == [("starter", UNCHANGED)] and spread.iloc[0].tolist() == [
        2,
        12.0,
        pytest.approx(8**0.5),
    ]


def test_values_in_short() -> None:
    assert (
        described({"model.decoder_position": [256, 128, 128], "training.learning_rate": 1e-4})
        == "decoder_position = [256, 128×2], learning_rate = 0.0001"
    )
