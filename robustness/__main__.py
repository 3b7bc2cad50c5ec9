"""`python -m robustness`: run the campaign, print its table, and record it."""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def campaign(
    share: float, seed: int, workers: int, only: Sequence[str] = (), one: int | None = None
) -> dict[str, Any]:
    """Run a share of the campaign and return what schema/robustness.json has of its counts."""
    os.environ |= {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    _import_all()
    from robustness import cases, runner
    from robustness.base import Base, make

    folder = Path(tempfile.mkdtemp(prefix="nesf-fuzz-base-"))
    try:
        # in a process of its own: one that has trained cannot be forked
        if os.waitstatus_to_exitcode(os.waitpid(runner.forked(lambda: make(folder)), 0)[1]):
            raise RuntimeError("the files to damage could not be made")
        base = Base(folder)
        found = [c for c in cases.all_cases(base, share, seed) if not only or c.kind in only]
        if one is not None:
            singles = [part for c in found for part in (c.parts or [c])]
            found = [c for c in singles if c.seed == one]
        failures, rows = [], []
        for kind in dict.fromkeys(c.kind for c in found):
            begin, of_kind = time.monotonic(), [c for c in found if c.kind == kind]
            failed = runner.run_all(of_kind, workers)
            failures += failed
            faults = Counter(f.fault for f in failed)
            print(f"{kind}: {len(failed)} failures", file=sys.stderr, flush=True)
            rows.append(
                {"kind": kind, "inputs": sum(c.count for c in of_kind)}
                | {"seconds": round(time.monotonic() - begin, 1)}
                | {"faults": {name: faults[name] for name in runner.FAULTS}}
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"rows": rows, "failures": [asdict(f) for f in failures]}


def _import_all() -> None:
    """Import what the commands do, and keep to one thread: forked processes start with that."""
    names = (
        *(
            "jsonschema",
            "pandas",
            "scipy.spatial",
            "torch._dynamo",
            "pymatgen.core",
            "ase.io.extxyz",
        ),
        *("pymatgen.io.cif", "pymatgen.io.ase", "pymatgen.io.vasp", "pymatgen.symmetry.analyzer"),
        *("pymatgen.analysis.structure_matcher", "matplotlib.pyplot", "nesf.api", "nesf.latent"),
        *("nesf.training", "nesf.runs", "nesf.export", "nesf.metrics", "nesf_studies.audit"),
        *("nesf_icsg3d.methods", "nesf_cli.studies", "nesf_studies.latent_space", "nesf_cli.main"),
        *("mp_api.client", "nesf_build.materials_project", "nesf_design.datasets"),
    )
    for name in names:
        importlib.import_module(name)
    importlib.import_module("torch").set_num_threads(1)


def table_of(rows: Sequence[dict[str, Any]]) -> str:
    """Return the counts as text."""
    names = list(rows[0]["faults"])
    lines = [["what", "inputs", "seconds", *names]]
    lines += [
        [r["kind"], str(r["inputs"]), f"{r['seconds']:g}", *(str(r["faults"][n]) for n in names)]
        for r in rows
    ]
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if k == 0 else cell.rjust(w)
            for k, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 1 where something has failed."""
    parser = argparse.ArgumentParser(prog="python -m robustness", description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the whole campaign")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--only", action="append", default=[], metavar="KIND", help="may be repeated"
    )
    parser.add_argument("--case", type=int, help="only the case of this seed (give --only too)")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "results" / "robustness", help="folder of the record"
    )
    options = parser.parse_args(arguments)
    started = datetime.now(UTC)
    made = campaign(options.share, options.seed, options.workers, options.only, options.case)
    print(table_of(made["rows"]))
    for failure in made["failures"]:
        print(f"{failure['kind']}, seed {failure['seed']}: {failure['fault']}: {failure['detail']}")
    if options.case is None:
        from nesf.forms import FORMAT
        from nesf.records import command_line, commit, environment, write_checked

        words = list(sys.argv[1:] if arguments is None else arguments)
        record = {
            "format": FORMAT,
            "command": command_line(words, ("python", "-m", "robustness")),
            "commit": commit(),
            "started": started.isoformat(timespec="seconds"),
            "wall_time_seconds": round((datetime.now(UTC) - started).total_seconds(), 1),
            **environment(),
            "share": options.share,
            "seed": options.seed,
            **made,
        }
        path = options.out / "campaign.json"
        write_checked(path, record, "robustness")
        print(f"written: {path}")
    return int(bool(made["failures"]))


if __name__ == "__main__":
    sys.exit(main())
