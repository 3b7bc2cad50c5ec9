"""Check the recorded runs: `python scripts/validate_results.py [FOLDER ...]` (default: results)."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nesf.files import read_json, sha256_of
from nesf.methods import TRAINED, run_folder
from nesf.metrics import CERTIFICATE_COLUMNS
from nesf.records import MATERIAL_COLUMNS, WEIGHTS, run_folders, schema_problems
from nesf_io.errors import DataError


def validate(folder: Path, *, layout: bool = True) -> list[str]:
    """Return everything that is wrong with a recorded run, in its files and between them.

    Args:
        folder: the run's folder.
        layout: also compare its path with the content of run.json (`run_folder`).

    Returns:
        One sentence a problem, each naming the file; empty when the run is as it should be.
    """
    folder = Path(folder)
    try:
        content = {name: read_json(folder / f"{name}.json") for name in ("run", "metrics")}
    except DataError as error:
        return [str(error)]
    if problems := [
        problem for name in content for problem in schema_problems(name, content[name])
    ]:
        return problems
    run, metrics = content["run"], content["metrics"]
    expected = run_folder(
        Path(),
        run["dataset"]["name"],
        run["method"],
        run["preset"],
        seed=run["seed"],
        fold=run["dataset"]["fold"],
    )
    if layout and folder.resolve().parts[-4:] != expected.parts:
        problems.append(f"{folder}: run.json belongs into {expected}")
    weights = folder / WEIGHTS
    if weights.exists() and (
        run["checkpoint"] is None or run["checkpoint"]["sha256"] != sha256_of(weights)
    ):
        problems.append(f"{weights}: does not have the SHA-256 that run.json records")
    problems += [
        f"{folder / 'materials.csv'}: {problem}"
        for problem in _problems_of_materials(folder / "materials.csv", metrics)
    ]
    if "weights" in run:  # another decoding of a run's weights
        source = folder.parents[1] / run["weights"] / "run.json"
        if not source.exists() or read_json(source)["checkpoint"] != run["checkpoint"]:
            problems.append(f"{source}: is not the run whose weights {folder} decodes")
    elif run["method"] in TRAINED:
        header, _ = _csv_rows(folder / "log.csv")
        if header != (columns := list(TRAINED[run["method"]].log_columns)):
            problems.append(f"{folder / 'log.csv'}: columns are {header}, not {columns}")
    return problems


def _problems_of_materials(path: Path, metrics: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with `materials.csv`, alone and beside `metrics.json`."""
    header, rows = _csv_rows(path)
    if header not in (list(MATERIAL_COLUMNS), [*MATERIAL_COLUMNS, *CERTIFICATE_COLUMNS]):
        return [f"columns are {header}, not {list(MATERIAL_COLUMNS)}"]
    problems = []
    keys = [(row["split"], row["id"]) for row in rows]
    if len(set(keys)) < len(keys):
        problems.append("a material stands in it twice")
    if others := {split for split, _ in keys} - set(metrics):
        problems.append(f"split {sorted(others)[0]!r} is not in metrics.json")
    for split, summary in metrics.items():
        of_split = [row for row in rows if row["split"] == split]
        if len(of_split) != summary["n_materials"]:
            problems.append(
                f"{len(of_split)} rows of split {split}, metrics.json says {summary['n_materials']}"
            )
        nothing = sorted(row["id"] for row in of_split if row["n_atoms_detected"] == "0")
        if (
            nothing != sorted(summary["nothing_detected_ids"])
            or len(nothing) != summary["n_nothing_detected"]
        ):
            problems.append(
                f"{len(nothing)} materials of split {split} have no detected atom, metrics.json says otherwise"
            )
    return problems


def _csv_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return header and rows as text; an empty header when there is no such file."""
    if not path.exists():
        return [], []
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        return list(reader.fieldnames or []), list(reader)


if __name__ == "__main__":
    roots = sys.argv[1:] or [str(Path(__file__).resolve().parents[1] / "results")]
    found = [
        problem
        for root in roots
        for folder in run_folders(Path(root))
        for problem in validate(folder)
    ]
    print("\n".join(found) or "every recorded run is valid")
    sys.exit(bool(found))
