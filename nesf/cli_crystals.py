"""Commands that decode a trained model's crystals: reconstruct."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from nesf import methods
from nesf.errors import ConfigError
from nesf.options import (
    add_command,
    add_data_options,
    add_split_options,
    assignments,
    dataset_of,
    print_skipped,
)


def add_crystal_commands(commands: Any) -> None:
    """Add the commands of this module."""
    _add_reconstruct(commands)


def _add_reconstruct(commands: Any) -> None:
    reconstruct = add_command(
        commands,
        "reconstruct",
        _reconstruct,
        "reconstruct splits of a run's dataset, or any structures",
    )
    reconstruct.add_argument(
        "run", type=Path, help="run folder with model.safetensors and model.json"
    )
    reconstruct.add_argument(
        "structures",
        type=Path,
        nargs="?",
        help="own structures: a CIF or POSCAR file, a folder of them, extxyz, csv; default: the run's dataset",
    )
    reconstruct.add_argument(
        "--out",
        type=Path,
        help="folder for own structures' reconstructions (required with STRUCTURES)",
    )
    reconstruct.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out entries that cannot be used, and list them",
    )
    reconstruct.add_argument(
        "--cell",
        default="as-given",
        choices=("as-given", "conventional", "primitive"),
        help="cell of own structures (paper: conventional)",
    )
    reconstruct.add_argument(
        "--dataset", help="name or path of the run's dataset, if it was a path"
    )
    reconstruct.add_argument("--device", default="auto", help="auto, cpu, cuda")
    reconstruct.add_argument(
        "--label", help="record it as a run of this name beside the trained one, for --decode"
    )
    add_split_options(reconstruct)
    add_data_options(reconstruct)


def _reconstruct(options: argparse.Namespace) -> None:
    from nesf import runs
    from nesf.data.files import read_structures
    from nesf.export import write_reconstruction
    from nesf.records import command_line

    if options.structures is not None and options.out is None:
        raise ConfigError("--out is missing: a folder for the reconstructed structures")
    if options.structures is not None and options.label is not None:
        raise ConfigError("--label is for splits of the run's dataset; own structures go to --out")
    method, decode = methods.method_of(options.run), assignments(options.decode, "--decode")
    model = method.load(options.run, options.device)
    if options.structures is None:
        splits = tuple(options.split or ("val", "test"))
        made = runs.reconstruct(
            options.run,
            dataset_of(options),
            splits,
            decode=decode,
            label=options.label,
            model=model,
            command=command_line(options.words),
        )
        run = (
            options.run
            if options.label is None
            else options.run.resolve().parents[1] / options.label / options.run.resolve().name
        )
        for split, result in made.items():
            folder = run / "reconstruction" / split
            print(
                f"{split}: {len(result.crystals)} crystals in {folder}, nothing detected in {len(result.nothing_detected)}{result.verdict}"
            )
        return
    decoding = method.with_decoding(model.config, decode).decoding
    crystals, skipped = read_structures(
        options.structures,
        cell=options.cell,
        skip_bad=options.skip_bad,
        vocabulary=model.vocabulary,
    )
    result = method.reconstruct(model, crystals, decoding, True)
    about = {
        "model": dict(model.dataset),
        "input": options.structures.name,
        "reconstruction": dataclasses.asdict(decoding),
    }
    about["skipped"] = [{"entry": s.entry, "reason": s.reason} for s in skipped]
    write_reconstruction(options.out, result, about)
    print_skipped(skipped)
    print(
        f"{len(crystals)} crystals in {options.out} (cif/, structures.csv, atoms.csv, summary.json); ",
        end="",
    )
    print(f"nothing detected in {len(result.nothing_detected)}{result.verdict}")
