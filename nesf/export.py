"""Reconstructions as files: CIF, POSCAR, extxyz or JSON, CSV and safetensors."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nesf.data.dataset import needs_extra
from nesf.decode import Reconstruction
from nesf.files import write_atomically, write_json
from nesf_io.errors import ConfigError
from nesf_io.parsers import as_decoded

if TYPE_CHECKING:
    from pymatgen.core import Structure

FORMATS = {"cif": ".cif", "poscar": ".vasp", "extxyz": ".extxyz", "json": ".json"}  # and suffixes

STRUCTURE_COLUMNS = (
    *("id", "formula", "n_atoms", "a", "b", "c", "alpha", "beta", "gamma"),
    *("worst_score", "fewest_particles", "shortest_distance", "lattice_repaired", "cif"),
    *("certified", "latent_distance"),  # of the consistent decoding, otherwise blank
    # of own structures, otherwise blank (`nesf.trust`); rmsd in Å
    *("formula_input", "cell", "matched", "rmsd", "trust"),
)
LONGEST_NAME = 150  # bytes; a file system takes 255, with what is added while a file is written
ATOM_COLUMNS = ("id", "element", "x", "y", "z", "score", "particles", "votes")


def write_reconstruction(
    folder: Path, reconstruction: Reconstruction, about: Mapping[str, Any], form: str = "cif"
) -> None:
    """Write a reconstruction in the forms that people and programs read.

    `crystals.safetensors` (packed), `cif/<id>.cif` (or of another of `FORMATS`, in a folder of its
    name, column `cif` of the table), `structures.csv` (one row per crystal, also for
    those without atoms), `atoms.csv` (one row per atom: position in Å, element; of NeSF also score
    in Å, particles, votes) and `summary.json`, with the entries of `about`.
    """
    from pymatgen.core import Element

    folder, crystals = Path(folder), reconstruction.crystals
    crystals.save(folder / "crystals.safetensors")
    rows, atoms = [], []
    taken: set[str] = set()
    for report, structure in zip(reconstruction.reports, crystals.to_structures(), strict=True):
        name = _file_name(report["id"], taken, FORMATS[form])
        if len(structure):
            write_atomically(folder / form / name, structure_text(structure, report, form))
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
        cif = f"{form}/{name}" if len(structure) else ""
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
                *_trust_cells(report.get("trust", {})),
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
    trust = {r["id"]: r["trust"] for r in reconstruction.reports if "trust" in r}
    if trust:
        summary["outside_training_domain"] = [i for i, t in trust.items() if t["outside"]]
        summary["trust"] = trust
    write_json(folder / "summary.json", summary)


def structure_text(structure: Structure, report: Mapping[str, Any], form: str = "cif") -> str:
    """Return a reconstructed structure in one of `FORMATS`, with what its report says of trust.

    Raises:
        ConfigError: there is no such format.
        NesfError: extxyz without ASE, which the extra `ase` installs.
    """
    comments = _comments(report)
    own = [] if "symmetry" in report else [as_decoded(structure)]
    if form == "cif":
        from pymatgen.io.cif import CifWriter

        head, end = ("".join(f"# nesf: {c}\n" for c in part) for part in (comments, own))
        return f"{head}{CifWriter(structure)}{end}"  # what stands after data_ is of the block
    comments += own
    if form == "poscar":
        from pymatgen.io.vasp.inputs import Poscar

        title = "; ".join([f"{structure.composition.reduced_formula}, nesf", *comments])
        return Poscar(structure, comment=title, sort_structure=True).get_str()
    if form == "extxyz":
        with needs_extra("ase"):
            from ase.io import write
        from pymatgen.io.ase import AseAtomsAdaptor

        atoms, buffer = AseAtomsAdaptor.get_atoms(structure, msonable=False), io.StringIO()
        atoms.info = {"material_id": report["id"], "nesf": "; ".join(comments)}
        write(buffer, atoms, format="extxyz")
        return buffer.getvalue()
    if form != "json":
        raise ConfigError(f"format {form!r} does not exist; choose from {', '.join(FORMATS)}")
    structure.properties |= {"nesf": comments}
    return structure.to(fmt="json") + "\n"


def _comments(report: Mapping[str, Any]) -> list[str]:
    """Return what a file says of a crystal: whether the encoder confirms it, and `nesf.trust`."""
    said = []
    if (certificate := report.get("certificate")) is not None:
        verdict = (
            "certified" if certificate["certified"] else "NOT CERTIFIED, as the five steps decode"
        )
        said.append(f"{verdict}; latent distance {certificate['latent_distance']:.1e}")
    if "trust" in report:
        said.append(line(report))
    return said


def line(report: Mapping[str, Any]) -> str:
    """Return a report with its `trust` (`nesf.trust`) as one line of text."""
    trust, n = report["trust"], report["n_atoms"]
    parts = [trust["formula"], f"{n} atom{'s' * (n != 1)}"]
    if "cell" in trust:
        parts[0] = f"{trust['formula_input']} → {trust['formula']}"
        parts.append(f"cell {trust['cell']}")
    if trust.get("matched") is not None:
        matches = f"matches the input, RMSD {trust['rmsd'] or 0:.3f} Å"
        parts.append(matches if trust["matched"] else "does not match the input")
    return "; ".join([*parts, trust["verdict"]])


def _trust_cells(trust: Mapping[str, Any]) -> list[Any]:
    """Return the last columns of a row of `structures.csv`."""
    values = [trust.get(key) for key in ("formula_input", "cell", "matched", "rmsd", "verdict")]
    return ["" if value is None else value for value in values]


def as_document(reconstruction: Reconstruction, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return a reconstruction as JSON: `about`, and per crystal its report with its structure.

    `structure` is pymatgen's dictionary; None where nothing was detected.
    """
    pairs = zip(reconstruction.reports, reconstruction.crystals.to_structures(), strict=True)
    crystals = [report | {"structure": s.as_dict() if len(s) else None} for report, s in pairs]
    return dict(about) | {"crystals": crystals}


def _file_name(identifier: str, taken: set[str], suffix: str) -> str:
    """Return a name not yet `taken`; to a file system a/b and a_b, or A and a, may be one name."""
    stem = name = "".join(c if c.isalnum() or c in "-_." else "_" for c in identifier)
    if len(stem.encode()) > LONGEST_NAME:
        short = stem.encode()[: LONGEST_NAME - 11].decode(errors="ignore")
        stem = name = f"{short}-{hashlib.sha256(identifier.encode()).hexdigest()[:10]}"
    while name.lower() in taken:
        name = f"{stem}-{len(taken)}"
    taken.add(name.lower())
    return f"{name}{suffix}"


def _csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()
