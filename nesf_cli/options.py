"""Options that several commands share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from nesf_io.errors import ConfigError

OWN_PATHS = "files (CIF, POSCAR, extxyz, JSON, CSV, other forms of ASE and pymatgen; .gz), folders with subfolders, 'patterns/*.cif', or - for standard input"


def add_command(
    commands: Any,
    name: str,
    call: Callable[[argparse.Namespace], int | None],
    text: str,
    *examples: str,
) -> argparse.ArgumentParser:
    """Add a command to the parser's commands.

    Args:
        commands: the parser's.
        name: of the command.
        call: what it calls; returns the exit code, None for 0.
        text: its one line of help.
        examples: whole command lines, shown below the options.
    """
    parser = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog="\n".join(["examples:", *(f"  {example}" for example in examples)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(call=call)
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="print nothing but warnings and errors"
    )
    return parser


def add_data_options(parser: argparse.ArgumentParser, mirror: bool = True) -> None:
    """Add the options that say where data are."""
    parser.add_argument("--data", type=Path, help="data folder (default: the user's data folder)")
    if mirror:
        parser.add_argument(
            "--mirror", type=Path, help="local copy of the official release, instead of the network"
        )


def add_replace(parser: argparse.ArgumentParser) -> None:
    """Add the option that lets a command replace what it, or another one of this program, wrote."""
    parser.add_argument(
        "--replace",
        action="store_true",
        help="replace what this program wrote there before; without it nothing is overwritten",
    )


def add_split_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which splits are decoded, and how."""
    parser.add_argument(
        "--split",
        action="append",
        help="train, val or test; may be repeated (default: val and test)",
    )
    add_decode_option(parser)


def add_decode_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that changes the decoding."""
    parser.add_argument(
        "--decode",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a parameter of the decoding, e.g. mode=fast or nms_radius=0.4 (icsg3d: binary_threshold=0.5)",
    )


def add_column_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the structures' column of a table."""
    parser.add_argument(
        "--column", default="cif", help="of a CSV: column with CIF or JSON texts (default: cif)"
    )


def assignments(pairs: Sequence[str], option: str) -> dict[str, str]:
    """Return the values of a repeated KEY=VALUE option."""
    for pair in pairs:
        if "=" not in pair:
            raise ConfigError(f"{option} {pair!r}: KEY=VALUE is expected")
    return dict(pair.split("=", 1) for pair in pairs)  # type: ignore[misc]


def _recorded_dataset(run: Path) -> Any:
    """Return name, fold and hash of the dataset of a run or model."""
    from nesf.records import read_record
    from nesf.saved import read_description

    if (run / "run.json").exists():
        return read_record(run / "run.json", "run")["dataset"]
    return read_description(run)["dataset"]


def dataset_of(options: argparse.Namespace) -> Any:
    """Return the dataset that the options name, else that of their run."""
    from nesf.data import load

    name, fold = options.dataset, getattr(options, "fold", None)
    if hasattr(options, "run") and not (name and hasattr(options, "fold")):
        recorded = _recorded_dataset(options.run)
        name, fold = name or recorded["name"], recorded["fold"]
    return load(
        name,
        fold=fold,
        data_dir=options.data,
        mirror=options.mirror,
        skip_bad=getattr(options, "skip_bad", False),
    )


def print_skipped(skipped: Sequence[Any], file: IO[str] | None = None) -> None:
    """Print what was left out, and why; None: on standard output."""
    if skipped:
        print(f"left out {len(skipped)}:", file=file)
        for one in skipped:
            print(f"  {one.entry}: {one.reason}", file=file)


def print_notes(notes: Sequence[Any]) -> None:
    """Print on standard error what was changed in reading, or not read."""
    from nesf.data.files import summed

    for text in summed(notes):
        print(f"nesf: warning: {text}", file=sys.stderr)
