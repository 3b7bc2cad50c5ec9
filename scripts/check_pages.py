"""Open every page of the built book in Chromium, at two widths and in both themes, and look at it.

What is checked: nothing is asked of the network, no error in the console, no broken link, nothing
wider than the page, no text under 12 px, nothing critical or serious that axe finds, weights, 3-D
views that are drawn and turned but do not catch the wheel, and that the live page decodes a
crystal. Usage: python scripts/check_pages.py [FOLDER] [--report FILE] [--only PAGE ...]
"""

from __future__ import annotations

import argparse
import functools
import http.server
import itertools
import multiprocessing
import os
import re
import shutil
import sys
import threading
import time
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from bs4 import BeautifulSoup

from nesf.files import write_json
from nesf.forms import FORMAT
from nesf.records import command_line, commit, environment

ROOT = Path(__file__).resolve().parents[1]
WIDTHS = {1400: 900, 390: 844}  # px, and heights
THEMES = ("light", "dark")
TEXT_PAGE, ANY_PAGE = (
    500_000,
    2_000_000,
)  # bytes, without the library of the 3-D views and the model of the live page
RUN_PAGES = 4  # of the pages of recorded runs, which one template makes, are opened
LIVE = "live.html"
LIVE_SECONDS = 30  # for the live page, on a busy machine
# parts of a page that show text, with the size at which it is displayed
SMALL_TEXT = """() => {
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, at = node.parentElement;
    if (!node.data.trim() || !at.checkVisibility({ visibilityProperty: true })) continue;
    if (at.closest("script,style,noscript,option,.sr-only,.visually-hidden,[hidden]")) continue;
    let size = parseFloat(getComputedStyle(at).fontSize);
    if (at.closest("svg") && at.getScreenCTM) size *= Math.hypot(at.getScreenCTM().a, at.getScreenCTM().b);
    const box = at.getBoundingClientRect();
    if (size < SMALLEST && box.width > 1 && box.height > 1) found.push(size.toFixed(1) + " px: " + node.data.trim().slice(0, 40));
  }
  return [...new Set(found)];
}""".replace("SMALLEST", "11.95")  # px: 12, rounded
# what depends on the theme is looked at in both, all else in one
AXE = """(theme) => axe.run(document, { resultTypes: ["violations"], preload: false,
  ...(theme === "light" ? {} : { runOnly: ["color-contrast", "link-in-text-block"] }) }).then((r) => r.violations
  .filter((v) => ["critical", "serious"].includes(v.impact))
  .map((v) => `${v.impact} ${v.id} x ${v.nodes.length}: ${v.nodes[0].target.join(" ")} ${v.nodes[0].any.map((a) => a.message).join("; ").slice(0, 120)}`))"""


def browser_file() -> str:
    """Return the Chromium of the machine; empty: there is none."""
    names = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), "")


def broken_links(folder: Path, pages: list[Path]) -> list[str]:
    """Return links, scripts and pictures of pages that lead nowhere within the site."""
    parsed = {p: BeautifulSoup(p.read_text(encoding="utf-8"), "html.parser") for p in pages}
    anchors = {
        p: {str(part.get("id") or part.get("name")) for part in page.select("[id], a[name]")}
        for p, page in parsed.items()
    }
    broken = []
    for path, page in parsed.items():
        for part in page.select("[href], [src]"):
            link = str(part.get("href") or part.get("src") or "")
            if link.startswith(("http:", "https:", "mailto:", "data:", "javascript:")):
                continue
            target, anchor = urldefrag(urljoin(path.as_uri(), link))
            file = Path(unquote(target.removeprefix("file://").partition("?")[0]))
            if not file.exists():
                broken.append(f"{path.relative_to(folder)}: {link}")
            elif anchor and file in anchors and unquote(anchor) not in anchors[file]:
                broken.append(f"{path.relative_to(folder)}: {link} (no such place)")
    return broken


def check_views(page: Any, faults: list[str]) -> int:
    """Check that each 3-D view is drawn and turned by keys, and lets the wheel move the page."""
    views = page.locator("[data-name]:not(.nesf-captioned)")  # named figures are none
    for i in range(views.count()):
        view = views.nth(i)
        view.scroll_into_view_if_needed()
        try:
            view.locator("canvas").first.wait_for(timeout=60_000)
        except Exception as error:
            faults.append(f"view {i} is not drawn: {str(error)[:80]}")
            continue
        page.wait_for_timeout(150)
        before = view.locator("canvas").first.screenshot()
        if i == 0:
            box, at = view.bounding_box(), page.evaluate("scrollY")
            page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
            page.mouse.wheel(0, -60)
            page.wait_for_timeout(200)
            if page.evaluate("scrollY") == at:
                faults.append("the wheel over a 3-D view does not move the page")
            view.scroll_into_view_if_needed()
            before = view.locator("canvas").first.screenshot()
        view.press("Enter")
        for _ in range(3):
            view.press("ArrowRight")
        page.wait_for_timeout(150)
        after = view.locator("canvas").first.screenshot()
        view.press("Escape")
        if after == before or len(before) < 1500:  # an empty canvas makes a tiny file
            faults.append(f"view {i} ({view.get_attribute('data-name')}) is not drawn or turned")
    return int(views.count())


def listen(page: Any, base: str, faults: list[str]) -> dict[str, int]:
    """Note what a page asks for and complains of; return the bytes of its files, as they come."""
    sizes: dict[str, int] = {}

    def heard(response: Any) -> None:
        if not response.url.startswith((base, "data:", "blob:")):
            faults.append(f"asks the network: {response.url[:80]}")
        elif response.status >= 400:
            faults.append(f"{response.status}: {response.url}")
        elif response.url.startswith(base):
            sizes[response.url] = int(response.headers.get("content-length", 0))

    def said(message: Any) -> None:
        if message.type == "error":
            faults.append(f"console: {message.text[:160]}")

    page.on("response", heard)
    page.on("requestfailed", lambda request: faults.append(f"failed: {request.url[:80]}"))
    page.on("console", said)
    page.on("pageerror", lambda error: faults.append(f"console: {str(error)[:160]}"))
    return sizes


def check_page(browser: Any, base: str, name: str, axe: str) -> dict[str, Any]:
    """Open one page at both widths and in both themes; return what was found and measured."""
    faults: list[str] = []
    report: dict[str, Any] = {"page": name, "faults": faults, "views": 0}
    for width, height in WIDTHS.items():
        context = browser.new_context(viewport={"width": width, "height": height})
        page = context.new_page()
        page.set_default_timeout(120_000)
        sizes = listen(page, base, faults)
        page.add_init_script("localStorage.setItem('mode', 'light')")
        start = time.monotonic()
        page.goto(f"{base}{name}", wait_until="load")
        report[f"load_s_{width}"] = round(time.monotonic() - start, 2)
        if width == max(WIDTHS):
            if page.locator("#nesf-live").count():
                check_live(page, faults)
                if first := page.locator("#nesf-live").get_attribute("data-first"):  # ms
                    report["live_s"] = round(float(first) / 1000, 2)  # with an empty cache
            weight = sum(n for url, n in sizes.items() if not re.search("3Dmol|/live/", url))
            report["bytes"] = weight
            limit = ANY_PAGE if page.locator(".cell_output, #nesf-live").count() else TEXT_PAGE
            if weight > limit:
                faults.append(f"weighs {weight} bytes, more than {limit}")
            report["views"] = check_views(page, faults)
        wide = page.evaluate("document.documentElement.scrollWidth")
        if wide > width:
            faults.append(f"{wide} px wide at {width}")
        page.add_style_tag(content="*, ::before, ::after { transition: none !important }")
        page.evaluate(axe)
        for theme in THEMES:
            page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
            page.wait_for_timeout(50)
            faults += [f"axe, {width} {theme}: {text}" for text in page.evaluate(AXE, theme)]
        small = page.evaluate(SMALL_TEXT)
        faults += [f"text at {width}: {text}" for text in small[:12]]
        context.close()
    return report


def check_live(page: Any, faults: list[str]) -> None:
    """Check that the live page decodes a crystal of the test split."""
    root, limit = "#nesf-live", LIVE_SECONDS * 1000
    try:
        page.click(f"{root} [data-part='random']", timeout=limit)
        page.wait_for_selector(f"{root}[data-state='decoded'], {root}[data-state='done']", timeout=limit)  # fmt: skip
    except Exception as error:  # Playwright's, which only Playwright's module names
        faults.append(f"the live page decodes no crystal in {LIVE_SECONDS} s: {str(error)[:80]}")


def _checked(browser: Any, base: str, name: str, axe: str) -> dict[str, Any]:
    """Check a page; that it cannot be checked is a fault of it."""
    start = time.monotonic()
    try:
        report = check_page(browser, base, name, axe)
        return {**report, "seconds": round(time.monotonic() - start)}
    except Exception as error:
        return {"page": name, "faults": [f"not checked: {error}"], "views": 0, "bytes": 0, "load_s_1400": 0, "seconds": 0}  # fmt: skip


def work(job: tuple[str, str, str]) -> dict[str, Any]:
    """Check a page in a browser of its own."""
    from playwright.sync_api import sync_playwright

    base, name, executable = job
    axe = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--disable-quic", "--enable-unsafe-swiftshader", "--disable-background-networking", "--disable-component-update"]  # fmt: skip
        browser = playwright.chromium.launch(
            timeout=180_000, executable_path=executable, args=options
        )
        try:
            return _checked(browser, base, name, axe)
        finally:
            browser.close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # one connection for many files

    def log_message(self, *_: Any) -> None:
        pass


def main() -> int:
    """Check all pages, print what is wrong; return 1 if anything is."""
    parser = argparse.ArgumentParser(description="Check the pages of the built book in a browser.")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "book" / "_build" / "html")
    parser.add_argument("--report", type=Path, help="write weights, times and faults as JSON")
    parser.add_argument("--only", nargs="*", default=[], help="pages, such as notebooks/data.html")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    folder = options.folder.resolve()
    pages = [p for p in sorted(folder.rglob("*.html")) if "_static" not in p.parts]
    site = [p for p in pages if not {"vendor", "results"} & set(p.relative_to(folder).parts)]
    names = [p.relative_to(folder).as_posix() for p in site]
    of_runs = [n for n in names if n.startswith("runs/")]
    left_out = {"index.html", *of_runs} - {*of_runs[:: -(-len(of_runs) // RUN_PAGES) or 1]}
    names = [n for n in names if n in (options.only or {*names} - left_out)]
    executable = browser_file()
    if not names:
        print(f"{folder}: no pages; build the book first: make book")
        return 1
    if not executable:
        print(
            "NOT CHECKED: pages in a browser (no Chromium; apt-get install chromium, or set CHROMIUM)"
        )
        return 0
    start, started = time.monotonic(), datetime.now(UTC)
    handler = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}/"
    reports = []
    jobs = [(base, name, executable) for name in names]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        # the live page alone, as its first result is timed
        timed = pool.map(work, [job for job in jobs if job[1] == LIVE])
        others = pool.imap_unordered(work, [job for job in jobs if job[1] != LIVE])
        for report in itertools.chain(timed, others):
            reports.append(report)
            print(f"{report['page']}: {report['bytes'] / 1e6:.2f} MB, load {report['load_s_1400']} s, {report['views']} views, {len(report['faults'])} faults in {report['seconds']} s", flush=True)  # fmt: skip
            print("".join(f"    {fault}\n" for fault in dict.fromkeys(report["faults"])), end="")
    broken = [] if options.only else broken_links(folder, pages)
    print("".join(f"    broken link, {link}\n" for link in broken), end="")
    n_faults = sum(len(r["faults"]) for r in reports) + len(broken)
    print(f"{len(reports)} pages, {len(WIDTHS)} widths, {len(THEMES)} themes: {n_faults} faults, {time.monotonic() - start:.0f} s")  # fmt: skip
    if options.report:
        record = {
            "format": FORMAT,
            "command": command_line(sys.argv[1:], ("python", "scripts/check_pages.py")),
            "commit": commit(),
            "started": started.isoformat(timespec="seconds"),
            "wall_time_seconds": round(time.monotonic() - start, 1),
            **environment(),
            "pages": sorted(reports, key=lambda report: report["page"]),
            "broken": broken,
        }
        write_json(options.report, record)
    return int(n_faults > 0)


if __name__ == "__main__":
    sys.exit(main())
