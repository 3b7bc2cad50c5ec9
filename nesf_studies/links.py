"""Links from a number to the page of the runs that it comes from (`nesf_studies.run_pages`)."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from os.path import commonpath
from pathlib import Path

import pandas as pd
from IPython.display import HTML

from nesf_studies.page import RESULTS

RUNS = "runs"  # folder of the pages in the built book
UP = "../"  # from a page under notebooks/ to the top of the book


def address(folders: Sequence[Path], anchor: str = "", root: Path = RESULTS) -> str:
    """Return the page of a recorded folder, or of the recipe that several have in common.

    Relative to the top of the book; empty where a folder is not under `root`, and so not published.
    """
    if not folders or not all(folder.is_relative_to(root) for folder in folders):
        return ""
    # runs of several folds or seeds have a page together, named as the folder that holds them
    page = Path(commonpath(folders)).relative_to(root)
    if page.suffix == ".json":  # a preset may have a point in its name
        page = page.with_suffix("")
    if len(page.parts) < 2:  # nothing has such runs in common
        return ""
    return f"{RUNS}/{page.as_posix()}.html" + (f"#{anchor}" if anchor else "")


def linked(text: str, folders: Sequence[Path], anchor: str = "", *, base: str = UP) -> str:
    """Return a text as HTML that leads to the page of its runs; the text alone if there is none."""
    page, shown = address(folders, anchor), html.escape(text)
    return f'<a class="run" href="{base}{page}">{shown}</a>' if page and text != "–" else shown


def quoted(text: str, source: str = "the paper") -> str:
    """Return a text as HTML that says it is printed in the paper, not measured here."""
    return f'<span class="paper" title="{html.escape(source)}">{html.escape(text)}</span>'


def count(n: int) -> str:
    """Return a number of runs, folds or crystals as HTML that says it is a count."""
    return f'<span class="count">{n:,}</span>'


def counted(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of counts as HTML: how many runs, folds or crystals there are."""
    return table.map(lambda cell: count(cell) if isinstance(cell, int) else _count_text(cell))


def _count_text(cell: object) -> str:
    return f'<span class="count">{html.escape(str(cell))}</span>'


def link_rows(
    table: pd.DataFrame, folders: Sequence[Sequence[Path]], anchor: str = ""
) -> pd.DataFrame:
    """Return a table as HTML, the numbers of each row a link to the row's runs.

    The column n is a count, the column `changed` holds settings, which were not measured.
    """
    rows = [
        {
            name: count(cell)
            if name == "n"
            else _count_text(cell)
            if name == "changed"
            else linked(str(cell), made_by, anchor)
            if re.search(r"\d", str(cell))
            else html.escape(str(cell))
            for name, cell in row.items()
        }
        for row, made_by in zip(table.to_dict("records"), folders, strict=True)
    ]
    return pd.DataFrame(rows, index=table.index, columns=table.columns)


def as_html(table: pd.DataFrame, caption: str = "", *, folded: bool = False) -> HTML:
    """Return a table of HTML cells with every row and column, in a box that scrolls sideways.

    `folded`: under its caption, which opens it.
    """
    with pd.option_context("display.max_colwidth", None):
        made = table.to_html(escape=False, classes="dataframe runs", border=0)
    name = html.escape(caption) or "table"
    box = f'<div class="wide" role="region" tabindex="0" aria-label="{name}">{made}</div>'
    return HTML(f"<details><summary>{name}</summary>{box}</details>" if folded else box)


def words(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of text as HTML that is set to the left and wraps."""
    return table.map(lambda text: f'<div class="said">{html.escape(str(text))}</div>')


class _Cells(HTMLParser):
    """Collects the texts of table cells that stand in no link to a run and are not the paper's."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: list[tuple[str, bool]] = []
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        classes = given.get("class", "").split()
        target = given.get("href", "")
        sourced = (tag == "a" and ("run" in classes or target.startswith("results/"))) or (
            tag == "span" and {"paper", "count"} & set(classes)
        )
        self.inside.append((tag, bool(sourced)))

    def handle_endtag(self, tag: str) -> None:
        while self.inside and self.inside.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        tags = [tag for tag, _ in self.inside]
        if "td" in tags and not any(sourced for _, sourced in self.inside):
            self.found += re.findall(r"(?<!\w)\d+(?:\.\d+)?", data)


def numbers_without_source(text: str) -> list[str]:
    """Return the numbers in table cells (HTML) that neither lead to a run nor are the paper's.

    A number that counts something (runs, folds) stands in a span of the class `count`.
    """
    reader = _Cells()
    reader.feed(text)
    return reader.found
