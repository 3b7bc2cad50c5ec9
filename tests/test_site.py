"""The book as a site: formulas, figures and tables of a small book, and when a page is executed
again."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from nesf_studies.reads import Reads, is_current, is_there
from nesf_studies.site import finished, mathml, pruned
from nesf_studies.style import SMALLEST_TEXT, captioned, inline_svg, subplots, subscripts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MgSnO3 (starter-1426-A_tI4_141_a)", "MgSnO₃ (starter-1426-A_tI4_141_a)"),
        ("Ca(OH)2 and YBa2Cu3O7", "Ca(OH)₂ and YBa₂Cu₃O₇"),
        ("Table S1, PC1 and PC2, LCS6Å, ICSG3D", "Table S1, PC1 and PC2, LCS6Å, ICSG3D"),
        ("I4/mmm, Fm-3m, A15, NeSF, mp-22922, PbS", "I4/mmm, Fm-3m, A15, NeSF, mp-22922, PbS"),
    ],
)
def test_only_formulas_get_subscripts(text: str, expected: str) -> None:
    assert subscripts(text) == expected


def test_formulas_become_mathml_without_a_script() -> None:
    formula = mathml(r"\mathbf{a} = \operatorname*{arg\,min}_i \lVert f_p \rVert", display=True)
    assert formula.startswith("<math") and 'display="block"' in formula
    assert "operatorname" not in formula and "<mo>&#x0002A;</mo>" not in formula


def figure() -> Figure:
    drawn, (ax,) = subplots(1, 6, 3)
    ax.plot([0, 1], [0, 1], color="black")
    ax.set_title("CrS2", fontsize=4)
    return drawn


def svg_of(drawn: Figure) -> str:
    buffer = io.StringIO()
    drawn.savefig(buffer, format="svg")
    return buffer.getvalue()


def test_a_figure_takes_the_ink_of_the_theme_and_keeps_its_text() -> None:
    page = inline_svg(svg_of(figure()), "f0", 'what "it" shows')
    svg = BeautifulSoup(page, "html.parser").svg
    assert svg is not None and svg["aria-label"] == 'what "it" shows' and svg["role"] == "img"
    assert "CrS₂" in [text.get_text() for text in svg.find_all("text")]
    assert "#000000" not in page and "currentColor" in page and "#ffffff" not in page
    names = re.findall(r' id="([^"]+)"', page)
    used = set(re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", page))
    assert names and all(name.startswith("f0-") for name in names)
    assert {a or b for a, b in used} <= set(names)


def test_numbers_in_the_text_of_a_figure_keep_their_digits() -> None:
    drawn, axes = subplots(1, 3, 2)
    axes[0].set_title("position 0.016 Å, R² 0.847")
    page = inline_svg(svg_of(drawn), "f0", "")
    assert "position 0.016 Å, R² 0.847" in page
    assert re.search(r' d="[^"]*\d\.\d ', page) and not re.search(r' d="[^"]*\d\.\d\d', page)


def test_no_text_of_a_figure_is_displayed_smaller_than_12_pixels() -> None:
    page = inline_svg(svg_of(figure()), "f0", "")
    sizes = [float(size) for size in re.findall(r"font(?:-size)?: (?:\w+ )*([\d.]+)px", page)]
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', page)[1])  # type: ignore[index]
    least = float(re.search(r"min-width:(\d+)px", page)[1])  # type: ignore[index]
    assert min(sizes) * least / width >= SMALLEST_TEXT - 0.05
    assert min(sizes) > 4  # what was asked for is not drawn


def test_panels_without_room_go_on_in_the_next_row() -> None:
    drawn, axes = subplots(5, 15, 3)
    assert len(axes) == 5 and len(drawn.axes) == 5
    width, height = drawn.get_size_inches()
    assert width <= 8.1 and height == pytest.approx(6)


def test_caption_is_read_out_and_the_table_lies_in_a_fold() -> None:
    shown = captioned(
        figure(), "a < b", table=pd.DataFrame({"x": [1.5]}), name="fig-x", fold="as a table"
    ).data
    assert shown is not None
    page = BeautifulSoup(shown, "html.parser")
    assert page.svg is not None and page.svg["aria-label"] == "a < b"
    (fold,) = page.find_all("details")
    assert fold.summary.get_text() == "as a table" and "1.5" in fold.table.get_text()


def test_a_finished_page_loads_no_icons_by_script_and_has_no_empty_headers(tmp_path: Path) -> None:
    text = finished(
        '<html><head><script src="_static/sphinx-thebe.js"></script><script>const THEBE_JS_URL = "x"</script></head><body>'
        f"<article>{pd.DataFrame({'a': [1]}, index=pd.Index(['CrS2'], name='i')).to_html()}<code>CrS2</code></article></body></html>",
        tmp_path,
    )
    page = BeautifulSoup(text, "html.parser")
    assert not page.find_all("script")
    assert all(cell.get_text(strip=True) for cell in page.find_all("th"))
    assert "CrS₂" in page.table.get_text() and page.code.get_text() == "CrS2"  # type: ignore[union-attr]


def test_powers_of_ten_are_text_of_one_size() -> None:
    drawn, (ax,) = subplots(1, 6, 3)
    ax.set_yscale("log")
    ax.set_ylim(1e-3, 1e2)
    ax.set_title("grows as $n^{1.5}$, not $n^{2}$")
    page = inline_svg(svg_of(drawn), "f0", "")
    assert "10⁻³</tspan></text>" in page and "10²</tspan></text>" in page
    assert "grows as n^1.5, not n²</tspan>" in page
    sizes = {float(x) for x in re.findall(r"font(?:-size)?: (?:\w+ )*([\d.]+)px", page)}
    assert min(sizes) > 9


def test_styles_of_what_no_page_names_are_left_out() -> None:
    css = (
        '@charset "x";/* a } */.a,.b:not(.x) .c,[data-k="1,2"]{color:red}'
        "@media (min-width:1px){.x{top:0}.a{top:1px}}@font-face{src:url(a)}.x .a{top:0}p{top:0}"
    )
    assert pruned(css, {"a", "b", "c"}).split("\n") == [
        '@charset "x";',
        '.a,.b:not(.x) .c,[data-k="1,2"]{color:red}',
        "@media (min-width:1px){.a{top:1px}}",
        "@font-face{src:url(a)}",
        "p{top:0}",
    ]


def test_what_is_read_is_seen(tmp_path: Path) -> None:
    run = tmp_path / "results" / "run"
    run.mkdir(parents=True)
    (run / "metrics.json").write_text("1")
    (run / "model.safetensors").write_text("weights")
    (tmp_path / "requirements.lock").write_text("torch")
    (tmp_path / "other.json").write_text("not read")
    reads = Reads(tmp_path)
    (run / "metrics.json").read_text()
    assert set(reads.hashes()) == {
        "requirements.lock",
        "results/run",
        "results/run/metrics.json",
        "results/run/model.safetensors",
    }


def test_what_was_asked_for_in_vain_is_seen_when_it_appears(tmp_path: Path) -> None:
    (tmp_path / "requirements.lock").write_text("torch")
    analyses, read = tmp_path / "run" / "analysis", tmp_path / "reads.json"
    analyses.mkdir(parents=True)
    reads = Reads(tmp_path)
    assert not is_there(analyses / "symmetry" / "analysis.json")
    read.write_text(json.dumps({"code": "a", "read": reads.hashes()}))
    assert is_current(read, "a", tmp_path)
    (analyses / "symmetry").mkdir()
    assert not is_current(read, "a", tmp_path)


CONFIG = """
extensions = ["myst_nb", "nesf_studies.site"]
html_math_renderer, numfig, nb_execution_mode = "mathml", True, "cache"
nb_execution_cache_path, nesf_root, nb_execution_raise_on_error = {cache!r}, {root!r}, True
myst_enable_extensions = ["dollarmath"]
"""
PAGE = [
    new_markdown_cell("# Page\n\nA formula $x_1$ and {numref}`fig-two`.\n\n$$y = 2$$ (eq-y)"),
    new_code_cell(
        "from nesf_studies.reads import watch\nfrom nesf_studies.style import captioned, subplots, use_svg\n"
        "watch(); use_svg()"
    ),
    new_code_cell(
        "%matplotlib inline\nfrom pathlib import Path\n"
        "Path('../executed').open('a').write('.')\n"
        "print(Path('results/run/metrics.json').read_text())\nfigure, axes = subplots(1, 3, 2)\nfigure"
    ),
    new_markdown_cell("*A figure of CrS2.*"),
    new_code_cell("captioned(figure, 'The second.', name='fig-two')"),
    new_code_cell(
        "import pandas as pd\nfrom nesf_studies.links import GIVEN, sourced\n"
        "table = pd.DataFrame({'n': [1]})\nfor options in ({'caption': 'A table.'}, {'caption': 'In a fold.', 'folded': True}, {}):\n"
        "    display(sourced(table, GIVEN, **options))"
    ),
    new_markdown_cell("*Another table.*"),
]


OTHER = """---
file_format: mystnb
kernelspec: {name: python3}
orphan: true
---
# Other

```{code-cell} ipython3
from pathlib import Path
from nesf_studies.reads import watch
watch()
```

```{code-cell} ipython3
Path("executed-other").open("a").write(".")
print(Path("RESULT").read_text())
```
"""


def build(book: Path, name: str = "index") -> BeautifulSoup:
    out = book.parent / "out"
    subprocess.run([sys.executable, "-m", "sphinx", "-q", "-W", str(book), str(out)], check=True)
    return BeautifulSoup((out / f"{name}.html").read_text(), "html.parser")


def test_a_small_book(tmp_path: Path) -> None:
    """Figures are numbered and captioned, and a changed result changes the page."""
    book = tmp_path / "book"
    result = book / "results" / "run" / "metrics.json"
    result.parent.mkdir(parents=True)
    result.write_text("first result")
    (book / "conf.py").write_text(CONFIG.format(cache=str(tmp_path / "cache"), root=str(book)))
    nbformat.write(new_notebook(cells=PAGE), book / "index.ipynb")
    text = OTHER.replace("executed-other", str(tmp_path / "executed-other"))
    (book / "other.md").write_text(text.replace("RESULT", str(result)))

    page = build(book)
    assert "first result" in page.get_text()
    assert len(page.select("math")) == 2 and not page.select("script[src*=mathjax]")
    captions = [caption.get_text().strip() for caption in page.select("figcaption")]
    assert ["A figure of CrS₂." in captions[0], "The second." in captions[1]] == [True, True]
    starts = ("Fig. 1", "Fig. 2", "Table 1 A table.", "Table 2 Another table.")
    for caption, start in zip(captions, starts, strict=True):
        assert " ".join(caption.split()).startswith(start)
    assert len(page.select("figure table")) == 2 and len(page.select("table")) == 3
    labels = [str(svg["aria-label"]) for svg in page.select("figure svg")]
    assert "A figure of CrS₂." in labels[0] and labels[1] == "The second."
    (reference,) = page.select("a[href='#fig-two'] .std-numref")
    assert reference.get_text() == "Fig. 2"
    assert not page.select("img[src$='.svg']")

    executed = tmp_path / "executed"  # a point each time
    assert executed.read_text() == "."
    assert "first result" in build(book).get_text()
    assert executed.read_text() == "."
    result.write_text("second result")
    assert "second result" in build(book).get_text()
    assert executed.read_text() == ".."

    other = build(book, "other")  # the page in Markdown
    assert "second result" in other.get_text()
    result.write_text("third result")
    assert "third result" in build(book, "other").get_text()
    counted = tmp_path / "executed-other"
    assert counted.read_text() == "..."
    build(book)
    assert counted.read_text() == "..." and executed.read_text() == "..."


def test_a_page_whose_reads_are_unknown_or_of_other_code_is_executed(tmp_path: Path) -> None:
    file = tmp_path / "reads.json"
    assert not is_current(file, "a", tmp_path)
    file.write_text('{"code": "a", "read": {}}')
    assert is_current(file, "a", tmp_path) and not is_current(file, "b", tmp_path)
    file.write_text('{"code": "a", "read": {"gone.json": "0"}}')
    assert not is_current(file, "a", tmp_path)
