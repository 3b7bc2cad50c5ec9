"""Parts of the book that are made by code: headline, layers, samplings, commands, status, session."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import numpy as np
import pytest
from torch import nn

from nesf import data
from nesf.config import OFFICIAL, PAPER, PLUS, Config
from nesf.crystals import Crystals
from nesf.data.dataset import bounding_box
from nesf.files import read_json
from nesf.model import Autoencoder
from nesf_cli.main import parser
from nesf_cli.reference import commands, leaves
from nesf_studies import landing
from nesf_studies.architecture import layer_table, network_drawing, query_points
from nesf_studies.book import code_of, does, repository
from nesf_studies.fields import best_for_slice, true_field
from nesf_studies.page import RESULTS
from nesf_studies.particles import Steps

ROOT = Path(__file__).parents[1]


def recorder() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "record_first_steps", ROOT / "scripts" / "record_first_steps.py"
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_newcomers_session_still_prints_what_is_recorded(tmp_path: Path) -> None:
    module = recorder()
    recorded = module.session(module.TARGET.read_text(encoding="utf-8"))
    assert len(recorded) > 5 and sum("nesf reconstruct" in c for c, _ in recorded) >= 2
    again = module.repeated([command for command, _ in recorded], tmp_path)
    for (command, before), (_, now) in zip(recorded, again, strict=True):
        # the last digits of a field differ between processors
        loose = [re.sub(r"\d+\.\d+", "#", text).rstrip("\n") for text in (before, now)]
        assert loose[0] == loose[1], command


@pytest.mark.parametrize("config", [PAPER, OFFICIAL, PLUS], ids=lambda c: c.preset)
def test_layers_add_up_to_the_model_and_follow_each_other(config: Config) -> None:
    model = Autoencoder(config.model)
    table = layer_table(model)
    assert table["parameters"].sum() == model.n_parameters
    assert len(table) >= sum(isinstance(m, nn.Linear) for m in model.modules()) - 9
    for _, part in table.groupby(level="part"):
        extra = part["in"].to_numpy()[1:] - part["out"].to_numpy()[:-1]
        again = part["reads"].str.contains("and p").to_numpy()[1:]
        assert (extra == 3 * again).all()


def test_layers_are_those_of_the_paper() -> None:
    table = layer_table(Autoencoder(PAPER.model))
    assert list(table.loc["position field", "in"]) == [195, 259, 131, 131, 131, 131, 131, 131, 128]
    assert list(table.loc["species field", "out"]) == [256, 128, 80]
    whole = Autoencoder(replace(PAPER.model, query_in_last_layer=True))
    assert layer_table(whole).loc[("position field", 9), "in"] == 131  # as Note 5 prints it
    texts = [text.get_text() for text in network_drawing(PAPER.model).axes[0].texts]
    assert "position field\nMLP 256, 7 × 128" in texts and "MLP 64, 128, 128" in texts


@pytest.fixture
def example() -> Crystals:
    test = data.load("starter").split("test")
    return test.select([best_for_slice(test)])


def test_samplings_have_as_many_points_as_note_6_says(example: Crystals) -> None:
    box = bounding_box(data.load("starter").split("train"))
    n = len(example.positions)
    paper, official = (query_points(example, box, c.sampling, 0) for c in (PAPER, OFFICIAL))
    assert len(paper["position, local"]) == 125 * n and len(paper["species, local"]) == 216 * n
    assert len(official["position, local"]) == 64 * n
    still = replace(PAPER.sampling, local_sigma=0.0)
    grid = query_points(example, box, still, 0)["position, local"].reshape(n, 125, 3)
    np.testing.assert_allclose(grid.mean(1), example.positions, atol=1e-5)
    with pytest.raises(ValueError, match="n_position"):
        query_points(example, box, replace(PAPER.sampling, n_position=5), 0)


def test_the_headline_is_read_from_the_runs_it_links_to() -> None:
    text = landing.headline()
    links = re.findall(r'href="([^"]+)">([^<]+)<', text)
    assert [page for page, _ in links] == [
        f"runs/lcs6/nesf/{preset}.html" for preset in ("cpu", "cpu", "plus")
    ]
    runs = [RESULTS / f"lcs6/nesf/cpu/seed-{seed}/metrics.json" for seed in range(3)]
    values = [read_json(run)["test"]["species_error_actual_percent"] for run in runs]
    assert links[0][1] == f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"
    assert "14.78 ± 0.81" in text and "not reported by the paper" in text
    minutes = max(
        read_json(run.with_name("run.json"))["wall_time_seconds"]["train"] / 60 for run in runs
    )
    assert f"to {minutes:.0f}</a> minutes" in landing.cost()


def test_the_film_shows_particles_that_end_on_atoms(example: Crystals) -> None:
    atoms = example.positions
    start = np.array([[x, y, atoms[0, 2]] for x in (0.2, 1.0, 2.0) for y in (0.3, 1.1, 1.9)])
    cluster = np.linalg.norm(start[:, None] - atoms, axis=-1).argmin(1)
    n = len(atoms)
    steps = Steps(
        {m: start if m == 0 else atoms[cluster] for m in landing.FRAMES},
        np.zeros(9), np.ones(9, bool), cluster, np.full(n, 20), np.ones(n, bool), atoms,
        np.zeros((n, 1, 3)), np.zeros((n, 1)), example.species,
    )  # fmt: skip
    film = ElementTree.fromstring(landing.field_film(example, steps, true_field(example)))
    space = "{http://www.w3.org/2000/svg}"
    moved = [c for c in film.iter(f"{space}circle") if c.find(f"{space}animate") is not None]
    assert moved
    ends = {(c.get("cx"), c.get("cy")) for c in moved}
    assert 1 <= len(ends) <= n


def test_every_command_and_option_stands_on_the_page() -> None:
    text = commands()
    for name, known in leaves(parser()):
        assert f"### {name}\n" in text
        options = [action.option_strings[-1] for action in known._actions if action.option_strings]
        section = text.split(f"### {name}\n")[1].split("\n### ")[0]
        for option in options:
            assert option in section or option in ("--help", "--quiet"), (name, option)


def test_status_tells_live_from_recorded() -> None:
    assert does("import x\nx.read(1)") == ("–", "–")
    assert does("%matplotlib inline\nruns.train(run)\nread(recorded_run('lcs6'))") == (
        "trains a model",
        "a trained model",
    )
    # each page with code does or reads something
    for path in (ROOT / "notebooks").glob("*.py"):
        assert does(path.read_text(encoding="utf-8")) != ("–", "–"), path
    assert does(code_of(ROOT / "book", "intro")) == ("–", "runs")
    assert does(code_of(ROOT / "book", "glossary")) == ("–", "–")


def test_equations_have_one_number_in_the_whole_book_and_parts_are_generated(
    tmp_path: Path,
) -> None:
    book = tmp_path / "book"
    book.mkdir()
    (book / "conf.py").write_text(
        'extensions = ["myst_nb", "nesf_studies.site", "nesf_studies.book"]\n'
        'html_math_renderer, numfig, myst_enable_extensions = "mathml", True, ["dollarmath"]\n'
        f"html_theme, nesf_root = 'sphinx_book_theme', {str(book)!r}\n"
    )
    (book / "index.md").write_text(
        "# Top\n\n```{toctree}\nb\na\n```\n\n```{generated} nesf_studies.book:built\n```\n\n"
        "```{book-status}\n```\n"
    )
    (book / "a.md").write_text("# A\n\n$$y = 1$$ (second)\n\nSee {eq}`second`, {eq}`first`.\n")
    (book / "b.md").write_text("# B\n\n$$x = 1$$ (first)\n")
    out = tmp_path / "out"
    subprocess.run([sys.executable, "-m", "sphinx", "-q", "-W", str(book), str(out)], check=True)
    a, b, top = ((out / f"{name}.html").read_text() for name in ("a", "b", "index"))
    shown = [re.findall(r'class="eqno">\((\d+)\)', page) for page in (b, a)]
    assert shown == [["1"], ["2"]]
    assert re.findall(r'href="[^"]*#equation-\w+">\((\d+)\)', a) == ["2", "1"]
    assert "processor only. nesf " in top
    assert re.findall(r'<th scope="row"><a href="(\w+)\.html">', top) == ["index", "b", "a"]


@pytest.mark.parametrize(
    ("origin", "address"),
    [
        ("https://github.com/some-body/nesf.git", "https://github.com/some-body/nesf"),
        ("git@github.com:some-body/nesf.fork.git", "https://github.com/some-body/nesf.fork"),
        ("https://github.com/some-body/nesf", "https://github.com/some-body/nesf"),
        ("/home/me/nesf", ""),
        ("", ""),
    ],
)
def test_a_clone_from_github_links_to_it(tmp_path: Path, origin: str, address: str) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    if origin:
        add = ["git", "-C", str(tmp_path), "remote", "add", "origin", origin]
        subprocess.run(add, check=True)
    assert repository(tmp_path) == address
