"""Small files with one thing wrong, as they come from databases, editors and other programs.

`python -m robustness.inputs` gives each to `nesf reconstruct` and records what it says, in
`results/robustness/inputs.json`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from robustness.runner import Fault, forked, nesf

ROOT = Path(__file__).resolve().parents[1]
SITES = "loop_\n_atom_site_label\n_atom_site_type_symbol\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n"
FACES = ((0, 0, 0), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5))
EDGES = ((0.5, 0, 0), (0, 0.5, 0), (0, 0, 0.5), (0.5, 0.5, 0.5))


P1 = "loop_\n_symmetry_equiv_pos_as_xyz\n'x, y, z'\n"


def cif(edge: float, sites: str, *, name: str = "x", more: str = P1, columns: str = "") -> str:
    """Return a CIF of a cubic cell, with lines before its sites and columns after the places."""
    lengths = "".join(f"_cell_length_{axis} {edge}\n" for axis in "abc")
    angles = "".join(f"_cell_angle_{angle} 90\n" for angle in ("alpha", "beta", "gamma"))
    return f"data_{name}\n{lengths}{angles}{more}{SITES}{columns}{sites}\n"


def rock_salt(cation: str, anion: str) -> str:
    """Return the sites of rock salt."""
    places = [(cation, place) for place in FACES] + [(anion, place) for place in EDGES]
    return "\n".join(f"{e}{i} {e} {x} {y} {z}" for i, (e, (x, y, z)) in enumerate(places))


NACL = cif(5.64, rock_salt("Na", "Cl"), name="NaCl")
OCCUPANCY = "_atom_site_occupancy\n"


def structure_json(edge: float) -> str:
    """Return CsCl as pymatgen writes it."""
    sites = [
        {"species": [{"element": e, "occu": 1}], "abc": [x, x, x]}
        for e, x in (("Cs", 0.0), ("Cl", 0.5))
    ]
    matrix = [[edge, 0, 0], [0, edge, 0], [0, 0, edge]]
    names = {"@module": "pymatgen.core.structure", "@class": "Structure"}
    return json.dumps(names | {"lattice": {"matrix": matrix}, "sites": sites})


def inputs() -> Mapping[str, tuple[str, bytes]]:
    """Return name, what is peculiar, and content of each file."""
    poscar = "c\n1.0\n4.6 0 0\n0 4.6 0\n0 0 2.96\nTi O\n{}\nDirect\n" + "0 0 0\n.5 .5 .5\n" * 3
    hexagonal = (
        "data_Mg\n_symmetry_space_group_name_H-M 'P 63/m m c'\n_symmetry_Int_Tables_number 194\n"
        "_cell_length_a 3.2\n_cell_length_b 3.2\n_cell_length_c 5.2\n"
        f"_cell_angle_alpha 90\n_cell_angle_beta 90\n_cell_angle_gamma 120\n{SITES}"
        "Mg1 Mg 0.3333 0.6667 0.25\n"
    )
    primitive = cif(3.988, "Na1 Na 0 0 0\nCl1 Cl .5 .5 .5", name="NaCl")
    body_centred = cif(2.4855, "Fe1 Fe 0 0 0", name="Fe")
    texts = {
        "two_blocks.cif": (
            "two structures in one file",
            NACL + cif(6.3, rock_salt("K", "Cl"), name="KCl"),
        ),
        "global_block.cif": (
            "a first block without atoms, as the COD writes it",
            f"data_global\n_journal_year 1999\n{NACL}",
        ),
        "blocks_of_one_name.cif": ("three blocks of one name", NACL * 3),
        "deuterium.cif": (
            "deuterium, which the model has no element for",
            cif(4.08, rock_salt("Li", "D")),
        ),
        "rounded.cif": ("thirds rounded to four digits, and no symmetry operators", hexagonal),
        "mark.cif": ("a byte order mark before the first word", "\ufeff" + NACL),
        "primitive.cif": (
            "a primitive cell, for a model of conventional ones",
            primitive.replace(" 90", " 60"),
        ),
        "body_centred.cif": (
            "a primitive cell with obtuse angles",
            body_centred.replace(" 90", " 109.4712"),
        ),
        "vacuum.cif": ("one atom in a box of 100 Å", cif(100, "H1 H 0 0 0")),
        "caesium.cif": (
            "an element and a structure far from the training data",
            cif(6.1, "Cs1 Cs 0 0 0\nCs2 Cs .5 .5 .5"),
        ),
        "no_such_group.cif": (
            "space group 999, and no operators",
            cif(5.64, "Na1 Na 0 0 0\nCl1 Cl .5 .5 .5", more="_symmetry_Int_Tables_number 999\n"),
        ),
        "empty_site.cif": (
            "a site of occupancy 0",
            cif(5.64, "Na1 Na 0 0 0 0\nCl1 Cl .5 .5 .5 1", columns=OCCUPANCY),
        ),
        "no_element.cif": (
            "a symbol that is no element",
            cif(5.64, "01 0 0 0 0\nCl1 Cl .5 .5 .5"),
        ),
        "negative.vasp": ("a negative number of atoms", poscar.format("-2 4")),
        "billion.vasp": (
            "a billion atoms declared in 100 bytes",
            poscar.format("500000000 500000000"),
        ),
        "structure.json": ("pymatgen's JSON", structure_json(4.12)),
        "long_id.csv": (
            "a table with an id of 300 characters",
            f'material_id,cif\n{"x" * 300},"{NACL}"\n',
        ),
    }
    made = {name: (what, text.encode()) for name, (what, text) in texts.items()}
    return made | {"packed.cif.gz": ("compressed", gzip.compress(NACL.encode(), mtime=0))}


@dataclass(frozen=True)
class Outcome:
    """What became of a file."""

    file: str
    what: str
    exit_code: int
    said: str
    formulas: tuple[str, ...]
    seconds: float


def outcome(name: str, model: str, folder: Path) -> Outcome:
    """Give one file to `nesf reconstruct`, in a process of its own.

    Raises:
        Fault: a traceback, or an error that is not one sentence.
    """
    import os

    what, content = inputs()[name]
    work = folder / name.replace(".", "-")
    work.mkdir()
    (work / name).write_bytes(content)
    begin = time.monotonic()

    def call() -> None:
        os.chdir(work)
        code, printed = nesf("reconstruct", model, name, "--out", "out", "--decode", "mode=fast")
        (work / "said.json").write_text(json.dumps([code, printed]))

    pid = forked(call)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise Fault("crash", name)
    seconds = time.monotonic() - begin
    code, printed = json.loads((work / "said.json").read_text())
    table = work / "out" / "structures.csv"
    formulas: tuple[str, ...] = ()
    if table.exists():
        from nesf.records import read_csv

        formulas = tuple(read_csv(table)["formula"].astype(str))
    lines = [
        line
        for line in printed.replace("\r", "\n").splitlines()
        if "crystal/s" not in line and "s/crystal" not in line
    ]
    return Outcome(name, what, code, "\n".join(lines).strip(), formulas, round(seconds, 1))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 1 where an input has ended in a traceback."""
    from dataclasses import asdict

    from nesf.files import write_json
    from nesf.forms import FORMAT
    from nesf.records import command_line, commit, environment
    from robustness.__main__ import _import_all

    parser = argparse.ArgumentParser(prog="python -m robustness.inputs", description=__doc__)
    parser.add_argument("--model", default="lcs6", help="a name or a run folder")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "robustness" / "inputs.json")
    options = parser.parse_args(arguments)
    started, begin = datetime.now(UTC), time.monotonic()
    _import_all()
    with tempfile.TemporaryDirectory(prefix="nesf-inputs-") as folder:
        outcomes = [outcome(name, options.model, Path(folder)) for name in inputs()]
    for one in outcomes:
        print(f"{one.file} ({one.what}): exit code {one.exit_code}\n{one.said}\n")
    words = list(sys.argv[1:] if arguments is None else arguments)
    record = {
        "format": FORMAT,
        "command": command_line(words, ("python", "-m", "robustness.inputs")),
        "commit": commit(),
        "started": started.isoformat(timespec="seconds"),
        "wall_time_seconds": round(time.monotonic() - begin, 1),
        **environment(),
        "outcomes": [asdict(one) for one in outcomes],
    }
    write_json(options.out, record)
    print(f"written: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
