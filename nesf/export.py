"""Reconstructions as files: CIF, CSV, safetensors and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nesf.decode import Reconstruction
from nesf.files import write_atomically, write_json

STRUCTURE_COLUMNS = (
    *("id", "formula", "n_atoms", "a", "b", "c", "alpha", "beta", "gamma"),
    *("worst_score", "fewest_particles", "shortest_distance", "lattice_repaired", "cif"),
    *("certified", "latent_distance"),  # of the consistent decoding, otherwise blank
)
ATOM_COLUMNS = ("id", "element", "x", "y", "z", "score", "particles", "votes")


def write_reconstruction(
    folder: Path, reconstruction: Reconstruction, about: Mapping[str, Any]
) -> None:
    """Write a reconstruction in the forms that people and programs read.

    `crystals.safetensors` (packed), `cif/<id>.cif`, `structures.csv` (one row per crystal, also for
    those without atoms), `atoms.csv` (one row per atom: position in Å, element; of NeSF also score
    in Å, particles, votes) and `summary.json`, with the entries of `about`.
    """
    from pymatgen.core import Element
    from pymatgen.io.cif import CifWriter

    folder, crystals = Path(folder), reconstruction.crystals
    crystals.save(folder / "crystals.safetensors")
    rows, atoms = [], []
    taken: set[str] = set()
    for report, structure in zip(reconstruction.reports, crystals.to_structures(), strict=True):
        name = _file_name(report["id"], taken)
        if len(structure):
            comment = certificate_comment(report.get("certificate"))
            write_atomically(folder / "cif" / name, comment + str(CifWriter(structure)))
        formula = structure.composition.reduced_formula if len(structure) else ""
        lattice = [round(v, 5) for v in (*structure.lattice.abc, *structure.lattice.angles)]
        worst = max((a["score"] for a in report["atoms"] if "score" in a), default="")
        fewest = min((a["particles"] for a in report["atoms"] if "particles" in a), default="")
        certificate = report.get("certificate", {"certified": "", "latent_distance": ""})
        # With periodic images: near 0 where an atom and its image on the other side of the cell
        # were both detected (CIF readers may refuse that).
        distances = (
            structure.distance_matrix[np.triu_indices(len(structure), 1)]
            if len(structure) > 1
            else np.zeros(0)
        )
        shortest = round(float(distances.min()), 4) if len(distances) else ""
        cif = f"cif/{name}" if len(structure) else ""
        rows.append(
            [
                report["id"],
                formula,
                report["n_atoms"],
                *lattice,
                worst,
                fewest,
                shortest,
                report["lattice_repaired"],
                cif,
                certificate["certified"],
                certificate["latent_distance"],
            ]
        )
        for a in report["atoms"]:
            element = Element.from_Z(a["atomic_number"]).symbol
            # only NeSF has scores, and only atoms of the five steps have particles and votes
            score = round(a["score"], 6) if "score" in a else ""
            of_particles = score, a.get("particles", ""), a.get("votes", "")
            atoms.append([report["id"], element, *(round(a[k], 6) for k in "xyz"), *of_particles])
    write_atomically(folder / "structures.csv", _csv(STRUCTURE_COLUMNS, rows))
    write_atomically(folder / "atoms.csv", _csv(ATOM_COLUMNS, atoms))
    summary = dict(about) | {
        "n_crystals": len(crystals),
        "n_atoms": int(crystals.n_atoms.sum()),
        "nothing_detected": reconstruction.nothing_detected,
        "lattice_repaired": [r["id"] for r in reconstruction.reports if r["lattice_repaired"]],
    }
    certificates = {r["id"]: r["certificate"] for r in reconstruction.reports if "certificate" in r}
    if certificates:
        summary["not_certified"] = [i for i, c in certificates.items() if not c["certified"]]
        summary["certificates"] = certificates
    write_json(folder / "summary.json", summary)


def certificate_comment(certificate: Mapping[str, Any] | None) -> str:
    """Return the line of a CIF that says whether the encoder confirms the crystal, or nothing."""
    if certificate is None:
        return ""
    verdict = "certified" if certificate["certified"] else "NOT CERTIFIED, as the five steps decode"
    return f"# nesf: {verdict}; latent distance {certificate['latent_distance']:.1e}\n"


def _file_name(identifier: str, taken: set[str]) -> str:
    """Return a name not yet `taken`; to a file system a/b and a_b, or A and a, may be one name."""
    stem = name = "".join(c if c.isalnum() or c in "-_." else "_" for c in identifier)
    while name.lower() in taken:
        name = f"{stem}-{len(taken)}"
    taken.add(name.lower())
    return f"{name}.cif"


def _csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()
