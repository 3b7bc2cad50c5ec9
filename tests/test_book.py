"""The book: what its sources name exists, its scripts are the vendored ones, and neither sources
nor built pages ask the network."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import nbformat
import pytest
import yaml

from nesf.records import all_runs
from nesf_studies.claims import SIGNS, as_html, claims
from nesf_studies.links import numbers_without_source

ROOT = Path(__file__).parents[1]


def pages() -> list[str]:
    """Pages of the table of contents, in their order."""
    contents = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())
    chapters = [chapter["file"] for part in contents["parts"] for chapter in part["chapters"]]
    return [contents["root"], *chapters]


def test_every_page_of_the_contents_exists() -> None:
    for page in pages():
        assert any((ROOT / "book" / f"{page}{suffix}").exists() for suffix in (".md", ".ipynb")), (
            page
        )
    sources = [*(ROOT / "book").glob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]
    assert {path.stem for path in sources} == {page.rpartition("/")[2] for page in pages()}
    assert len(set(pages())) == len(pages())


def test_every_reference_is_cited_and_every_citation_is_a_reference() -> None:
    entries = re.findall(r"^@\w+\{(\w+),", (ROOT / "book/references.bib").read_text(), re.MULTILINE)
    assert len(entries) == len(set(entries)) >= 20
    sources = [*(ROOT / "book").glob("*.md"), *(ROOT / "notebooks").glob("*.py")]
    text = "\n".join(path.read_text() for path in sources)
    cited = {
        key.strip() for keys in re.findall(r"\{cite\}`([^`]+)`", text) for key in keys.split(",")
    }
    assert cited == set(entries)


def test_plumbing_is_folded() -> None:
    for page in (ROOT / "notebooks").glob("*.ipynb"):
        for cell in nbformat.read(page, 4).cells:
            tags = cell.metadata.get("tags", [])
            assert cell.cell_type != "code" or {"hide-input", "remove-cell"} & set(tags), (
                cell.source
            )


def test_pages_are_in_plain_quotes() -> None:
    mine = [
        *((ROOT / "book").glob("*.md")),
        *(
            ROOT / f"notebooks/{n}.py"
            for n in (
                "fields",
                "architecture",
                "data",
                "train",
                "reconstruction",
                "interpolation",
                "latent_space",
                "properties",
                "search",
            )
        ),
    ]
    for path in mine:
        assert not re.search("[«»]|For whoever|lines that are it", path.read_text()), path


def test_book_links_to_the_files_at_the_top() -> None:
    for name in ("_config.yml", "_toc.yml", "notebooks"):
        link = ROOT / "book" / name
        assert (
            link.is_symlink()
            and not os.path.isabs(os.readlink(link))
            and link.resolve() == ROOT / name
        )


def test_every_claim_has_a_verdict_and_a_page_of_the_book() -> None:
    rows = claims(all_runs(ROOT / "results"))
    assert len(rows) > 12 and {row.verdict for row in rows} <= set(SIGNS)
    shown = as_html(rows).data
    for row in rows:
        assert (ROOT / "notebooks" / f"{row.page}.ipynb").exists(), row.page
        assert f'href="notebooks/{row.page}.html"' in shown and row.found
    (lattice,) = (row for row in rows if "all the evaluation metrics" in row.says)
    assert lattice.verdict == "differs in part" and lattice.found.count("lattice length") == 2


def test_a_failing_cell_fails_the_build() -> None:
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    assert config["sphinx"]["config"]["nb_execution_raise_on_error"] is True
    assert config["only_build_toc_files"] is True


def test_vendored_scripts_are_the_recorded_ones() -> None:
    folder = ROOT / "book" / "_extra" / "vendor"
    recorded = dict(
        re.findall(
            r"^(\S+\.js) .* ([0-9a-f]{64})$", (folder / "README.txt").read_text(), re.MULTILINE
        )
    )
    assert set(recorded) == {p.name for p in folder.glob("*.js")}
    for name, digest in recorded.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name


def test_sources_load_nothing_from_the_network() -> None:
    loaded = re.compile(r"<(?:script|link|img|iframe)[^>]+https?://", re.IGNORECASE)
    sources = [
        *(ROOT / "book").glob("*.md"),
        *(ROOT / "book" / "_static").iterdir(),
        *(ROOT / "notebooks").glob("*.py"),
    ]
    sources += [
        path
        for package in ("nesf", "nesf_studies")
        for kind in ("*.py", "*.js")
        for path in (ROOT / package).rglob(kind)
    ]
    assert ROOT / "nesf_studies" / "crystals.js" in sources
    for path in sources:
        assert not loaded.search(path.read_text()), path
    config = yaml.safe_load((ROOT / "_config.yml").read_text())["sphinx"]["config"]
    assert config["html_math_renderer"] == "mathml" and config["nb_ipywidgets_js"] == {}


def test_built_pages_load_nothing_from_the_network(request: pytest.FixtureRequest) -> None:
    html = ROOT / "book" / "_build" / "html"
    if not request.config.getoption("--built-book"):
        pytest.skip("needs a built book: make check-book")
    for page_name in pages():
        assert (html / f"{page_name}.html").exists(), page_name
    for page in html.rglob("*.html"):
        assert not re.search(
            r"<(?:script|img|iframe)[^>]+src=\"https?://|<link[^>]+href=\"https?://",
            page.read_text(),
        ), page


# Quantities that prose may hold: settings, rules, definitions, sizes of the datasets and what the
# paper prints. A measured one is made by code, from its record, with a link (`links.prose`).
TYPED = {
    "intervals and quantiles": "5 %, 10 %, 68 %, 90 %, 95 %, 99 %, 100 %",
    "settings": "2 %, 0.0001 Å, 0.02 Å, 0.05 Å, 0.1 Å, 0.3 Å, 0.5 Å, 0.6 Å, 0.9 Å, 1 Å, 1.2 Å, 10°, "
    "0.01 Å, 40 epochs, 50 epochs, 80 epochs, 600 epochs, 1000 epochs, 1200 epochs, 64 times",
    "limits": "10 s, 300 s, 1 GiB, 4 GiB, 1000 atoms",
    "tests": "0.001 Å, 3 MB",
    "data": "6 Å, 70 %, 5 atoms, 13 atoms, 24 atoms, 28 atoms, 100 crystals, 286 crystals, "
    "301 crystals, 6,005 crystals, 10,000 crystals, 1.5 %",
    "paper": "3200 epochs, 1 hour, 9 hours, 11 hours, 0.76 million, 34 million",
    "layers": "0.77 million, 31 million, 95 times",
    "literature": "5.549 Å, 5.936 Å, 90°, 12 Å, 0.06 Å",
}


def test_prose_types_no_measured_quantity() -> None:
    allowed = {quantity for kind in TYPED.values() for quantity in kind.split(", ")}
    units = (
        "%|Å|°|s|ms|eV|seconds?|minutes?|hours?|days?|MB|GB|GiB|times|million|crystals|epochs|atoms"
    )
    quantity = re.compile(rf"(?<![\w.,])(\d[\d,]*(?:\.\d+)?)([ \u00a0\u202f]?)({units})(?!\w)")
    left_out = r"```.*?```|<!-- results.*?end of results -->|\$\$.*?\$\$|`[^`]*`|\$[^$\n]*\$|\[[^\]]*\]\([^)]*\)"
    found: dict[str, str] = {}
    sources = {
        path: path.read_text() for path in [ROOT / "README.md", *(ROOT / "book").glob("*.md")]
    }
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        sources[path] = "\n\n".join(c.source for c in cells if c.cell_type == "markdown")
    for path, text in sources.items():
        for number, space, unit in quantity.findall(re.sub(left_out, "", text, flags=re.DOTALL)):
            found[f"{number}{' ' if space else ''}{unit}"] = path.name
    assert {q: page for q, page in found.items() if q not in allowed} == {}
    assert allowed <= set(found), "no longer in the prose"
    models = list((ROOT / "results").glob("*/nesf/cpu/*/model.safetensors"))
    assert models and {round(path.stat().st_size / 1e6) for path in models} == {3}


def test_built_numbers_say_where_they_are_from(request: pytest.FixtureRequest) -> None:
    html = ROOT / "book" / "_build" / "html"
    if not request.config.getoption("--built-book"):
        pytest.skip("needs a built book: make check-book")
    for name in pages():
        text = (html / f"{name}.html").read_text()
        assert numbers_without_source(text) == [], name
        least = 20 if name in ("notebooks/table1", "claims") else 0
        assert text.count('class="run"') >= least, name
        targets = set(re.findall(r'<a class="run" href="([^"]+)', text))
        for target in targets:
            page, _, anchor = target.partition("#")
            leads_to = (html / name).parent / page
            assert leads_to.exists(), f"{name}: {target}"
            if anchor.startswith("analysis-") or "/" not in page.partition("runs/")[2]:
                assert f'id="{anchor}"' in leads_to.read_text(), f"{name}: {target}"
