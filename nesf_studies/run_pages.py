"""A static page for every recorded run, recipe, other record and audit, to which numbers link.

A Sphinx extension: named in `_config.yml`, it writes `runs/` into the built book. The pages are
plain HTML with a drawing in SVG; they ask the network for nothing and can be opened as files.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from nesf.data.dataset import SPLITS
from nesf.files import read_json, write_atomically
from nesf.records import read_csv, run_folders, seconds
from nesf_studies.links import RECORDS, RUNS
from nesf_studies.page import LABELS, RESULTS, TITLES, number_text
from nesf_studies.record import PAPERS_NAME

if TYPE_CHECKING:
    from sphinx.application import Sphinx

SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}
FETCHED = ("lcs6", "ybco", "icsg3d", "icsg3d-as-released")  # `nesf data fetch`
WORST = 10
_WORST_COLUMNS = {
    "id": "crystal",
    "formula": "formula",
    "n_atoms_actual": "atoms",
    "n_atoms_detected": "detected",
    "position_error_actual_angstrom": LABELS["position_error_actual_angstrom"],
    "species_error_actual_percent": LABELS["species_error_actual_percent"],
    "lattice_length_error_angstrom": LABELS["lattice_length_error_angstrom"],
    "matched": "matches",
}
_THEME = (
    "document.documentElement.dataset.theme=(()=>{try{return localStorage.getItem('theme')}catch{}})()"
    "||(matchMedia('(prefers-color-scheme: dark)').matches?'dark':'light')"
)


def write_pages(target: Path, root: Path = RESULTS) -> list[Path]:
    """Write the pages of everything under `root` to `target`/runs; return their paths.

    A page that is newer than what it shows is left as it is. Pages link to the copy of `root` that
    the book publishes beside them, `results/`.
    """
    pages: list[Path] = []
    folders = run_folders(root)
    recipes: dict[Path, list[Path]] = {}
    for folder in folders:
        recipes.setdefault(folder.parent, []).append(folder)
        inputs = [p for p in folder.rglob("*") if p.suffix in (".json", ".csv")]
        pages.append(_write(target, root, folder, inputs, run_page))
    for recipe, members in recipes.items():
        inputs = [p for m in members for p in (m / "run.json", m / "metrics.json") if p.exists()]
        pages.append(_write(target, root, recipe, inputs, recipe_page))
    for folder in sorted({p.parent for name in RECORDS for p in (root / name).rglob("*.json")}):
        pages.append(_write(target, root, folder, list(folder.glob("*.json")), records_page))
    for audit in sorted(root.glob("*/audit.json")):
        pages.append(_write(target, root, audit, [audit], audit_page))
    index = target / RUNS / "index.html"
    write_atomically(index, _document("All recorded runs", _index(root, list(recipes.items())), 1))
    return [*pages, index]


def _write(target: Path, root: Path, source: Path, inputs: Iterable[Path], make: Any) -> Path:
    """Write the page of a folder or file, unless it is newer than its inputs and this module."""
    name = source.relative_to(root)
    page = target / RUNS / f"{name.with_suffix('') if name.suffix == '.json' else name}.html"
    newest = max(p.stat().st_mtime for p in (*inputs, Path(__file__)))
    if not page.exists() or page.stat().st_mtime < newest:
        depth = len(page.relative_to(target).parts) - 1
        page.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(page, _document(name.as_posix(), make(source, "../" * depth, root), depth))
    return page


def run_page(folder: Path, up: str, root: Path = RESULTS) -> str:
    """Return the body of the page of one run; `up` leads from it to the top of the book."""
    run = _read(folder / "run.json")
    metrics = _read(folder / "metrics.json")
    name = run.get("dataset", {}).get("name", folder.relative_to(root).parts[0])
    parts = [_repeat(run, name), _facts(run)]
    for split in SPLITS:
        if split in metrics:
            parts.append(_errors(metrics[split], split))
    if (folder / "log.csv").exists():
        parts.append(f'<h2 id="loss">Loss</h2>{loss_drawing(read_csv(folder / "log.csv"))}')
    if (folder / "materials.csv").exists():
        parts.append(_worst(read_csv(folder / "materials.csv")))
    for about in sorted(folder.glob("analysis/*/analysis.json")):
        parts.append(_analysis(about, up, root))
    if run.get("config"):
        parts.append(_folded("Settings", run["config"]))
    others = f'<a href="../{folder.parent.name}.html">all runs of this recipe</a>'
    return "\n".join([f"<p>One recorded run; {others}.</p>", *parts, _files(folder, up, root)])


def recipe_page(folder: Path, up: str, root: Path = RESULTS) -> str:
    """Return the body of the page of a recipe: every seed or fold, and their mean and deviation."""
    members = [m for m in run_folders(folder) if m.parent == folder]
    summaries = {m.name: _read(m / "metrics.json") for m in members}
    parts = [
        f"<p>{len(members)} recorded run{'s' * (len(members) != 1)} of one recipe, by seed or fold."
        " The mean and the standard deviation (of a sample) are what the tables of the book show."
        "</p>"
    ]
    for split in SPLITS:
        scored = {name: made[split] for name, made in summaries.items() if split in made}
        if scored:
            parts.append(f'<h2 id="{split}">{SPLIT_NAMES[split].capitalize()} split</h2>')
            parts.append(_seeds(folder.name, scored))
    if not any(summaries.values()):
        links = [
            f'<li><a href="{escape(folder.name)}/{m.name}.html">{m.name}</a></li>' for m in members
        ]
        parts.append(f"<p>Not scored.</p><ul>{''.join(links)}</ul>")
    return "\n".join(parts)


def records_page(folder: Path, up: str, root: Path = RESULTS) -> str:
    """Return the body of the page of records that are no runs: how each of them was made."""
    parts = []
    for file in sorted(folder.glob("*.json")):
        record = _read(file)
        rest = {k: v for k, v in record.items() if isinstance(v, list)}
        parts.append(f'<h2 id="{file.stem}">{file.stem.capitalize()}</h2>')
        parts += [_repeat(record, "", 3), _facts(record, 3), _folded("What was measured", rest)]
    return "\n".join([*parts, _files(folder, up, root)])


def audit_page(file: Path, up: str, root: Path = RESULTS) -> str:
    """Return the body of the page of a dataset's audit: its counts, and how it is made again."""
    found, name = _read(file), file.parent.name
    rows = {
        SPLIT_NAMES.get(split, split): {int(n): c for n, c in counts.items()}
        for split, counts in found["atoms"].items()
    }
    table = pd.DataFrame(rows).T.fillna(0).astype(int)
    command = _code(f"nesf data audit {name} --out audit.json") if name else ""
    shared = f"{len(found['shared_ids'])} ids in two splits, {len(found['near_duplicates'])} near-duplicates"
    return "\n".join(
        [
            f'<h2 id="repeat">Repeat this</h2>{command}',
            f'<h2 id="atoms">Crystals by number of atoms</h2>{_table(table[sorted(table)])}',
            f"<p>{shared} across splits.</p>",
            _files(file, up, root),
        ]
    )


def loss_drawing(log: pd.DataFrame, width: int = 640, height: int = 260) -> str:
    """Draw training and validation loss over epochs, on a logarithmic axis, as SVG.

    A log with several networks one after the other (the voxel baseline) has a drawing for each.
    """
    if "network" in log:
        return "".join(
            f"<h3>{escape(str(name))}</h3>{loss_drawing(part.drop(columns='network'), width, height)}"
            for name, part in log.groupby("network", sort=False)
        )
    curves = {
        label: log[["epoch", column]].dropna().to_numpy(float)
        for label, column in (("training", "loss"), ("validation", "val_loss"))
        if column in log
    }
    curves = {k: v[(v[:, 1] > 0) & np.isfinite(v[:, 1])] for k, v in curves.items()}
    curves = {k: v for k, v in curves.items() if len(v)}
    if not curves:
        return "<p>No epoch is recorded.</p>"
    every = np.concatenate(list(curves.values()))
    low, high = (math.log10(f(every[:, 1])) for f in (np.min, np.max))
    low, high = (low - 0.5, high + 0.5) if high - low < 0.1 else (low, high)
    last, left, bottom = max(every[:, 0].max(), 2.0), 64, 40

    def place(points: np.ndarray) -> str:
        kept = points[:: max(1, len(points) // 400)]
        x = left + (width - left - 12) * (kept[:, 0] - 1) / (last - 1)
        y = 12 + (height - bottom - 12) * (high - np.log10(kept[:, 1])) / (high - low)
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))

    ticks = "".join(
        f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{10**value:.3g}</text>'
        f'<line class="grid" x1="{left}" x2="{width - 12}" y1="{y}" y2="{y}"/>'
        for value, y in (
            (high, 12),
            ((low + high) / 2, (height - bottom) / 2 + 6),
            (low, height - bottom),
        )
    )
    lines = "".join(
        f'<polyline class="{label}" points="{place(points)}"/>' for label, points in curves.items()
    )
    ends = ", ".join(f"{label} {points[-1, 1]:.4g}" for label, points in curves.items())
    about = f"Loss over {last:.0f} epochs, logarithmic; at the end {ends}"
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(about)}">{ticks}'
        f'<text x="{left}" y="{height - 14}">epoch 1</text>'
        f'<text x="{width - 12}" y="{height - 14}" text-anchor="end">{last:.0f}</text>{lines}</svg>'
        f'<figcaption>{escape(about)}. <span class="training">Solid: training.</span> '
        f'<span class="validation">Dashed: validation.</span></figcaption></figure>'
    )


def _repeat(record: Mapping[str, Any], dataset: str, level: int = 2) -> str:
    """Return the commands that make a record again, from the clone at its commit."""
    commit = str(record.get("commit", "unknown"))
    lines = [f"git checkout {commit.removesuffix('-dirty')}"] if commit != "unknown" else []
    if dataset in FETCHED:
        folder = re.search(r"--data[= ](\S+)", record.get("command", ""))
        lines.append(f"nesf data fetch {dataset}" + (f" --data {folder[1]}" if folder else ""))
    lines.append(record.get("command", ""))
    for stage in record.get("stages", {}).values():  # may be of a later commit
        other = f"git checkout {stage['commit'].removesuffix('-dirty')}"
        at = next((line for line in reversed(lines) if line.startswith("git checkout")), other)
        added = [*([other] if at != other else []), stage["command"]]
        lines += [line for line in added if line != lines[-1]]
    notes = []
    if commit.endswith("-dirty"):
        notes.append("The clone had changes that were not committed.")
    if dataset == "icsg3d-recovered":
        notes.append("The dataset has to be put together from other sources; it cannot be fetched.")
    note = f"<p>{' '.join(notes)}</p>" if notes else ""
    return (
        f"<h{level}{_id('repeat', level)}>Repeat this</h{level}>{_code(chr(10).join(lines))}{note}"
    )


def _facts(record: Mapping[str, Any], level: int = 2) -> str:
    """Return a table of what made a record."""
    wall = record.get("wall_time_seconds")
    stages = wall if isinstance(wall, Mapping) else {}
    time = f"{seconds(record) / 60:.1f} minutes" if wall is not None else "–"
    if len(stages) > 1:
        time += " (" + ", ".join(f"{k} {v / 60:.1f}" for k, v in stages.items()) + ")"
    memory = record.get("peak_memory_bytes")
    dataset = record.get("dataset") or {}
    dataset = {"name": dataset} if isinstance(dataset, str) else dataset
    fold = dataset.get("fold")
    rows = {
        "dataset": f"{dataset.get('name', '–')}" + ("" if fold is None else f", fold {fold}"),
        "hash of the data": dataset.get("hash", "–"),
        "method, preset": ", ".join(filter(None, (record.get("method"), record.get("preset")))),
        "seed": record.get("seed", "–"),
        "commit": record.get("commit", "–"),
        "started": str(record.get("started", "–")).replace("T", " "),
        "device": f"{record.get('device_name', '–')} ({record.get('device', '–')}), {record.get('threads', '–')} thread(s)",
        "time": time,
        "peak memory": f"{memory / 1e9:.2f} GB" if memory else "–",
        "weights": (record.get("checkpoint") or {}).get("sha256", "none kept"),
        "versions": ", ".join(f"{k} {v}" for k, v in record.get("versions", {}).items()),
    }
    if "method" not in record:
        for name in ("method, preset", "seed", "weights"):
            rows.pop(name)
    rows = {k: v for k, v in rows.items() if v != "–"}
    body = "".join(
        f'<tr><th scope="row">{k}</th><td>{escape(str(v))}</td></tr>' for k, v in rows.items()
    )
    return (
        f"<h{level}>What made it</h{level}>{_scrolling(f'<table>{body}</table>', 'What made it')}"
    )


def _errors(summary: Mapping[str, Any], split: str) -> str:
    """Return the errors of a split, the headline first, all others folded."""
    rows = {LABELS[k]: number_text(k, summary[k]) for k in LABELS if k in summary}
    rows["crystals"] = str(summary["n_materials"])
    table = pd.DataFrame({SPLIT_NAMES[split]: rows})
    others = {k: v for k, v in summary.items() if k not in LABELS}
    title = f'<h2 id="{split}">{SPLIT_NAMES[split].capitalize()} split</h2>'
    return f"{title}{_table(table)}{_folded('All its numbers', others)}"


def _seeds(recipe: str, scored: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the errors of every seed or fold of a split, then mean and deviation."""
    metrics = [k for k in LABELS if any(s.get(k) is not None for s in scored.values())]
    values = pd.DataFrame({n: [s.get(k) for k in metrics] for n, s in scored.items()}, metrics)
    values = values.astype(float).T
    rows = {
        f'<a href="{escape(recipe)}/{name}.html">{name}</a>': {
            LABELS[k]: number_text(k, row[k]) for k in metrics
        }
        for name, row in values.iterrows()
    }
    rows["mean"] = {LABELS[k]: number_text(k, values[k].mean()) for k in metrics}
    if len(values) > 1:
        rows["deviation"] = {LABELS[k]: number_text(k, values[k].std()) for k in metrics}
    return _table(pd.DataFrame(rows).T)


def _worst(materials: pd.DataFrame) -> str:
    """Return the crystals of the test split (or the last there is) that came out worst."""
    split = next(s for s in ("test", "val", "train") if (materials["split"] == s).any())
    rows = materials[materials["split"] == split]
    order = rows["position_error_actual_angstrom"].fillna(math.inf)
    worst = rows.assign(order=order).sort_values(["order", "id"], ascending=[False, True])
    columns = [c for c in _WORST_COLUMNS if c in worst]
    table = worst.head(WORST)[columns].set_index("id")
    shown = pd.DataFrame(index=table.index.map(escape))
    for name in columns[1:]:
        texts = [
            {True: "yes", False: "no"}.get(value, escape(str(value)))
            if name in ("matched", "formula")
            else number_text(name, float(value))
            for value in table[name].tolist()
        ]
        shown[_WORST_COLUMNS[name]] = texts
    title = f'<h2 id="worst">Worst crystals of the {SPLIT_NAMES[split]} split</h2>'
    note = f"<p>{len(table)} of {len(rows)}, by position error (actual); – where nothing is detected.</p>"
    return title + note + _table(shown)


def _analysis(about: Path, up: str, root: Path) -> str:
    record, name = _read(about), about.parent.name
    title = f'<h2 id="analysis-{escape(name)}">Analysis: {escape(name)}</h2>'
    parameters = _folded("Parameters", record.get("parameters", {}))
    return (
        title
        + _repeat(record, "", 3)
        + _facts(record, 3)
        + parameters
        + _files(about.parent, up, root, 3)
    )


def _files(source: Path, up: str, root: Path, level: int = 2) -> str:
    """Return links to the published files of a folder."""
    files = (
        [source]
        if source.is_file()
        else sorted(p for p in source.iterdir() if p.is_file() and p.name[0] != ".")
    )
    links = "".join(
        f'<li><a href="{up}results/{p.relative_to(root).as_posix()}">{escape(p.name)}</a></li>'
        for p in files
        if p.suffix in (".json", ".csv", ".md")
    )
    return f"<h{level}>Files</h{level}><ul>{links}</ul>"


def _index(root: Path, recipes: Sequence[tuple[Path, list[Path]]]) -> str:
    groups: dict[str, list[str]] = {}
    for recipe, members in recipes:
        dataset, *rest = recipe.relative_to(root).parts
        link = f'<a href="{recipe.relative_to(root).as_posix()}.html">{escape(", ".join(rest))}</a>'
        groups.setdefault(dataset, []).append(f"<li>{link}: {len(members)}</li>")
    sections = []
    for dataset, links in groups.items():
        title = TITLES.get(PAPERS_NAME.get(dataset, dataset), dataset)
        name = escape(dataset) if title == dataset else f"{escape(title)} ({escape(dataset)})"
        sections.append(f'<h2 id="{escape(dataset)}">{name}</h2><ul>{"".join(links)}</ul>')
    records = sorted({p.parent for name in RECORDS for p in (root / name).rglob("*.json")})
    others = "".join(
        f'<li><a href="{name}.html">{escape(name)}</a></li>'
        for name in (p.relative_to(root).as_posix() for p in records)
    )
    return "\n".join([*sections, f"<h2>Other records</h2><ul>{others}</ul>"])


def _document(title: str, body: str, depth: int) -> str:
    up = "../" * depth
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><link rel="icon" href="data:,">
<link rel="stylesheet" href="{up}_static/runs.css"><script>{_THEME}</script></head>
<body class="run-page"><nav><a href="{up}index.html">Book</a> <a href="{up}{RUNS}/index.html">All recorded runs</a></nav>
<main><h1>{escape(title)}</h1>
{body}
</main></body></html>
"""


def _table(table: pd.DataFrame) -> str:
    made = table.to_html(escape=False, border=0, index_names=False)
    made = made.replace("<th></th>", "<td></td>")  # an empty heading says nothing
    return _scrolling(made, "table")


def _scrolling(table: str, name: str) -> str:
    return f'<div class="wide" role="region" tabindex="0" aria-label="{name}">{table}</div>'


def _folded(title: str, content: Any) -> str:
    text = escape(json.dumps(content, indent=1, ensure_ascii=False))
    return f'<details><summary>{title}</summary><pre tabindex="0">{text}</pre></details>'


def _code(text: str) -> str:
    return f'<pre class="command" tabindex="0">{escape(text)}</pre>'


def _id(name: str, level: int) -> str:
    return f' id="{name}"' if level == 2 else ""


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx: the pages are written when a HTML build has ended well."""

    def build(app: Sphinx, failure: Exception | None) -> None:
        if failure is None and app.builder.format == "html":
            write_pages(Path(os.fspath(app.outdir)))

    app.connect("build-finished", build)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
