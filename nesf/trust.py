"""What is known about each reconstruction of own structures: cell, domain, match, certificate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nesf.crystals import Crystals
from nesf.decode import Reconstruction
from nesf.domain import DECODED, GIVEN, outside
from nesf.matching import match_rmse

MOST_MATCHED = 200  # atoms beyond which StructureMatcher takes too long to be asked


def judged(
    made: Reconstruction,
    domain: Mapping[str, Any],
    used: Crystals | None = None,
    *,
    given: Crystals | None = None,
    cells: Sequence[str] = (),
    match: bool = True,
) -> Reconstruction:
    """Add `trust` to each report: what is known about the reconstruction without its truth.

    `verdict` (in words), `ok` (nothing speaks against it), `outside` (in what outside the training
    domain; None: not known), `cell`; with an input also `formula_input`, `matched` and `rmsd` (Å)
    against it.

    Args:
        made: reconstructions.
        domain: the model's; {} where it is not known.
        used: what was encoded; None: latent vectors were decoded, and the decoded crystals are
            looked at.
        given: the structures as they were given, if other than `used`.
        cells: the notes of `in_cell`.
        match: run StructureMatcher against the input, up to 200 atoms a cell.
    """
    looked_at, slack = (made.crystals, DECODED) if used is None else (used, GIVEN)
    reasons = outside(looked_at, domain, slack) if domain else [None] * len(looked_at)
    inputs = _compared(made.crystals, used, match) if used is not None else [{}] * len(looked_at)
    made_formulas, formulas = (
        [s.composition.reduced_formula if len(s) else "nothing" for s in c.to_structures()]
        for c in (made.crystals, given or looked_at)
    )
    reports = []
    for i, report in enumerate(made.reports):
        verdict, ok = _verdict(report, reasons[i])
        trust: dict[str, Any] = {"verdict": verdict, "ok": ok, "outside": reasons[i]}
        trust["formula"] = made_formulas[i]
        if used is not None:
            trust |= {"cell": cells[i] if cells else "as given", "formula_input": formulas[i]}
        reports.append(report | {"trust": trust | inputs[i]})
    return Reconstruction(made.crystals, reports)


def _verdict(report: Mapping[str, Any], reasons: list[str] | None) -> tuple[str, bool]:
    """Return what is known about a reconstruction in words, and whether it is all for it."""
    certificate = report.get("certificate")
    if reasons:
        return f"outside the training domain: {'; '.join(reasons)}", False
    if not report["n_atoms"]:
        return "nothing detected", False
    if certificate is not None:
        certified = bool(certificate["certified"])
        return ("certified" if certified else "not certified"), certified
    if reasons is None:
        return "training domain not known, no certificate", False
    return "inside the training domain, no certificate", True


def _compared(detected: Crystals, actual: Crystals, match: bool) -> list[dict[str, Any]]:
    """Return match and RMSD (Å) of each decoded crystal against its input; None: not compared."""
    small = np.maximum(detected.n_atoms, actual.n_atoms) <= MOST_MATCHED
    rows = np.flatnonzero(small & match)
    relative = dict(
        zip(rows.tolist(), match_rmse(actual.select(rows), detected.select(rows)), strict=True)
    )
    volume = np.abs(np.linalg.det(actual.lattice)) / actual.n_atoms
    return [
        {
            "matched": bool(np.isfinite(relative[i])) if i in relative else None,
            "rmsd": round(float(relative[i] * volume[i] ** (1 / 3)), 5)
            if np.isfinite(relative.get(i, np.nan))
            else None,
        }
        for i in range(len(actual))
    ]


def untrusted(made: Reconstruction) -> list[str]:
    """Return the ids of the crystals against which something speaks."""
    return [r["id"] for r in made.reports if is_doubtful(r)]


def is_doubtful(report: Mapping[str, Any]) -> bool:
    """Return whether the verdict, or a comparison with the input, speaks against a crystal."""
    trust = report["trust"]
    return not trust["ok"] or trust.get("matched") is False


def warning(ids: Sequence[str], reasons: Sequence[list[str] | None]) -> str:
    """Return one sentence on the crystals outside the training domain, or nothing."""
    found = [(name, of_one) for name, of_one in zip(ids, reasons, strict=True) if of_one]
    if not found:
        return ""
    name, first = found[0]
    return f"{len(found)} of {len(ids)} crystals lie outside the training domain, so nothing is known about what the model makes of them; the first is {name} ({'; '.join(first)})"
