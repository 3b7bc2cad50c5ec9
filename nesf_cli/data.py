"""The commands `nesf data …`: get, import, build and inspect datasets."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from nesf.outputs import PACKED, check, check_file
from nesf_cli.options import (
    OWN_PATHS,
    add_column_option,
    add_command,
    add_data_options,
    add_replace,
    dataset_of,
    print_notes,
    print_skipped,
)
from nesf_io.errors import ConfigError, DataError


def add_data_commands(commands: Any) -> None:
    """Add `nesf data` with its own commands."""
    data = commands.add_parser(
        "data",
        help="get, import, build and inspect datasets",
        description="Get, import, build and inspect datasets.",
    )
    actions = data.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_fetch(actions)
    own = add_command(
        actions,
        "import",
        _import,
        "make a dataset of own structures",
        "nesf data import my_cifs/ --name mine --cell conventional",
    )
    own.add_argument(
        "path",
        nargs="+",
        help=f"folder with train/val/test.csv(.gz), or {OWN_PATHS}",
    )
    add_column_option(own)
    own.add_argument("--name", help="name of the dataset (default: that of the folder)")
    own.add_argument(
        "--cell",
        default="as-given",
        choices=("as-given", "conventional", "primitive"),
        help="cell to use (paper: conventional)",
    )
    own.add_argument("--seed", type=int, default=0, help="of the split, where one has to be made")
    own.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out entries that cannot be used, and list them",
    )
    add_replace(own)
    add_data_options(own, mirror=False)
    build = add_command(
        actions,
        "build",
        _build,
        "query the Materials Project by selection rules",
        "nesf data build lcs6 --api-key KEY",
    )
    build.add_argument("rules", help="lcs6, icsg3d, ybco, or a JSON file of rules")
    build.add_argument("--name", help="name of the dataset (default: RULES-mp)")
    build.add_argument(
        "--api-key", help="Materials Project key (default: as configured for mp-api)"
    )
    build.add_argument(
        "--endpoint", help="address of the interface (default: the Materials Project's)"
    )
    build.add_argument("--seed", type=int, default=0, help="of the split")
    build.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out documents that cannot be used, and list them",
    )
    add_replace(build)
    add_data_options(build, mirror=False)
    audit = add_command(
        actions,
        "audit",
        _audit,
        "counts, elements, cell shapes, shared ids and near-duplicates of a dataset",
        "nesf data audit mine --json audit.json",
    )
    audit.add_argument("dataset")
    audit.add_argument("--fold", type=int)
    audit.add_argument("--json", type=Path, help="write the audit to this file too")
    audit.add_argument(
        "--no-near-duplicates", action="store_true", help="leave the comparison of structures out"
    )
    add_replace(audit)
    add_data_options(audit)
    listed = add_command(
        actions, "list", _list, "datasets that are on this machine", "nesf data list"
    )
    add_data_options(listed, mirror=False)


def _add_fetch(actions: Any) -> None:
    """Add `nesf data fetch`."""
    fetch = add_command(
        actions,
        "fetch",
        _fetch,
        "get a dataset of the official release, or one of the field's benchmarks",
        "nesf data fetch lcs6",
        "nesf data fetch ybco --fold 0 --mirror release/",
        "nesf data fetch perov5",
    )
    fetch.add_argument(
        "name", help="lcs6, ybco, icsg3d, icsg3d-as-released; perov5, mp20, carbon24"
    )
    fetch.add_argument("--fold", type=int, help="of ybco, 0-19 (default: all)")
    add_replace(fetch)
    add_data_options(fetch)


def _fetch(options: argparse.Namespace) -> None:
    from nesf.data import fetch
    from nesf.data.official import OFFICIAL, check_fold
    from nesf_design.datasets import BENCHMARKS, fetch_benchmark

    if options.name in BENCHMARKS:
        check_fold(options.name, options.fold)
        place = fetch_benchmark(
            options.name,
            data_dir=options.data,
            mirror=options.mirror,
            replace_other=options.replace,
        )
        print(f"written: {place}")
        return
    if options.name not in OFFICIAL:
        raise ConfigError(
            f"{options.name!r} cannot be fetched; choose from {', '.join((*OFFICIAL, *BENCHMARKS))}"
        )
    folder = fetch(
        options.name,
        fold=options.fold,
        data_dir=options.data,
        mirror=options.mirror,
        replace=options.replace,
    )
    print(f"written: {folder}")


def _import(options: argparse.Namespace) -> None:
    from nesf.data import default_data_dir, save_dataset
    from nesf.data.files import Note, read
    from nesf.data.official import check_new_name

    name = options.name or Path(options.path[0]).resolve().name.split(".")[0]
    check_new_name(name)
    folder = (options.data or default_data_dir()) / name
    check(folder, replace=options.replace, own=PACKED)
    dataset, skipped = read(
        options.path,
        name=name,
        seed=options.seed,
        cell=options.cell,
        skip_bad=options.skip_bad,
        column=options.column,
    )
    save_dataset(dataset, folder, replace=options.replace)
    print_skipped(skipped)
    print_notes([Note(**note) for note in dataset.provenance["notes"]])
    print(f"written: {folder} ({', '.join(f'{s} {len(c)}' for s, c in dataset.splits.items())})")


def _build(options: argparse.Namespace) -> None:
    from nesf_build.materials_project import build
    from nesf_build.rules import load_rules

    rules = load_rules(options.rules)
    name = options.name or f"{Path(options.rules).stem}-mp"
    folder = build(
        rules,
        name=name,
        api_key=options.api_key,
        endpoint=options.endpoint,
        data_dir=options.data,
        seed=options.seed,
        skip_bad=options.skip_bad,
        replace=options.replace,
    )
    print(f"written: {folder}")


def _audit(options: argparse.Namespace) -> None:
    from nesf.files import write_json
    from nesf_studies.audit import audit

    if options.json:
        check_file(options.json, options.replace, inputs=[Path(options.dataset)])
    result = audit(dataset_of(options), near_duplicates=not options.no_near_duplicates)
    print(result)
    if options.json:
        write_json(options.json, json.loads(json.dumps(result.to_dict(), default=str)))


def _list(options: argparse.Namespace) -> None:
    from nesf.data import available
    from nesf.data.dataset import read_description

    for label, folder in available(options.data).items():
        try:
            counts = read_description(folder)["counts"]
        except DataError as error:
            print(f"{label:24s} damaged: {error}")
            continue
        print(f"{label:24s} " + ", ".join(f"{split} {n}" for split, n in counts.items()))
