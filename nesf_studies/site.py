"""The book as a site: an extension of Sphinx that makes its pages light, readable and accessible.

Formulas become MathML at build time, so that no script is loaded for them; figures get a number, a
caption and a text for those who do not see them, and follow the theme; icons are drawn by the style
sheet; a page is executed again when what it read has changed (`nesf_studies.reads`).
"""

from __future__ import annotations

import hashlib
import html
import json
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import nbformat
from bs4 import BeautifulSoup, Tag
from docutils import nodes
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from latex2mathml.converter import convert
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from sphinx.transforms import SphinxTransform
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

from nesf_studies.reads import ROOT, is_current
from nesf_studies.style import inline_svg, subscripts

if TYPE_CHECKING:
    from nbformat import NotebookNode
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

logger = logging.getLogger(__name__)
_CAPTION = re.compile(r'data-caption="([^"]*)"(?: data-name="([\w-]+)")?')
_HAS_PICTURE = re.compile(r"<figure|nesfViews|nesf-captioned")
_HAS_TABLE = re.compile(r'\s*<div class="wide"')  # not one in a fold
_SELECTORS = re.compile(r"(?:[^,(\[]|\([^)]*\)|\[[^\]]*\])+")
_MARK = "nesf-finished"  # in pages that are finished
# scripts and styles of the theme that no page needs, or that stand for it in nesf.css
_DROPPED = re.compile(
    r"thebe|THEBE|fontawesome|/fa-(solid|regular|brands)|vendor/6\.\d|MathJax|mathjax"
)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register everything with Sphinx."""
    app.add_html_math_renderer("mathml", (_inline_formula, None), (_displayed_formula, None))
    shown = (HTML5Translator.visit_figure, HTML5Translator.depart_figure)
    app.add_enumerable_node(CaptionedTable, "table", html=shown)
    app.add_transform(Captions)
    app.add_config_value("nesf_root", str(ROOT), "")
    app.connect("env-get-outdated", _changed_pages)
    app.connect("source-read", _tell_kernel)
    app.connect("build-finished", _finish_pages)
    # pages that an older version has made are made anew
    own = b"".join(
        Path(__file__).with_name(f"{name}.py").read_bytes() for name in ("site", "style")
    )
    version = int(hashlib.sha256(own).hexdigest()[:8], 16)
    return {"version": "1", "env_version": version, "parallel_read_safe": False}


# --- formulas ---


def mathml(latex: str, *, display: bool = False) -> str:
    """Return a formula of LaTeX as MathML."""
    latex = re.sub(r"\\operatorname\*?\{", r"\\mathrm{", latex.strip())
    return str(convert(latex, display="block" if display else "inline"))


def _inline_formula(translator: Any, node: nodes.Element) -> None:
    translator.body.append(f'<span class="math">{mathml(node.astext())}</span>')
    raise nodes.SkipNode


def _displayed_formula(translator: Any, node: nodes.Element) -> None:
    latex, number = node.astext(), node.get("number")
    if tag := re.search(r"\\tag\{(.+?)\}", latex):
        latex, number = latex.replace(tag[0], ""), number or tag[1]
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    if number is not None:
        if node.get("number"):  # in the whole book, as references to it say
            number = get_node_equation_number(translator, node)
        translator.body.append(f'<span class="eqno">({number})')
        translator.add_permalink_ref(node, "Link to this equation")
        translator.body.append("</span>")
    translator.body.append(f'<div class="formula">{mathml(latex, display=True)}</div></div>\n')
    raise nodes.SkipNode


# --- figures and tables ---


class CaptionedTable(nodes.figure):
    """A table of a cell's output with its caption, numbered among the tables."""


class Captions(SphinxTransform):
    """Make numbered figures and tables of outputs that have a caption.

    A caption is the paragraph in italics that follows the cell, or that of
    `nesf_studies.style.captioned` and `nesf_studies.links.sourced`. The style
    sheet sets that of a table above it.
    """

    default_priority = 820  # before figures are counted

    def apply(self, **_: Any) -> None:
        """Change the document."""
        cells = [n for n in self.document.findall(nodes.container) if "cell" in n["classes"]]
        count = 0
        for cell in cells:
            for bundle in list(_shown(cell)):
                count += 1
                self._number(cell, bundle, count)

    def _number(self, cell: nodes.Element, bundle: nodes.Element, number: int) -> None:
        siblings = cell.parent.children
        following = siblings[siblings.index(cell) + 1 :][:1]
        written = _CAPTION.search(_html_of(bundle))
        caption = nodes.caption()
        made = nodes.figure if _is_picture(bundle) else CaptionedTable
        look = "nesf-figure" if made is nodes.figure else "nesf-table"
        figure = made(ids=[f"shown-{number}"], classes=[look])
        if written:
            for raw in bundle.findall(nodes.raw):
                text = re.sub(r"<figcaption>.*?</figcaption>", "", raw.astext(), flags=re.DOTALL)
                raw[:] = [nodes.Text(text)]
                raw.rawsource = text
            caption += nodes.Text(html.unescape(written[1]))
            if written[2]:  # a label that {numref} finds
                figure["ids"], figure["names"] = [written[2]], [written[2]]
                self.document.note_explicit_target(figure)
        elif following and _is_caption(following[0]) and bundle is list(_shown(cell))[-1]:
            caption += [child.deepcopy() for child in following[0][0].children]
            cell.parent.remove(following[0])
        else:
            return
        bundle.replace_self(figure)
        figure += [bundle, caption]


def _is_caption(node: nodes.Node) -> bool:
    return (
        isinstance(node, nodes.paragraph) and len(node) == 1 and isinstance(node[0], nodes.emphasis)
    )


def _shown(cell: nodes.Element) -> Iterator[nodes.Element]:
    """Give the outputs of a cell that are figures, views or tables and not yet numbered."""
    for bundle in cell.findall(nodes.container):
        if bundle.get("nb_element") != "mime_bundle" or isinstance(bundle.parent, nodes.figure):
            continue
        if _is_picture(bundle) or _HAS_TABLE.match(_html_of(bundle)):
            yield bundle


def _is_picture(bundle: nodes.Element) -> bool:
    """Tell whether an output is a figure or a view."""
    image = next(iter(bundle.findall(nodes.image)), None)
    return image is not None or bool(_HAS_PICTURE.search(_html_of(bundle)))


def _html_of(bundle: nodes.Element) -> str:
    return "".join(raw.astext() for raw in bundle.findall(nodes.raw) if raw.get("format") == "html")


# --- pages as a whole ---


def _finish_pages(app: Sphinx, exception: Exception | None) -> None:
    """Finish every page that this build has written."""
    if exception is not None or app.builder.format != "html":
        return
    for page in Path(app.outdir).rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        if _MARK not in text and "<body" in text and "_static" in text:
            page.write_text(finished(text, page.parent), encoding="utf-8")
    _prune_styles(Path(app.outdir))


def _prune_styles(folder: Path) -> None:
    """Leave out rules for what no page and no script names: two thirds of the theme's styles."""
    scripts = [*folder.rglob("*.js"), Path(__file__).with_name("crystals.js")]
    words = {
        word
        for path in scripts
        if "vendor" not in path.parts
        for word in re.findall(r"[\w-]+", path.read_text(encoding="utf-8"))
    }
    for page in folder.rglob("*.html"):
        for names in re.findall(r'class="([^"]*)"', page.read_text(encoding="utf-8")):
            words |= set(names.split())
    for style in (folder / "_static").rglob("*.css"):
        if not style.name.startswith("nesf"):
            style.write_text(pruned(style.read_text(encoding="utf-8"), words), encoding="utf-8")


def pruned(css: str, words: set[str]) -> str:
    """Return a style sheet without selectors with a class that is not among `words`."""
    css, kept, at = re.sub(r"/\*.*?\*/", "", css, flags=re.DOTALL), [], 0
    while match := re.compile(r"\s*([^{};]*)([{;])").match(css, at):
        head, at = match[1].strip(), match.end()
        if match[2] == ";":
            kept.append(f"{head};")
            continue
        start, depth = at, 1
        while depth and at < len(css):
            depth += {"{": 1, "}": -1}.get(css[at], 0)
            at += 1
        body = css[start : at - 1]
        if head.startswith(("@media", "@supports", "@layer")):
            body = pruned(body, words)
        elif not head.startswith("@"):
            head = ",".join(part for part in _SELECTORS.findall(head) if _is_used(part, words))
        if head and body.strip():
            kept.append(f"{head}{{{body}}}")
    return "\n".join(kept)


def _is_used(selector: str, words: set[str]) -> bool:
    plain = re.sub(r":(?:not|is|where)\([^)]*\)", "", selector)
    return set(re.findall(r"\.(-?[A-Za-z_][\w-]*)", plain)) <= words


def finished(text: str, folder: Path) -> str:
    """Return a page with its figures written into it, without scripts that it does not need.

    `folder` is where its links start.
    """
    page = BeautifulSoup(text, "html.parser")
    for part in page.find_all(["script", "link"]):
        if _DROPPED.search(f"{part.get('src', '')} {part.get('href', '')} {part.text[:300]}"):
            part.decompose()
    if not page.select_one("[class^='sd-'], [class*=' sd-']"):
        for part in page.select("[href*='sphinx-design'], [src*='design-tabs']"):
            part.decompose()
    _clean(page)
    text_part = page.select_one("article, [role=main]")
    for words in text_part.find_all(string=True) if text_part else []:
        if not words.find_parent(["pre", "code", "script", "style", "math"]):
            words.replace_with(subscripts(str(words)))
    figures = _inline_figures(page, folder)
    if page.head is not None:
        page.head.append(page.new_tag("meta", attrs={"name": "generator", "content": _MARK}))
    result = str(page)
    for mark, svg in figures.items():
        result = result.replace(mark, svg)
    return result


def _clean(page: BeautifulSoup) -> None:
    """Mend what assistive technology stumbles over."""
    for cell in page.select("th"):
        if not cell.get_text(strip=True):  # corners of pandas' tables
            cell.name = "td"
            del cell["scope"]
    for summary in page.select("summary[aria-label]"):
        del summary["aria-label"]  # what it says is its name
    for table in page.select("table.dataframe"):
        del table["border"]
    for references in page.select(".citation-list[role]"):
        del references["role"]  # of a list whose entries are none


def _inline_figures(page: BeautifulSoup, folder: Path) -> dict[str, str]:
    """Replace figures in files by marks; return the text for each mark."""
    found: dict[str, str] = {}
    for number, image in enumerate(page.select("img[src$='.svg']")):
        file = folder / unquote(str(image["src"]))
        if image.find_parent(class_="cell_output") is None or not file.exists():
            continue
        mark = f"NESF-FIGURE-{number}-"
        caption = _text_of(image)
        found[mark] = inline_svg(file.read_text(encoding="utf-8"), f"f{number}", caption)
        image.replace_with(mark)
    for image in page.select("img[alt^='../_images'], img[alt^='_images']"):
        image["alt"] = _text_of(image)
    return found


def _text_of(image: Tag) -> str:
    """Return what is said to those who do not see a figure: its caption, or where it stands."""
    figure = image.find_parent("figure")
    caption = figure.find("figcaption") if figure else None
    if caption is not None:
        return " ".join(caption.get_text(" ", strip=True).replace("#", "").split())
    heading = image.find_previous(["h1", "h2", "h3"])
    return f"Figure: {heading.get_text(strip=True).replace('#', '')}" if heading else "Figure"


# --- which pages are executed again ---


def _changed_pages(
    app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]
) -> list[str]:
    """Forget the outputs of pages that would read something else today; return their names."""
    pages = {page: Path(env.doc2path(page)) for page in env.found_docs}
    stale = {
        page: source
        for page, source in pages.items()
        if _has_cells(source)
        and not is_current(_reads_of(app, page), _code_of(source), Path(app.config.nesf_root))
    }
    took = {page: _forget(app, source) for page, source in stale.items()}
    if app.config.nb_execution_mode == "cache":
        notebooks = [page for page, source in stale.items() if source.suffix == ".ipynb"]
        longest_first = sorted(notebooks, key=lambda page: (took[page], page), reverse=True)
        _execute(app, {page: stale[page] for page in longest_first})
    return list(stale)


def _execute(app: Sphinx, pages: dict[str, Path]) -> None:
    """Execute notebooks into the cache, two at a time where there are two cores.

    One that fails is left to myst-nb, which executes it again and says what is wrong.
    """

    def run(page: str) -> tuple[NotebookNode, float] | None:
        notebook = nbformat.read(pages[page], 4)
        client = NotebookClient(
            notebook,
            timeout=app.config.nb_execution_timeout,
            record_timing=False,  # times in the cells would be taken for another notebook
            resources={"metadata": {"path": str(pages[page].parent)}},
        )
        start = time.monotonic()
        try:
            client.execute(env=os.environ | _told(app, page))
        except (CellExecutionError, DeadKernelError, TimeoutError):
            return None
        return notebook, time.monotonic() - start

    cache = get_cache(_cache_of(app))
    with ThreadPoolExecutor(min(2, len(os.sched_getaffinity(0)))) as pool:
        for page, done in zip(pages, pool.map(run, pages), strict=True):
            if done is not None:
                bundle = CacheBundleIn(
                    done[0], str(pages[page]), data={"execution_seconds": done[1]}
                )
                cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
                logger.info(f"executed {page} in {done[1]:.0f} s")


def _told(app: Sphinx, page: str) -> dict[str, str]:
    """Return what the kernel of a page is told: where to write what it reads."""
    return {
        "NESF_READS": str(_reads_of(app, page)),
        "NESF_ROOT": str(app.config.nesf_root),
        "NESF_CODE": _code_of(Path(app.env.doc2path(page))),
    }


def _tell_kernel(app: Sphinx, page: str, _source: list[str]) -> None:
    """Tell the kernel with which myst-nb may execute this page."""
    if _has_cells(Path(app.env.doc2path(page))):
        os.environ |= _told(app, page)


def _cache_of(app: Sphinx) -> Path:
    given = app.config.nb_execution_cache_path or Path(app.outdir).parent / ".jupyter_cache"
    return Path(given).resolve()  # kernels work in folders of their own


def _reads_of(app: Sphinx, page: str) -> Path:
    return _cache_of(app) / "reads" / f"{page}.json"


def _has_cells(page: Path) -> bool:
    """Tell whether a page is executed: a notebook, or Markdown with cells."""
    return page.suffix == ".ipynb" or bool(page.suffix == ".md" and _cells_of(page))


def _cells_of(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".md":
        return re.findall(r"^```\{code-cell\}.*\n((?:.*\n)*?)```", text, re.MULTILINE)
    cells = json.loads(text)["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def _code_of(page: Path) -> str:
    """Return a hash of a page's cells of code."""
    code = _cells_of(page)
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()[:16]


def _forget(app: Sphinx, notebook: Path) -> float:
    """Drop the outputs of a notebook from the cache; return the seconds that they took."""
    cache, seconds = get_cache(_cache_of(app)), 0.0
    for record in cache.list_cache_records():
        if Path(record.uri).parts[-2:] == notebook.parts[-2:]:
            seconds = (record.data or {}).get("execution_seconds", 0.0)
            cache.remove_cache(record.pk)
    return seconds
