"""Examples of reconstruction: chosen by rule, recorded with the crystals, drawn in a row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nesf import data
from nesf.crystals import Crystals
from nesf.saved import TrainedModel
from nesf_cli.main import main
from nesf_io.errors import ConfigError, DataError
from nesf_studies.examples import (
    Parameters,
    choose,
    compare,
    example_caption,
    example_grid,
    examples_view,
    ranking,
    read_baseline,
)
from nesf_studies.page import recorded_run
from nesf_studies.record import recorded_analysis, run_analysis
from nesf_studies.style import Symbol
from nesf_studies.viewer import crystal_choice

STARTER = Path(__file__).parents[1] / "results" / "starter" / "nesf" / "cpu" / "seed-0"


def materials(**columns: list) -> pd.DataFrame:
    n = len(columns["id"])
    filled = {
        "position_error_actual_angstrom": [0.1] * n,
        "species_error_actual_percent": [0.0] * n,
    } | columns
    return pd.DataFrame({"n_atoms_actual": [4] * n, "n_atoms_detected": [4] * n} | filled)


def test_ranking_follows_the_rule() -> None:
    position = [0.3, 0.1, 0.1, 0.1, 0.1, np.nan]
    table = materials(
        id=["far", "more", "species", "b", "a", "nothing"],
        position_error_actual_angstrom=position,
        n_atoms_detected=[4, 5, 4, 4, 4, 0],
        species_error_actual_percent=[0, 0, 25, 0, 0, 100],
    )
    assert table["id"].iloc[ranking(table)].tolist() == [
        "a",
        "b",
        "species",
        "more",
        "far",
        "nothing",
    ]
    shuffled = table.sample(frac=1, random_state=1)
    assert (
        shuffled["id"].iloc[ranking(shuffled)].tolist() == table["id"].iloc[ranking(table)].tolist()
    )


def test_best_median_and_worst_do_not_overlap() -> None:
    assert {k: v.tolist() for k, v in choose(np.arange(7), 1).items()} == {
        "best": [0],
        "median": [3],
        "worst": [6],
    }
    assert {k: v.tolist() for k, v in choose(np.arange(8), 2).items()} == {
        "best": [0, 1],
        "median": [3, 4],
        "worst": [6, 7],
    }
    for n in (1, 2, 3):
        taken = np.concatenate(list(choose(np.arange(3 * n), n).values()))
        assert len(np.unique(taken)) == 3 * n
    with pytest.raises(DataError, match="^5 crystals.* 2 of each"):
        choose(np.arange(5), 2)
    with pytest.raises(ConfigError, match="n_each = 0"):
        Parameters(n_each=0)


def spoilt(crystals: Crystals, change: dict[int, tuple[float, int]]) -> Crystals:
    """Atoms of crystal i shifted by so many Å, and only so many of them kept."""
    positions, species = [], []
    for i in range(len(crystals)):
        atoms = crystals.atoms(i)
        shift, keep = change.get(i, (0.0, atoms.stop - atoms.start))
        positions.append((crystals.positions[atoms] + [shift, 0, 0])[:keep])
        species.append(crystals.species[atoms][:keep])
    return Crystals.from_arrays(crystals.ids, positions, species, crystals.lattice)


def test_methods_stand_beside_each_other_on_the_chosen_crystals(tmp_path: Path) -> None:
    dataset, model = data.load("starter"), TrainedModel.load(STARTER, device="cpu")
    few = dataset.split("val").select([0, 1, 2])
    detected = spoilt(few, {0: (0.2, 99), 1: (0.0, 0), 2: (0.05, 99)})
    baseline = spoilt(dataset.split("val"), {})
    baseline.save(tmp_path / "baseline" / "reconstruction" / "val" / "crystals.safetensors")
    parameters = Parameters(split="val", mode="fast", icsg3d=str(tmp_path / "baseline"))
    made = compare(few, detected, dataset.split("train"), model, parameters)
    table = made["examples"]
    assert table[table["method"] == "nesf"]["id"].tolist() == [few.ids[2], few.ids[0], few.ids[1]]
    assert table[table["method"] == "nesf"]["place"].tolist() == ["best", "median", "worst"]
    errors = table[table["method"] == "nesf"]["position_error_actual_angstrom"].tolist()
    assert errors[:2] == [pytest.approx(0.05), pytest.approx(0.2)] and np.isnan(errors[2])
    assert (
        table[table["method"].isin(["oracle", "icsg3d"])]["position_error_actual_angstrom"] < 1e-3
    ).all()
    assert (
        made["actual"].ids == made["nesf"].ids == made["icsg3d"].ids == made["copy"].ids
        and made["nesf"].n_atoms[2] == 0
    )
    assert example_caption(table, few.ids[1], "nesf").startswith("nothing detected")
    names = {"actual": "true", "nesf": "NeSF", "icsg3d": "ICSG3D"}
    figure = example_grid(table, {method: made[method] for method in names}, names)
    assert len(figure.axes) == 9 and [
        t.get_text() for ax in figure.axes[:3] for t in ax.texts if not isinstance(t, Symbol)
    ] == list(names.values())
    assert figure.axes[7].get_title() == "nothing detected" and figure.axes[
        3
    ].get_title().startswith("median (2 of 3)\n")
    view = examples_view(table, {method: made[method] for method in names}, names, 'in "3-D"').data
    assert view.count('data-caption="in &quot;3-D&quot;"') == 1 and "nesfViews.choice" in view
    assert view.count("<option") == 3 and "NeSF: nothing detected" in view
    baseline.select([0]).save(tmp_path / "part.safetensors")
    with pytest.raises(DataError, match=r"part.safetensors: holds 1 of the 3 examples"):
        compare(
            few,
            detected,
            dataset.split("train"),
            model,
            Parameters(split="val", mode="fast", icsg3d=str(tmp_path / "part.safetensors")),
        )


def test_the_baseline_is_decoded_where_its_reconstruction_is_not_kept(tmp_path: Path) -> None:
    run = Path("results/ybco/icsg3d/as-published-reduced/fold-0")
    recorded = recorded_analysis("examples", STARTER.parents[3] / "ybco/nesf/cpu/fold-0")
    assert recorded.about["parameters"]["icsg3d"] == str(run)
    actual, kept = recorded.crystals("actual"), recorded.crystals("icsg3d")
    made = read_baseline(str(STARTER.parents[4] / run), "test", actual)
    assert made.ids == kept.ids and made.species.tolist() == kept.species.tolist()
    np.testing.assert_allclose(made.positions, kept.positions, atol=1e-2)
    with pytest.raises(DataError, match=r"nowhere"):
        read_baseline(str(tmp_path / "nowhere"), "test", actual)


def test_recorded_and_read_again(tmp_path: Path) -> None:
    run_analysis(
        "examples",
        STARTER,
        data.load("starter"),
        {"n_crystals": 6, "mode": "fast"},
        out=tmp_path / "analysis" / "examples",
        progress=False,
    )
    record = recorded_analysis("examples", tmp_path)
    table = record.table("examples")
    assert (
        table["rank"].unique().tolist() == [1, 3, 6]
        and (table["of"] == 6).all()
        and record.about["parameters"]["n_crystals"] == 6
    )
    assert record.crystals("actual").ids == tuple(table["id"].unique())
    # a record holds what is shown
    assert not record.crystals("actual").properties and not record.crystals("copy").properties


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "analyse",
        "examples",
        str(STARTER),
        "--set",
        "n_crystals=3",
        "--set",
        "mode=fast",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(command) == 0
    assert {p.name for p in (tmp_path / "out").glob("[a-z]*")} == {
        "analysis.json",
        "examples.csv",
        *(f"{m}.safetensors" for m in ("actual", "nesf", "copy")),
    }
    capsys.readouterr()
    assert main([*command, "--set", "n_each=2", "--replace"]) == 2
    assert "3 crystals are too few for 2 of each kind" in capsys.readouterr().err


def test_views_do_not_share_names_and_show_what_there_is() -> None:
    first, second = data.load("starter").split("val").select([0, 1]).to_structures()
    rows, titles = (
        {"a": [first, None], "b <i>": [second, first]},
        {"a": ["x", "none"], "b <i>": ["y", "z"]},
    )
    one, other = (crystal_choice(rows, titles).data for _ in range(2))
    names = {html.split('<select id="')[1].split('"')[0] for html in (one, other)}
    assert len(names) == 2 and "b &lt;i&gt;" in one and "<i>" not in one
    assert one.count("<option") == 2 and one.count('class="') == 0 and '"scene":null' in one


def test_what_the_page_says_of_the_ybco_like_examples_is_recorded() -> None:
    rows = recorded_analysis("examples", recorded_run("ybco", fold=0)).table("examples")
    rows = rows[rows["method"] == "nesf"].set_index("place")
    difference = rows["n_atoms_detected"] - rows["n_atoms_actual"]
    assert difference.to_dict() == {"best": 0, "median": 0, "worst": 0}
    assert rows.loc["best", "species_error_actual_percent"] == 0
    assert (rows.loc[["median", "worst"], "species_error_actual_percent"] > 0).all()
