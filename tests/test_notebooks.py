"""The notebooks: pairs in step, no outputs committed, parameters that are documented and guarded,
no path of some machine. nbval executes them."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill
import pytest
import torch
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from nesf_io.errors import ConfigError, DataError
from nesf_studies.page import check_parameters, open_dataset, open_model, recorded_run

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
WITH_DATASET = [
    p
    for p in NOTEBOOKS
    if p.stem
    not in (
        *("benchmark", "cluster", "consistent", "design", "differences", "errors"),
        *("robustness", "sampling", "search", "speed", "table1"),
    )
]  # those pages show what is recorded
by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def cells_of(notebook: nbformat.NotebookNode) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(c.cell_type, c.source, tuple(c.metadata.get("tags", []))) for c in notebook.cells]


def run_guard(path: Path, **given: Any) -> None:
    """Execute the cells up to the one that checks the parameters, as papermill would parametrise
    them."""
    notebook = parameterize_notebook(load_notebook_node(str(path)), given)
    namespace: dict[str, Any] = {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, str(path), "exec", dont_inherit=True), namespace)
            if "check_parameters(globals()" in cell.source:
                return
    raise AssertionError("no cell checks the parameters")


def test_the_pages_exist() -> None:
    paper = {
        "data",
        "fields",
        "train",
        "reconstruction",
        "table1",
        "examples",
        "errors",
        "icsg3d",
        "interpolation",
        "latent_space",
    }
    assert paper | {
        "sensitivity",
        "properties",
        "search",
        "speed",
        "differences",
        "consistent",
        "benchmark",
        "sampling",
        "design",
        "cluster",
        "robustness",
    } <= {p.stem for p in NOTEBOOKS}
    assert {p.stem for p in NOTEBOOKS} == {p.stem for p in NOTEBOOKS[0].parent.glob("*.py")}


@by_name
def test_pair_says_the_same_and_holds_no_output(path: Path) -> None:
    notebook = nbformat.read(path, 4)
    assert cells_of(notebook) == cells_of(jupytext.read(path.with_suffix(".py"))), (
        "run `make format`, which brings both in step"
    )
    assert not any(c.get("outputs") or c.get("execution_count") for c in notebook.cells)
    assert "jupytext" not in notebook.metadata


@by_name
def test_parameters_are_documented_with_type_and_default(path: Path) -> None:
    parameters = papermill.inspect_notebook(str(path))
    if path in WITH_DATASET:
        assert parameters["dataset"]["default"] == '"starter"'
    for parameter in parameters.values():
        assert (
            parameter["inferred_type_name"] in {"str", "int", "float", "bool"} and parameter["help"]
        ), parameter


@pytest.mark.parametrize("path", WITH_DATASET, ids=lambda p: p.stem)
def test_a_wrong_name_or_value_is_refused(path: Path) -> None:
    run_guard(path)
    run_guard(path, dataset="lcs6", fold=3)
    with pytest.raises(ConfigError, match=r"'datset' is not a parameter .* dataset, fold"):
        run_guard(path, datset="lcs6")
    with pytest.raises(ConfigError, match="fold = 'two': a whole number"):
        run_guard(path, fold="two")
    with pytest.raises(ConfigError, match="dataset = 6: text"):
        run_guard(path, dataset=6)


def test_the_page_on_speed_refuses_what_it_does_not_know() -> None:
    path = NOTEBOOKS[0].with_name("speed.ipynb")
    run_guard(path, benchmark="cuda-lcs6")
    with pytest.raises(ConfigError, match=r"'dataset' is not a parameter .* benchmark"):
        run_guard(path, dataset="lcs6")


def test_pages_open_what_their_parameters_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    crystals = open_dataset("starter")
    model, folder = open_model("", crystals, device="cpu")
    printed = capsys.readouterr().out
    assert (
        folder == recorded_run("starter")
        and "dataset starter, hash" in printed
        and "model trained on starter, " in printed
    )
    assert "careful" not in printed and model.encode(crystals.split("val").select([0])).shape == (
        1,
        192,
    )
    open_model(str(recorded_run("lcs6")), crystals, device="cpu")
    assert (
        "model trained on lcs6, 1200 epochs\ncareful: not on this data" in capsys.readouterr().out
    )
    with pytest.raises(DataError, match="nowhere"):
        open_dataset(str(tmp_path / "nowhere"))


def test_choices_and_kinds_of_values() -> None:
    def given(**values: Any) -> dict[str, Any]:
        return {
            "__annotations__": {"preset": str, "minutes": float, "compile": bool},
            "preset": "cpu",
            "minutes": 1.0,
            "compile": False,
            **values,
        }

    check_parameters(given(minutes=2), preset=("cpu", "paper"))  # a whole number is a number
    with pytest.raises(ConfigError, match="preset = 'gpu': choose from cpu, paper"):
        check_parameters(given(preset="gpu"), preset=("cpu", "paper"))
    with pytest.raises(ConfigError, match="minutes = True: a number"):
        check_parameters(given(minutes=True))
    with pytest.raises(ConfigError, match="compile = 1: True or False"):
        check_parameters(given(compile=1))
    again = given()
    check_parameters(again)
    again["crystals"] = "a variable of the notebook, when its cells are run a second time by hand"
    check_parameters(again)


def strings_in(code: str) -> list[str]:
    """The strings of a code cell; in an f-string `x` stands for each expression."""
    tree = ast.parse("\n".join(line for line in code.splitlines() if not line.startswith("%")))
    inner = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    strings = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            strings.append(
                "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "x"
                    for part in node.values
                )
            )
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner
        ):
            strings.append(node.value)
    return strings


@pytest.mark.parametrize(
    ("cores", "given", "threads"), [(2, None, 1), (4, None, 1), (8, None, 3), (2, "3", 3)]
)
def test_notebooks_use_one_thread_on_a_small_machine(
    cores: int, given: str | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    # restored afterwards, whatever the call sets
    monkeypatch.setenv("OMP_NUM_THREADS", given or "")
    if given is None:
        monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    torch.set_num_threads(3)
    try:
        check_parameters({"__annotations__": {}})
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


# An absolute path, or one that leaves the folder; not the slash of a unit, a link, a closing tag or
# a path's middle.
OUTSIDE = re.compile(r"(?<![\w.)\]}<>:/-])(?:/|~/)[A-Za-z_]|\b[A-Za-z]:[\\/](?!/)|\.\./")


@pytest.mark.parametrize(
    "path",
    [
        "/data/x",
        "/mnt/lcs6.csv",
        "see /home/a",
        "--data=/scratch/x",
        "~/nesf",
        "C:\\data",
        "D:/data",
        "../data",
        "a/../b",
    ],
)
def test_outside_paths_are_recognised(path: str) -> None:
    assert OUTSIDE.search(path)


@pytest.mark.parametrize(
    "text",
    [
        "results/lcs6",
        "x/run.json",
        "eV/atom",
        "1 / Å",
        "https://doi.org/10.1038/x",
        "<b>a</b>",
        "<br/>",
        "./out",
        "x: y",
    ],
)
def test_other_slashes_are_no_outside_paths(text: str) -> None:
    assert not OUTSIDE.search(text)


@by_name
def test_no_path_leads_outside_of_the_repository(path: Path) -> None:
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "code":
            assert not [text for text in strings_in(cell.source) if OUTSIDE.search(text)], (
                cell.source
            )
            assert 'read_csv("' not in cell.source
