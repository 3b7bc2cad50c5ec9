"""Recorded campaign against bad input and faults, odd inputs, and a newcomer's first commands."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import pandas as pd

from nesf.forms import read_form
from nesf.records import read_record
from nesf_io.errors import DataError
from nesf_studies.links import linked
from nesf_studies.page import RESULTS
from nesf_studies.trust import verdicts

FAULTS = {
    "traceback": "tracebacks",
    "hang": "over the time limit",
    "crash": "crashes",
    "lost": "files lost or changed",
    "executed": "code executed",
    "differs": "other weights",
    "left": "leftovers",
    "message": "messages that do not help",
}


class Outcome(TypedDict):
    """What became of an odd input."""

    file: str
    what: str
    exit_code: int
    said: str
    formulas: list[str]
    seconds: float


class InputsRecord(TypedDict):
    """What `python -m robustness.inputs` records."""

    command: str
    commit: str
    started: str
    wall_time_seconds: float
    outcomes: list[Outcome]


class Step(TypedDict):
    """A command and what it printed."""

    command: str
    expected: int
    exit_code: int
    printed: str
    seconds: float


class NewcomerRecord(TypedDict):
    """What `python -m robustness.newcomer` records."""

    command: str
    commit: str
    started: str
    wall_time_seconds: float
    steps: list[Step]


def recorded_campaign(name: str = "campaign") -> dict[str, Any]:
    """Read a recorded campaign of `results/robustness/`.

    Raises:
        DataError: it is not recorded, or broken.
    """
    path = _path(name)
    if not path.exists():
        raise DataError(f"{path}: is not recorded; make it with `make fuzz`")
    return read_record(path, "robustness")


def _path(name: str) -> Path:
    return RESULTS / "robustness" / f"{name}.json"


def _recorded(name: str, form: Any) -> Any:
    return read_form(_path(name), form, f"make it again with python -m robustness.{name}")


def recorded_inputs() -> InputsRecord:
    """Read the recorded outcomes of odd inputs.

    Raises:
        DataError: they are not recorded, or broken.
    """
    return _recorded("inputs", InputsRecord)


def recorded_newcomer() -> NewcomerRecord:
    """Read the recorded transcript.

    Raises:
        DataError: it is not recorded, or broken.
    """
    return _recorded("newcomer", NewcomerRecord)


def campaign_table(record: dict[str, Any]) -> pd.DataFrame:
    """Return the counts of a campaign: a row a kind of input, and all of them."""
    rows = {
        row["kind"]: {"inputs": row["inputs"]}
        | {words: row["faults"].get(name, 0) for name, words in FAULTS.items()}
        for row in record["rows"]
    }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("what is damaged")
    table.loc["all"] = table.sum()
    return table


def campaigns_compared(records: Mapping[str, dict[str, Any]]) -> pd.DataFrame:
    """Return failures of inputs, by kind of input, for campaigns by title: `6 of 300`."""
    columns = {}
    for title, record in records.items():
        columns[title] = {
            row["kind"]: f"{sum(row['faults'].values())} of {row['inputs']}"
            for row in record["rows"]
        }
    table = pd.DataFrame(columns).fillna("–").rename_axis("what is damaged")
    # in the order of the last one
    return table.loc[list(list(columns.values())[-1])]


def how_recorded(record: Mapping[str, Any], name: str) -> str:
    """Return in a line of Markdown how a record, of that name, was made."""
    share = record.get("share", 1)
    size = f", {100 * share:g} % of the whole campaign" if share != 1 else ""
    text = f"commit {record['commit'][:12]}, {record['started'][:10]}, {record['wall_time_seconds'] / 60:.0f} minutes"
    return f"*`{record['command']}`{size}, {linked(text, _path(name))}.*"


def inputs_table(record: InputsRecord) -> pd.DataFrame:
    """Return what is said of each odd input; an exit code of 2 is a refusal."""
    rows = {}
    for one in record["outcomes"]:
        lines = [line.removeprefix("nesf: ") for line in one["said"].splitlines() if line.strip()]
        said = [line for line in lines if line.startswith(("error: ", "warning: "))]
        about = [line.partition(": ")[2] for line in lines if " → " in line]
        told = said or about
        text = "; ".join(line if len(line) < 240 else f"{line[:240]} …" for line in told)
        back = ", ".join(one["formulas"]) or ("refused" if one["exit_code"] == 2 else "nothing")
        rows[one["file"]] = {"what is peculiar": one["what"], "comes back": back, "said": text}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("file")


def transcript(steps: Sequence[Step]) -> str:
    """Return commands and what they printed as HTML, as on a screen."""
    parts = []
    for step in steps:
        code = f"exit code {step['exit_code']}, " if step["exit_code"] else ""
        parts.append(
            f"<b>$ {html.escape(step['command'])}</b>   <i>{code}{step['seconds']:.0f} s</i>\n"
            + html.escape(step["printed"])
        )
    text = "\n\n".join(parts)
    # not the pre scrolls: the theme takes the keyboard's focus from one that does so downwards
    return f'<div class="transcript" tabindex="0" role="region" aria-label="transcript"><pre>{text}</pre></div>'


def certificate_signals(materials: pd.DataFrame) -> pd.DataFrame:
    """Return certificate and outcome of each decoded crystal, for `trust.roc`.

    Args:
        materials: of `certificates.certified_materials`.

    Returns:
        A row a crystal and run: `certified`, `latent_distance`, `n_atoms` (found), and the outcomes
        `matched` and `exact`.

    Raises:
        DataError: no run with certificates is recorded.
    """
    if materials.empty:
        raise DataError(
            "results: no run with certificates is recorded; nesf run lcs6 --preset plus"
        )
    return pd.DataFrame(
        {
            "certified": materials["certified"].astype(bool),
            "latent_distance": materials["latent_distance"].astype(float),
            "n_atoms": materials["n_atoms_detected"].astype(float),
            "matched": materials["matched"].astype(bool),
            "exact": materials["right"].astype(bool),
        }
    )


def verdict_table(signals: pd.DataFrame) -> pd.DataFrame:
    """Return how many crystals match and are exact, by the certificate's verdict; text."""
    table = verdicts(signals)
    return pd.DataFrame(
        {
            "crystals": [f"{n:.0f}" for n in table["n"]],
            "match": [f"{n:.0f}" for n in table["matched"]],
            "exact": [f"{n:.0f}" for n in table["exact"]],
            "exact, %": [f"{share:.1f}" for share in table["exact_percent"]],
        },
        index=table.index,
    )
