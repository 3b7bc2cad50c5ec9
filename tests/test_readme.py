"""The README says what is true: its tables are those of the recorded runs, its commands are ones
that the program knows, its example runs."""

import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
import papermill
import pytest
from pymatgen.core import Structure

from nesf.data import load
from nesf.records import all_runs
from nesf_cli.main import parser
from nesf_studies.page import TABLE1
from nesf_studies.tables import judged

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_tables_are_made_from_the_recorded_runs() -> None:
    spec = importlib.util.spec_from_file_location(
        "update_readme", ROOT / "scripts" / "update_readme.py"
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.updated(README, all_runs(ROOT / "results")) == README, (
        "run: python scripts/update_readme.py"
    )


def test_every_number_of_the_table_leads_to_its_runs_or_is_the_papers() -> None:
    rows = [line for line in README.splitlines() if line.startswith("| ") and "| ours" in line]
    assert len(rows) >= 3
    targets = dict(re.findall(r"^\[([^\]]+)\]: (results/\S+)$", README, re.MULTILINE))
    for row in rows:
        _, label, *cells = (cell.strip() for cell in row.strip("|").split("|"))
        for cell in cells:
            found = re.fullmatch(r"\[[\d.]+(?: ± [\d.]+)?\]\[(.+)\]|–", cell)
            assert found, cell
            if found[1]:
                folder = ROOT / targets[found[1]]
                assert label.split("preset ")[1].split()[0] == folder.name
                assert list(folder.glob("*/metrics.json")), folder
    papers = [line for line in README.splitlines() if line.startswith("| ") and "| paper |" in line]
    for row in papers:
        for cell in row.strip("|").split("|")[2:]:
            assert re.fullmatch(r"\*[\d.]+(?: ± [\d.]+)?\*|–", cell.strip()), cell


def test_what_the_text_below_the_table_says_is_the_verdict() -> None:
    """The verdicts in words are those of the intervals."""
    rows = judged(all_runs(ROOT / "results")).query("preset == 'cpu'")
    verdicts = rows.set_index(["dataset", "metric"])["verdict"]

    def of(dataset: str) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for metric, verdict in verdicts[dataset].items():
            found.setdefault(verdict, set()).add(metric)
        return found

    atoms, actual, detected, species, species_detected, *lattice = TABLE1
    assert of("lcs6") == {
        "better": {atoms, detected, species, species_detected},
        "worse": {actual},
        "not told apart": {*lattice},
    }
    assert of("ybco") == {
        "better": {species_detected, lattice[1]},
        "not told apart": {atoms, actual, detected, species, lattice[0]},
    }
    assert of("icsg3d-recovered") == {
        "better": {species, species_detected},
        "worse": {atoms},
        "not told apart": {actual, detected, *lattice},
    }
    for preset in ("cpu", "cpu-consistent"):  # as the page Every crystal back says too
        runs = [r for r in all_runs(ROOT / "results/ybco/nesf") if r.run["preset"] == preset]
        rows = pd.concat([r.materials().query("split == 'test'") for r in runs], ignore_index=True)
        worst = rows.loc[rows[actual].idxmax()]
        assert worst["id"] == "mvc-1357" and not worst.get("certified", False)
        assert worst[actual] > 4 * (rows[actual].sum() - worst[actual]), preset


@pytest.mark.parametrize("name", ["README.md", "book/use.md"])
def test_commands_exist(name: str) -> None:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    commands = [line.split("#")[0].strip() for line in lines if line.startswith("nesf ")]
    assert commands
    for command in commands:
        assert parser().parse_args(shlex.split(command.split(" > ")[0])[1:]).call


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def python_example(text: str) -> str:
    (example,) = re.findall(r"```python\n(import nesf\n.*?)```", text, re.DOTALL)
    return example


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = python_example(README)
    assert example.count("import") == 1 and len(example.splitlines()) == 5
    assert example == python_example((ROOT / "book" / "use.md").read_text(encoding="utf-8"))
    structure = load("starter").split("test").select([0]).to_structures()[0]
    monkeypatch.chdir(tmp_path)
    structure.to(filename="my.cif")
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["z"].shape == (1, 192)
    (decoded,) = names["decoded"]
    assert (
        isinstance(decoded, Structure)
        and decoded.composition.reduced_formula == structure.composition.reduced_formula
    )


def test_notebooks_and_their_parameters_exist() -> None:
    text = (ROOT / "book" / "use.md").read_text(encoding="utf-8")
    calls = re.findall(r"^papermill (notebooks/\S+) (.*)$", text, re.MULTILINE)
    assert calls
    for path, arguments in calls:
        assert set(re.findall(r"-p (\w+) ", arguments)) <= set(
            papermill.inspect_notebook(str(ROOT / path))
        ), path
