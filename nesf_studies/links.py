"""Links from a number to the page of the runs that it comes from (`nesf_studies.run_pages`).

A table or a sentence that code writes goes through `sourced` or `prose`: each number in it leads to
its runs, or says that this page computed it, that the paper prints it, or that it is given.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from html.parser import HTMLParser
from os.path import commonpath
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from IPython.display import HTML, Markdown
from pandas.io.formats.style import Styler

from nesf_studies.page import RESULTS

RUNS = "runs"  # folder of the pages in the built book
RECORDS = (
    "benchmarks",
    "pages",
    "robustness",
    "workflow",
)  # folders of `results` that hold no runs
LONG = 40  # characters of a cell; longer text wraps and is set to the left
UP = "../"  # from a page under notebooks/ to the top of the book


class Mark(NamedTuple):
    """A source that is no recorded run: the class of its span, and what is said of it."""

    kind: str
    title: str


HERE = Mark("here", "computed when this page was built")
GIVEN = Mark("count", "a setting, a definition or a count: nothing was measured")
PAPER = Mark("paper", "printed in the paper")
# a recorded folder or file, several runs whose numbers were put together, or no run at all
Source = Path | Sequence[Path] | Mark
# the digits of a name (LCS6Å, MP-20, mp-1265) are no number
_NUMBER = re.compile(r"(?<!\w)(?<![A-Za-z]-)\d+(?:\.\d+)?")
_NUMBERS = re.compile(r"(?<![\w.-])[-+−]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
_TAGGED = re.compile(r"(`[^`]*`|<a .*?</a>|<span .*?</span>)", re.DOTALL)


def address(folders: Sequence[Path], anchor: str = "", root: Path = RESULTS) -> str:
    """Return the page of recorded folders or files, or of the recipe that several have in common.

    An analysis and a record of a benchmark are parts of a page. Relative to the top of the book;
    empty where a folder is not under `root`, and so not published.
    """
    if not folders or not all(folder.is_relative_to(root) for folder in folders):
        return ""
    # runs of several folds or seeds have a page together, named as the folder that holds them
    page = Path(commonpath(folders)).relative_to(root)
    if "analysis" in page.parts:  # of a run
        page, anchor = page.parents[1], f"analysis-{page.name}"
    elif page.name == "audit.json":
        page = page.with_suffix("")
    elif page.suffix == ".json" and page.parts[0] in RECORDS:
        page, anchor = page.parent, page.stem
    elif page.parts and len(page.parts) < 3 and page.parts[0] not in RECORDS:
        page, anchor = Path("index"), page.parts[0]  # recipes with the dataset in common
    if not page.parts:  # nothing has such runs in common
        return ""
    return f"{RUNS}/{page.as_posix()}.html" + (f"#{anchor}" if anchor else "")


def linked(text: str, source: Source, anchor: str = "", *, base: str = UP) -> str:
    """Return a text as HTML that leads to the page of its runs; the text alone if there is none."""
    return _led(html.escape(text), source, anchor, base=base)


def _led(shown: str, source: Source, anchor: str = "", *, base: str = UP) -> str:
    """Return HTML in a link to its runs, or in a span that says where else it is from."""
    if shown == "–":
        return shown
    if isinstance(source, Mark):
        return f'<span class="{source.kind}" title="{html.escape(source.title)}">{shown}</span>'
    page = address([source] if isinstance(source, Path) else source, anchor)
    return f'<a class="run" href="{base}{page}">{shown}</a>' if page else shown


def quoted(text: str, source: str = "the paper") -> str:
    """Return a text as HTML that says it is printed in the paper, not measured here."""
    return linked(text, Mark("paper", source))


def count(n: int) -> str:
    """Return a number of runs, folds or crystals as HTML that says it is a count."""
    return f'<span class="count">{n:,}</span>'


def from_runs(
    table: pd.DataFrame, by: Mapping[Any, Source] | None = None, *, rows: Sequence[Source] = ()
) -> pd.DataFrame:
    """Let a table know where its numbers are from, for `sourced`, and return it.

    Args:
        by: sources of rows or columns, by label.
        rows: sources of the rows in their order, where a label says too little or will change.
    """
    table.attrs["sources"] = dict(by or {})
    table.attrs["row sources"] = list(rows)
    return table


def sourced(
    table: pd.DataFrame | Styler,
    source: Source = (),
    by: Mapping[Any, Source] | None = None,
    *,
    anchor: str = "",
    caption: str = "",
    folded: bool = False,
) -> HTML:
    """Return a table, its formats kept, in which each number says where it comes from.

    Args:
        source: of all numbers.
        by: of the columns or rows that have another, by label; a column goes before a row, what is
            named here before what the table knows (`from_runs`). A label of several levels may be
            named by one of them.
        anchor: part of the page of a run.
        caption: what stands above it; in the book it is a numbered table then.
        folded: under its caption, which opens it.
    """
    frame: pd.DataFrame = table.data if isinstance(table, Styler) else table  # type: ignore[attr-defined]
    known = frame.attrs.get("sources", {}) | dict(by or {})

    def of_label(label: Hashable) -> Source | None:
        levels = label if isinstance(label, tuple) else ()
        return next((known[name] for name in (label, *levels) if name in known), None)

    columns, rows = (list(map(of_label, labels)) for labels in (frame.columns, frame.index))
    rows = frame.attrs.get("row sources") or rows

    def cell(i: int, j: int, text: str) -> str:
        plain = re.sub("<[^>]*>", "", text)
        if len(plain) > LONG:
            text = f'<span class="said">{text}</span>'
        if not _NUMBER.search(plain) or "</a>" in text:
            return text
        chosen = (s for s in (columns[j], rows[i], source) if s is not None)
        return _led(text, next(chosen), anchor)

    with pd.option_context("display.max_colwidth", None):
        made = (
            table.to_html(table_attributes='class="dataframe runs"')
            if isinstance(table, Styler)
            else table.to_html(
                classes="dataframe runs", border=0, na_rep="–", formatters=_formats(frame)
            )
        )
    return _in_a_box(_each_cell(made, cell), caption, folded)


def _formats(table: pd.DataFrame) -> dict[Hashable, Callable[[float], str]]:
    """Return how numbers of each column are written: four digits of the largest, as few as do."""
    formats: dict[Hashable, Callable[[float], str]] = {}
    for name, values in table.select_dtypes("float").items():
        sizes = values[np.isfinite(values) & (values != 0)].abs()
        top, typical = (sizes.max(), sizes.median()) if len(sizes) else (1.0, 1.0)
        most = min(max(3 - math.floor(math.log10(top)), 0), 4)
        digits = next((d for d in range(most) if values.round(d).equals(values)), most)
        text = "{:.1e}" if typical < 1e-3 else f"{{:.{digits}f}}"

        def written(value: float, text: str = text) -> str:
            shown = text.format(value)
            return shown if float(shown) else shown.lstrip("-")

        formats[name] = written
    return formats


def _each_cell(table: str, change: Callable[[int, int, str], str]) -> str:
    """Return a table in HTML with the content of each data cell changed, by row and column."""
    head, body = table.split("<tbody>", 1)
    rows = body.split("<tr")
    for i, row in enumerate(rows[1:]):
        parts = re.split(r"(<td[^>]*>)(.*?)(?=</td>)", row, flags=re.DOTALL)
        parts[2::3] = [change(i, j, text) for j, text in enumerate(parts[2::3])]
        rows[i + 1] = "".join(parts)
    return f"{head}<tbody>{'<tr'.join(rows)}"


def as_html(table: pd.DataFrame, caption: str = "", *, folded: bool = False) -> HTML:
    """Return a table of HTML cells with every row and column, in a box that scrolls sideways.

    `folded`: under its caption, which opens it.
    """
    with pd.option_context("display.max_colwidth", None):
        made = table.to_html(escape=False, classes="dataframe runs", border=0)
    return _in_a_box(made, caption, folded)


def _in_a_box(table: str, caption: str, folded: bool) -> HTML:
    name = html.escape(caption) or "table"
    opening = f'<div class="wide" role="region" tabindex="0" aria-label="{name}"'
    if folded:
        return HTML(f"<details><summary>{name}</summary>{opening}>{table}</div></details>")
    if caption:  # that the book takes to number the table
        opening, table = (
            f'{opening} data-caption="{name}"',
            f"<figcaption>{name}</figcaption>{table}",
        )
    return HTML(f"{opening}>{table}</div>")


def prose(text: str, source: Source, anchor: str = "") -> Markdown:
    """Return Markdown in which each number leads to its runs, but those in code and in links."""
    parts = _TAGGED.split(text)
    parts[::2] = [
        _NUMBERS.sub(lambda number: _led(number[0], source, anchor), part) for part in parts[::2]
    ]
    return Markdown("".join(parts))


class _Numbers(HTMLParser):
    """Collects numbers that code wrote and that stand in nothing that says where they are from."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: list[tuple[str, set[str]]] = []
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        kinds = set(given.get("class", "").split())
        if tag == "a" and given.get("href", "").startswith("results/"):
            kinds |= {"run"}
        self.inside.append((tag, kinds))

    def handle_endtag(self, tag: str) -> None:
        while self.inside and self.inside.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        tags = {tag for tag, _ in self.inside}
        kinds = {kind for _, kinds in self.inside for kind in kinds}
        # a table of the page's own text has no other class than this
        typed = any(tag == "table" and own == {"table"} for tag, own in self.inside)
        # captions, and HTML that code writes, are not sentences of `prose`
        sentence = "p" in tags and "cell_output" in kinds and "text_html" not in kinds
        sentence = sentence and not tags & {"code", "figcaption"}
        if (("td" in tags and not typed) or sentence) and not kinds & _SAID:
            self.found += _NUMBER.findall(data)


_SAID = {"run", HERE.kind, GIVEN.kind, PAPER.kind}


def numbers_without_source(text: str) -> list[str]:
    """Return the numbers of a page (HTML) that do not say where they come from.

    Looked at are the cells of tables and the sentences that code writes. A number has a source in a
    link to a run, and in a span that says: computed here, given, or the paper's. Tables that are
    typed in the page's text hold settings and definitions and are not looked at, nor are captions.
    """
    reader = _Numbers()
    reader.feed(text)
    return reader.found
