"""Model cards: what the committed weights are, how well they do, and what to distrust."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pymatgen.core import Element

from nesf.files import read_json, write_atomically
from nesf.outputs import check_file
from nesf.records import RecordedRun, all_runs
from nesf_studies.certificates import CERTIFIED
from nesf_studies.page import LABELS, TITLES, number_text

CARD = "MODEL_CARD.md"
BEGINS = "<!-- written by nesf aggregate -->\n"
NAMES = {
    ("nesf", "cpu"): "the faithful model",
    ("nesf", "plus"): "nesf+",
    ("icsg3d", "repaired-one-copy"): "the voxel baseline, repaired, each crystal once an epoch",
    ("icsg3d", "as-published-reduced"): "the voxel baseline, networks reduced",
    ("icsg3d", "repaired-reduced"): "the voxel baseline, repaired, networks reduced",
}
SPLITS = {"val": "validation", "test": "test"}


def write_cards(results: Path, *, replace: bool = False) -> list[Path]:
    """Write `MODEL_CARD.md` beside the published weights of every recorded run.

    Raises:
        ConfigError: without `replace` there is such a file already, or it is not this program's.
    """
    cards = {
        run.folder / CARD: card(run)
        for run in all_runs(results)
        if run.folder.name in ("seed-0", "fold-0") and (run.folder / "model.safetensors").exists()
    }
    for path in cards:
        check_file(path, replace, begins=BEGINS.encode())
    for path, text in cards.items():
        write_atomically(path, text.encode())
    return list(cards)


def card(run: RecordedRun) -> str:
    """Return the model card of a recorded run whose weights are in its folder, as Markdown."""
    about, about_run = read_json(run.folder / "model.json"), run.run
    dataset, recipe = about_run["dataset"], (about_run["method"], about_run["preset"])
    name = TITLES.get(dataset["name"], dataset["name"])
    fold = "" if dataset["fold"] is None else f", fold {dataset['fold']}"
    folder = "/".join(run.folder.parts[-5:])
    parts = [
        f"# {NAMES.get(recipe, about_run['preset'])}: {name}{fold}, seed {about_run['seed']}",
        "An autoencoder of crystal structures. Written from the recorded run by `nesf aggregate`.",
        "## Use",
        f"```\nnesf reconstruct {folder} my.cif --out decoded/\n```",
        *_domain(about.get("domain")),
        "## Errors",
        _errors(run),
        "## Record",
        _record(about_run),
        "## What to distrust",
        "- Crystals unlike the training crystals come back wrong. `nesf reconstruct` says so for each of them.",
        "- One training of one seed. Other seeds and folds are recorded beside it, and the errors of all of them are in the book.",
        "- Structures of the training set are computed ones, from the Materials Project (CC BY 4.0) except for `starter`. The weights are under the licence of this repository (MIT).",
    ]
    return BEGINS + "\n\n".join(parts) + "\n"


def _domain(domain: dict[str, Any] | None) -> list[str]:
    if not domain:
        return []
    n, length, angle = domain["n_atoms"], domain["length"], domain["angle"]
    symbols = " ".join(Element.from_Z(z).symbol for z in domain["elements"])
    return [
        "## Training domain",
        f"- cell: {domain['cell']}, {n[0]} to {n[1]} atoms\n"
        f"- lengths {length[0]:.2f} to {length[1]:.2f} Å, angles {angle[0]:.1f} to {angle[1]:.1f}°\n"
        f"- {len(domain['elements'])} elements: {symbols}",
    ]


def _errors(run: RecordedRun) -> str:
    splits = [split for split in SPLITS if split in run.metrics]
    rows = [["", *(f"{SPLITS[s]} ({run.metrics[s]['n_materials']})" for s in splits)]]
    rows.append(["---"] * len(rows[0]))
    for metric, label in (LABELS | CERTIFIED).items():
        values = [run.metrics[split].get(metric) for split in splits]
        if any(value is not None for value in values):
            rows.append([label, *(_text(metric, value) for value in values)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _text(metric: str, value: float | None) -> str:
    if metric in LABELS:
        return number_text(metric, value)
    return "–" if value is None else f"{value:.1f}"


def _record(run: dict[str, Any]) -> str:
    minutes = {stage: f"{s / 60:.1f}" for stage, s in run["wall_time_seconds"].items()}
    return "\n".join(
        (
            f"- command: `{run['command']}`",
            f"- commit: {run['commit']}, started {run['started']}",
            f"- {run['device_name']}, {run['threads']} thread{'s' * (run['threads'] != 1)}; minutes: "
            + ", ".join(f"{stage} {text}" for stage, text in minutes.items()),
            f"- dataset hash {run['dataset']['hash']}; weights SHA-256 {run['checkpoint']['sha256']}",
        )
    )
