"""The book's extension of Sphinx: parts of pages that are written when it is built.

A page asks for one by the name of a function that returns MyST text:

    ```{generated} nesf_studies.landing:headline
    ```

The page on the state of the book is made last, when every page has been read and executed.
"""

from __future__ import annotations

import ast
import datetime
import platform
import re
import subprocess
from collections.abc import Iterable
from html import escape
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import nesf
from nesf.forms import read_form
from nesf.records import commit
from nesf_studies.links import HERE, linked
from nesf_studies.page import RESULTS

# What a page does, by the names that its code uses. A page may do both.
NOW = {
    "runs.train": "trains a model",
    "reconstruct": "decodes crystals",
    "oracle": "decodes true fields or maps",
    "analyse": "runs an analysis",
    "field_errors": "measures the fields",
    "audit": "looks through a dataset",
    "layer_table": "builds the network",
    "sampling_pictures": "samples queries",
}
RECORDED = {
    "open_model": "a trained model",
    "recorded_run": "a trained model",
    "recorded_analysis": "analyses",
    "shown_analysis": "analyses",
    "recorded_slurm": "runs",
    "recorded_kubernetes": "runs",
    "recorded_campaign": "runs",
    "all_runs": "runs",
    "recorded_table": "runs",
    "headline": "runs",
    "recorded_benchmark": "benchmarks",
    "read_benchmark": "benchmarks",
}
PAGES = RESULTS / "pages" / "pages.json"
SHOWN_VERSIONS = ("torch", "numpy", "pymatgen", "spglib", "scikit-learn", "jupyter-book")


class Generated(SphinxDirective):
    """Put the MyST text of a function `module:name` in its place, read anew at each build."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse the text as a part of the page, headings included."""
        self.env.note_reread()
        module, _, name = self.arguments[0].partition(":")
        lines = getattr(import_module(module), name)().splitlines()
        part = nodes.Element()
        part.document = self.state.document
        self.state.nested_parse(
            StringList(lines, source=self.arguments[0]),
            self.content_offset,
            part,
            match_titles=True,
        )
        return part.children


class Status(SphinxDirective):
    """Leave a place for the table of all pages, which `write_status` fills."""

    def run(self) -> list[nodes.Node]:
        """Return an empty container."""
        self.env.note_reread()
        return [nodes.container(classes=["book-status"])]


def used_names(code: str) -> set[str]:
    """Return the names that code calls, with and without the module before them."""
    calls = [n.func for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Call)]
    dotted = {ast.unparse(call) for call in calls}
    return dotted | {name.rpartition(".")[2] for name in dotted}


def does(code: str) -> tuple[str, str]:
    """Return what a page's code does when the book is built, and what it reads that is recorded."""
    plain = "\n".join(line for line in code.splitlines() if not line.startswith(("%", "# %")))
    names = used_names(plain)
    now, recorded = (
        ", ".join(dict.fromkeys(text for name, text in words.items() if name in names)) or "–"
        for words in (NOW, RECORDED)
    )
    return now, recorded


def code_of(folder: Path, name: str) -> str:
    """Return the code of a page, from its text form or from the cells of its Markdown."""
    if (folder / f"{name}.py").exists():
        return (folder / f"{name}.py").read_text(encoding="utf-8")
    text = (folder / f"{name}.md").read_text(encoding="utf-8")
    cells = re.findall(r"^```\{code-cell\}.*\n((?:.*\n)*?)```", text, re.MULTILINE)
    made = [f"{call}()\n" for call in re.findall(r"^```\{generated\} .*:(\w+)", text, re.MULTILINE)]
    return re.sub(r"^:.*$", "", "".join([*cells, *made]), flags=re.MULTILINE)


class PageReport(TypedDict):
    """What the browser found on a page."""

    page: str
    bytes: int  # without the library of the 3-D views and the model of the live page
    load_s_1400: float
    live_s: NotRequired[float]  # to the first crystal that the live page decodes
    faults: list[str]


class PagesRecord(TypedDict):
    """What `scripts/check_pages.py` records."""

    command: str
    cpu: str
    wall_time_seconds: float
    pages: list[PageReport]


def recorded_pages() -> PagesRecord:
    """Read what a browser found on the pages of an earlier build.

    Raises:
        DataError: it is not recorded, or broken.
    """
    remedy = "make it again with `make check-pages REPORT=results/pages/pages.json`"
    return read_form(PAGES, PagesRecord, remedy)


def page_rows(app: Sphinx) -> Iterable[tuple[str, str, str, str, str, str, str]]:
    """Yield title, address, seconds, MB, seconds in a browser, what ran now, what is recorded."""
    from myst_nb.sphinx_ import NbMetadataCollector

    opened = {report["page"]: report for report in recorded_pages()["pages"]}
    for name in ordered_pages(app):
        data = NbMetadataCollector.get_exec_data(app.env, name)
        now, recorded = does(code_of(Path(app.srcdir), name))
        took = f"{data['runtime']:.0f}" if data and data["runtime"] is not None else "–"
        found = opened.get(f"{name}.html")
        size = f"{found['bytes'] / 1e6:.2f}" if found else "–"
        load = f"{found['load_s_1400']:.1f}" if found else "–"
        yield app.env.titles[name].astext(), f"{name}.html", took, size, load, now, recorded


def ordered_pages(app: Sphinx) -> list[str]:
    """Return the pages in the order of the table of contents."""
    order, waiting = [], [app.config.root_doc]
    while waiting:
        name = waiting.pop(0)
        order.append(name)
        waiting = list(app.env.toctree_includes.get(name, [])) + waiting
    return order


def write_status(app: Sphinx, tree: nodes.document, _name: str) -> None:
    """Fill the places that `Status` left in a page."""
    for place in tree.findall(
        lambda n: isinstance(n, nodes.container) and "book-status" in n["classes"]
    ):
        titles = ("page", "seconds", "MB", "load, s", "runs now", "reads, recorded")
        head = "".join(f"<th>{title}</th>" for title in titles)
        rows = "".join(
            f'<tr><th scope="row"><a href="{address}">{escape(title)}</a></th>'
            + f"<td>{linked(took, HERE)}</td>"
            + "".join(f"<td>{linked(text, PAGES, base='')}</td>" for text in (size, load))
            + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
            + "</tr>"
            for title, address, took, size, load, *cells in page_rows(app)
        )
        table = f'<table class="table built"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
        table = f'<div class="wide" role="region" tabindex="0" aria-label="pages">{table}</div>'
        place.replace_self(nodes.raw("", table, format="html"))


def built() -> str:
    """Return what this build was made with and from, as MyST text."""
    versions = [f"nesf {nesf.__version__}", f"Python {platform.python_version()}"]
    versions += [f"{name} {metadata.version(name)}" for name in SHOWN_VERSIONS]
    return (
        f"Commit `{short_commit()}`, built on {today()} on {platform.system()} "
        f"{platform.machine()}, processor only. " + ", ".join(versions) + "."
    )


def opened() -> str:
    """Return what a browser found on all pages of an earlier build, as MyST text."""
    record = recorded_pages()
    found = len(record["pages"]), sum(len(report["faults"]) for report in record["pages"])
    pages, faults, seconds = (
        linked(f"{n:.0f}", PAGES, base="") for n in (*found, record["wall_time_seconds"])
    )
    return f"All pages in Chromium, {record['cpu']}: {pages} pages at two widths and in both themes, {faults} faults, {seconds} s."


def first_result() -> str:
    """Return after how long the live page has decoded a crystal, as MyST text."""
    record = recorded_pages()
    seconds = next(report["live_s"] for report in record["pages"] if "live_s" in report)
    took = linked(f"{seconds:.1f} s", PAGES, base="")
    return f"Opened for the first time, it has decoded its first crystal after {took} (Chromium without a graphics card, {record['cpu']})."


def short_commit() -> str:
    """Return the first digits of the commit; `-changed` where files differ from it."""
    whole = commit()
    return whole[:10] + whole[40:]


def today() -> str:
    """Return the day of the build."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def set_footer(app: Sphinx, config: Any) -> None:
    """Say on every page from which commit it was made, and link to the page on the state."""
    options = dict(config.html_theme_options)
    options["extra_footer"] = (
        f"<p>nesf {nesf.__version__}, commit {short_commit()}. MIT licence.</p>"
    )
    if address := repository(Path(app.confdir)):
        options |= {
            "repository_url": address,
            "use_repository_button": True,
            "use_issues_button": True,
            "launch_buttons": {"binderhub_url": "https://mybinder.org"},
        }
    config.html_theme_options = options


def repository(folder: Path) -> str:
    """Return the address on GitHub from which a folder was cloned; empty if there is none."""
    command = ["git", "-C", str(folder), "remote", "get-url", "origin"]
    try:
        origin = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    found = re.search(r"github\.com[:/]([\w.-]+/[\w.-]+?)(?:\.git)?/?$", origin.strip())
    return f"https://github.com/{found[1]}" if found else ""


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_directive("generated", Generated)
    app.add_directive("book-status", Status)
    app.connect("config-inited", set_footer)
    app.connect("doctree-resolved", write_status)
    return {"version": nesf.__version__, "parallel_read_safe": True, "parallel_write_safe": True}
