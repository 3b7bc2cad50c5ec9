"""Paths in latent space: which ones, what a frame is, what a path is, and the trivial path."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Composition, Lattice, Structure

from nesf import data
from nesf.crystals import Crystals
from nesf.data.dataset import Dataset
from nesf.decode import latent_path, reconstruct
from nesf.saved import TrainedModel
from nesf_cli.main import main
from nesf_io.errors import ConfigError, DataError
from nesf_studies import viewer as views
from nesf_studies.crystals import NOTHING as NO_FORMULA
from nesf_studies.crystals import (
    charge_balanced,
    crystal_system,
    reduced_formula,
    smallest_distance,
    space_group,
    space_group_symbol,
    structure_distance,
)
from nesf_studies.interpolation import (
    LatentPath,
    Parameters,
    analyse,
    describe,
    linear_path,
    longest_common,
    paper_paths,
    path_chart,
    path_summary,
    requested_paths,
    sequence,
    similar_pair,
    summary,
)

RUN = Path(__file__).parents[1] / "results" / "starter" / "nesf" / "cpu" / "seed-0"


def rock_salt(a: float, cation: str, anion: str) -> Structure:
    return Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(a), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )


def crystals(**structures: Structure) -> Crystals:
    return Crystals.from_structures(
        list(structures.values()), list(structures)
    ).in_standard_setting()


MGO, NACL = rock_salt(4.21, "Mg", "O"), rock_salt(5.64, "Na", "Cl")
NOTHING = Structure(Lattice.cubic(4.0), [], [])
ENDS = crystals(MgO=MGO, NaCl=NACL)


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return TrainedModel.load(RUN, "cpu")


@pytest.fixture(scope="module")
def starter() -> Dataset:
    return data.load("starter")


def test_formulas_are_in_the_papers_manner() -> None:
    assert reduced_formula(MGO) == "MgO" and reduced_formula(NOTHING) == NO_FORMULA
    peroxide = Structure(Lattice.cubic(4), ["Na", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert reduced_formula(peroxide) == "NaO" and peroxide.composition.reduced_formula == "Na2O2"


def test_the_papers_sequences_are_complete_and_end_where_the_paths_end() -> None:
    table = paper_paths()
    assert table["figure"].tolist() == ["5", "6", "S1", "S2", "S3", "S4"]
    assert [len(f.split()) for f in table["formulas"]] == [7, 6, 12, 3, 13, 10]
    for row in table.itertuples():
        formulas = row.formulas.split()
        source = row.path.split(" → ")[0].split()[0]
        assert Composition(formulas[0]) == Composition(source)
    assert set(table["source"]) | set(table["destination"]) == {
        f"mp-{n}" for n in (10695, 2469, 1265, 22862, 21276, 2605, 2998, 5986)
    }  # Section 2.4


def test_charge_balance_and_distances_of_known_crystals() -> None:
    assert (
        charge_balanced("MgO")
        and charge_balanced("NaCl")
        and not charge_balanced("Na4Cl3O")
        and not charge_balanced(NO_FORMULA)
    )
    assert smallest_distance(MGO) == pytest.approx(4.21 / 2) and math.isnan(
        smallest_distance(NOTHING)
    )
    assert smallest_distance(
        Structure(Lattice.orthorhombic(3, 4, 5), ["Na"], [[0, 0, 0]])
    ) == pytest.approx(3)  # its own image


def test_distance_of_structures_is_periodic_and_symmetric() -> None:
    one, moved = (
        Structure(Lattice.cubic(4), ["Na", "Cl"], [[x, 0, 0], [0.5, 0.5, 0.5]])
        for x in (0.01, 0.99)
    )
    assert structure_distance(one, one) == pytest.approx(0, abs=1e-9)
    assert (
        structure_distance(one, moved) == pytest.approx(0.08 / 2) == structure_distance(moved, one)
    )  # one of two atoms, across the face
    assert math.isnan(structure_distance(one, NOTHING))
    missing = Structure(Lattice.cubic(4), ["Na"], [[0.01, 0, 0]])
    far = 4 * math.dist((0.01, 0, 0), (0.5, 0.5, 0.5))
    assert structure_distance(one, missing) == pytest.approx((far / 2 + 0) / 2)


def test_sequences() -> None:
    assert sequence(["A", "A", "B", "A"]) == ["A", "B", "A"]
    assert (
        longest_common("ABCBDAB", "BDCABA") == 4
        and longest_common("AB", "CD") == 0
        and longest_common("", "A") == 0
    )


def test_space_groups() -> None:
    assert (
        space_group(MGO, 0.01) == 225
        and space_group_symbol(225) == "Fm-3m"
        and crystal_system(225) == "cubic"
    )
    assert (
        space_group(NOTHING, 0.01) == 0
        and space_group_symbol(0) == "–"
        and crystal_system(0) == "unknown"
    )
    assert [crystal_system(n) for n in (1, 2, 3, 15, 16, 74, 75, 142, 143, 167, 168, 194, 195)] == (
        ["triclinic"] * 2
        + ["monoclinic"] * 2
        + ["orthorhombic"] * 2
        + ["tetragonal"] * 2
        + ["trigonal"] * 2
        + ["hexagonal"] * 2
        + ["cubic"]
    )


def test_linear_path_of_equal_cells_keeps_sites_and_changes_species_half_way() -> None:
    frames = linear_path(ENDS, np.linspace(0, 1, 5))
    assert frames.lengths[:, 0] == pytest.approx(np.linspace(4.21, 5.64, 5))
    assert [reduced_formula(s) for s in frames.to_structures()] == [
        "MgO",
        "MgO",
        "MgO",
        "NaCl",
        "NaCl",
    ]
    described = describe(frames, np.linspace(0, 1, 5), Parameters())
    assert described["space_group"].tolist() == [225] * 5 and described["valid"].all()
    assert described["structure_step"].iloc[1:].max() < 1e-9


def test_linear_path_pairs_atoms_whatever_their_order_and_cell_boundary() -> None:
    matrix = Lattice.cubic(4)
    a = Structure(matrix, ["Na", "Cl"], [[0.0, 0, 0], [0.5, 0.5, 0.5]])
    b = Structure(matrix, ["Cl", "Na"], [[0.5, 0.5, 0.6], [0.9, 0, 0]])
    middle = (
        linear_path(crystals(a=a, b=b), np.array([0.0, 0.5, 1.0])).select([1]).to_structures()[0]
    )
    sodium = middle[[s.specie.symbol for s in middle].index("Na")]
    assert sodium.frac_coords[0] == pytest.approx(-0.05)  # the short way, over the face
    other = Structure(matrix, ["Na"], [[0, 0, 0]])
    assert [
        len(s) for s in linear_path(crystals(a=a, b=other), np.linspace(0, 1, 5)).to_structures()
    ] == [2, 2, 2, 1, 1]


def test_summary_of_a_made_up_path() -> None:
    path = LatentPath(
        "MgO → NaCl", ENDS, ("train", "train"), "6", "MgO NaMgO2 NaO Na2ClO Na4Cl3O NaCl"
    )
    lengths = [4.21, 4.21, 5.64, 5.64]
    frames = pd.DataFrame(
        {"formula": ["MgO", "NaO", "NaMgO2", "NaCl"], "space_group": [225, 1, 1, 225]}
    )
    frames = frames.assign(
        length_step=[math.nan, *np.abs(np.diff(lengths))], structure_step=[math.nan, 0.0, 0.3, 0.0]
    )
    found = summary(
        frames.assign(charge_balanced=[True, False, False, True], valid=[True, False, False, True]),
        path,
    )
    assert found["between_ours"] == 2 and (
        found["changes"],
        found["between_paper"],
        found["between_common"],
        found["between_in_order"],
    ) == (
        3,
        4,
        2,
        1,
    )
    assert found["ends_right"] == 2 and found["valid_percent"] == 50
    assert found["length_step_to_even"] == pytest.approx(3) and found[
        "mean_structure_step"
    ] == pytest.approx(0.1)
    assert found["formulas_paper"] == "MgO NaMgO2 NaO Na2ClO Na4Cl3O NaCl"


def test_latent_path_is_straight_and_its_ends_are_the_encoded_crystals(
    model: TrainedModel, starter: Dataset
) -> None:
    ends = starter.split("test").select([0, 1])
    z, encoded = latent_path(model, ends, np.array([0.0, 0.5, 1.0])), model.encode(ends)
    assert (
        z[0].equal(encoded[0])
        and z[2].equal(encoded[1])
        and z[1].allclose(encoded.mean(0), atol=1e-5)
    )


def test_paths_of_the_paper_that_lack_an_end_are_listed(starter: Dataset) -> None:
    train = starter.split("train")
    salt = rock_salt(5.64, "Na", "Cl")
    holding = crystals(**{"mp-22862": salt, "mp-1265": MGO})
    dataset = Dataset("lcs", {"train": holding, "val": train.select([]), "test": train.select([])})
    runnable, refused = requested_paths(dataset, Parameters())
    assert [p.name for p in runnable] == ["MgO → NaCl", "NaCl → PbS, textbook PbS"]
    assert runnable[0].splits == ("train", "train") and runnable[1].splits == ("train", "textbook")
    assert {r["path"]: r["status"] for r in refused}[
        "NaCl → PbS"
    ] == "not run: mp-21276 not in lcs" and len(refused) == 5
    assert [p.name for p in requested_paths(dataset, Parameters(stand_ins=False))[0]] == [
        "MgO → NaCl"
    ]


def test_ends_from_ids_and_files(tmp_path: Path, starter: Dataset) -> None:
    MGO.to(str(tmp_path / "MgO.cif"))
    identifier = starter.split("val").ids[3]
    (path,), refused = requested_paths(
        starter, Parameters(paths=f"{identifier} to {tmp_path / 'MgO.cif'}")
    )
    assert path.splits == ("val", "file") and path.ends.ids[0] == identifier and not refused
    assert path.ends.lengths[1] == pytest.approx([4.21] * 3, abs=1e-3)
    with pytest.raises(DataError, match="'nowhere.cif'"):
        requested_paths(starter, Parameters(paths=f"{identifier} to nowhere.cif"))
    with pytest.raises(ConfigError, match="only-one"):
        requested_paths(starter, Parameters(paths="only-one"))
    with pytest.raises(ConfigError, match="n_frames = 1"):
        Parameters(n_frames=1)


def test_a_pair_is_of_one_kind_and_shares_no_element() -> None:
    alloy = Structure(
        Lattice.cubic(4),
        ["Cu"] * 2 + ["Au"] * 2,
        [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
    )
    four = crystals(
        alloy=alloy,
        a=MGO,
        b=rock_salt(4.8, "Ca", "O"),
        c=Structure(Lattice.cubic(3), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3]),
        d=NACL,
    )
    assert similar_pair(four) == ("a", "d")
    with pytest.raises(DataError, match="paths"):
        similar_pair(four.select([0, 1, 2, 3]))


def test_end_frames_are_the_reconstructions(model: TrainedModel, starter: Dataset) -> None:
    ids = starter.split("test").ids[:2]
    made = analyse(
        model, starter, Parameters(paths=f"{ids[0]} to {ids[1]}", n_frames=3), progress=False
    )
    alone = reconstruct(model, starter.split("test").select([0, 1])).crystals
    decoded = made["decoded"]
    assert isinstance(decoded, Crystals) and len(decoded) == 3
    ends = decoded.select([0, 2])
    assert (
        ends.species.tolist() == alone.species.tolist()
        and np.abs(ends.positions - alone.positions).max() < 0.01
    )
    table = made["paths"]
    assert (
        table["method"].tolist() == ["nesf", "linear"]
        and (table["status"] == "run").all()
        and table["formulas_paper"].tolist() == ["", ""]
    )
    assert made["ends"].ids[0].endswith(ids[0])


def test_a_path_is_decoded_as_the_model_decodes(model: TrainedModel, starter: Dataset) -> None:
    # no cluster is as large
    strict = replace(model, config=model.config.with_values({"decoding.min_particles": 10_000}))
    ids = starter.split("test").ids[:2]
    made = analyse(
        strict,
        starter,
        Parameters(paths=f"{ids[0]} to {ids[1]}", n_frames=2, mode="fast"),
        progress=False,
    )
    assert made["decoded"].n_atoms.tolist() == [0, 0]  # type: ignore[union-attr]


def test_command_line(tmp_path: Path, starter: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = starter.split("test").ids[:2]
    command = ["analyse", "interpolation", str(RUN), "--out", str(tmp_path / "made")]
    assert (
        main([*command, "--set", f"paths={a} to {b}", "--set", "n_frames=2", "--set", "mode=fast"])
        == 0
    )
    assert (
        len(pd.read_csv(tmp_path / "made" / "frames.csv")) == 4
        and len(Crystals.load(tmp_path / "made" / "decoded.safetensors")) == 2
    )
    capsys.readouterr()
    command.append("--replace")
    assert main([*command, "--set", f"paths={a} to missing"]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "'missing'" in message and "starter" in message
    assert main(command) == 2  # starter holds none of the paper's crystals
    assert "mp-10695 and mp-2469 not in starter" in capsys.readouterr().err


def test_figures_and_slider() -> None:
    t = np.linspace(0, 1, 5)
    frames = linear_path(ENDS, t)
    rows = describe(frames, t, Parameters())
    both = pd.concat([rows.assign(method=m) for m in ("nesf", "linear")])
    figure = path_chart(both, title="MgO → NaCl")
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert texts == {"Mg", "O", "Na", "Cl"}
    lengths = figure.axes[1].lines
    assert (
        lengths[0].get_ydata().tolist() == rows["a"].tolist()
        and lengths[1].get_xdata().tolist() == t.tolist()
    )
    assert figure.axes[2].lines[0].get_ydata().tolist() == rows["structure_step"].iloc[1:].tolist()
    assert figure.axes[2].collections[0].get_offsets()[:, 0].tolist() == t.tolist()  # all are valid
    empty = both.assign(n_atoms=0, cell=NO_FORMULA, valid=False, structure_step=math.nan)
    assert len(path_chart(empty).axes) == 4
    structures = [*frames.to_structures(), NOTHING]
    page = views.crystal_slider(structures, [f"<{i}>" for i in range(6)], script="3Dmol.js").data
    again = views.crystal_slider(structures, [str(i) for i in range(6)]).data
    assert (
        page.count("<script>") == 1
        and page.count("<img") == 5
        and 'max="5"' in page
        and "&lt;0&gt;" in page
    )
    # two sliders of a page are two
    assert page.split('id="path-')[1][:8] != again.split('id="path-')[1][:8]


def test_summary_figure_has_a_point_for_each_path_and_method() -> None:
    columns = ("changes", "length_step_to_even", "mean_structure_step", "charge_balanced_percent")
    rows = [
        ("A → B", "nesf", 3.0),
        ("A → B", "linear", 1.0),
        ("C → D", "nesf", 5.0),
        ("C → D", "linear", 2.0),
    ]
    counts = pd.DataFrame(
        [
            {"path": path, "method": method} | {c: value + i for i, c in enumerate(columns)}
            for path, method, value in rows
        ]
    )
    for i, ax in enumerate(path_summary(counts).axes):
        assert {line.get_label(): line.get_xdata().tolist() for line in ax.lines} == {
            "linear": [1.0 + i, 2.0 + i],
            "NeSF": [3.0 + i, 5.0 + i],
        }
