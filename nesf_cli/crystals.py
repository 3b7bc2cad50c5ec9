"""Commands that encode and decode crystals: reconstruct, encode, decode, interpolate."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nesf import methods
from nesf.outputs import check, check_file, output
from nesf_cli.design import add_symmetrise
from nesf_cli.options import (
    OWN_PATHS,
    add_column_option,
    add_command,
    add_data_options,
    add_decode_option,
    add_replace,
    add_split_options,
    assignments,
    dataset_of,
    print_notes,
    print_skipped,
)
from nesf_io.errors import ConfigError, DataError

if TYPE_CHECKING:
    from nesf.data.files import Read, Skipped
    from nesf.decode import Reconstruction

STRICT = 3  # exit code of --strict where something speaks against a crystal
SHOWN = 20  # crystals that get a line of their own
CELLS = ("auto", "as-given", "conventional", "primitive")
FORMATS = ("cif", "poscar", "extxyz", "json")  # of nesf.export, which would load torch


def add_crystal_commands(commands: Any) -> None:
    """Add the commands of this module."""
    reconstruct = add_command(
        commands,
        "reconstruct",
        _reconstruct,
        "reconstruct splits of a run's dataset, or any structures",
        "nesf reconstruct lcs6 my.cif --out out/",
        "nesf reconstruct lcs6 a.cif more/ --out out/ --decode mode=consistent --strict",
        "nesf reconstruct runs/mine my.cif --json",
        "nesf reconstruct lcs6 my.cif --out out/ --symmetrise 0.1",
        "nesf reconstruct runs/mine --split test",
    )
    _input_options(reconstruct, nargs="*", further="; default: the run's dataset")
    _output_options(reconstruct, required=False)
    _strict_option(reconstruct)
    add_symmetrise(reconstruct)
    reconstruct.add_argument(
        "--dataset", help="name or path of the run's dataset, if it was a path"
    )
    reconstruct.add_argument(
        "--label", help="record it as a run of this name beside the trained one, for --decode"
    )
    add_split_options(reconstruct)
    add_data_options(reconstruct)

    encode = add_command(
        commands,
        "encode",
        _encode,
        "latent vectors of structures",
        "nesf encode lcs6 my.cif --out z.npy",
        "nesf encode runs/mine cifs/ --out z.csv",
    )
    _input_options(encode, nargs="+")
    encode.add_argument(
        "--out", type=Path, required=True, help=".csv, or .npy with the ids in .ids.json beside it"
    )
    add_replace(encode)

    decode = add_command(
        commands,
        "decode",
        _decode,
        "latent vectors to structures",
        "nesf decode lcs6 z.npy --out decoded/",
        "nesf decode lcs6 z.csv --out decoded/ --format poscar --decode mode=consistent",
    )
    _model_options(decode)
    decode.add_argument("latent", type=Path, metavar="Z", help=".npy or .csv, as of nesf encode")
    _output_options(decode)
    _strict_option(decode)
    add_decode_option(decode)

    between = add_command(
        commands,
        "interpolate",
        _interpolate,
        "crystals on the straight line between two latent vectors (Section 4.5)",
        "nesf interpolate lcs6 a.cif b.cif --steps 9 --out path/",
    )
    _model_options(between)
    between.add_argument("source", type=Path, help="file with one structure")
    between.add_argument("destination", type=Path, help="file with one structure")
    between.add_argument(
        "--steps", type=int, default=9, help="number of frames, both ends included (default: 9)"
    )
    _cell_option(between)
    _output_options(between)
    _strict_option(between)
    add_decode_option(between)


def _model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run",
        metavar="MODEL",
        help="folder of a run, or a recorded model by name: lcs6, lcs6/plus, ybco/cpu",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")


def _strict_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--strict",
        action="store_true",
        help=f"end with exit code {STRICT} where crystals are outside the training domain, not certified, or nothing was detected",
    )


def _cell_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cell",
        default="auto",
        choices=CELLS,
        help="cell of own structures (default: auto, the kind that the model was trained on)",
    )


def _input_options(parser: argparse.ArgumentParser, nargs: str, further: str = "") -> None:
    _model_options(parser)
    parser.add_argument("structures", nargs=nargs, help=f"own structures: {OWN_PATHS}{further}")
    add_column_option(parser)
    _cell_option(parser)
    parser.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out entries that cannot be used, and list them",
    )


def _output_options(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        required=required,
        help="folder for the structures"
        + ("" if required else " (of own ones; may be left out with --json)"),
    )
    add_replace(parser)
    parser.add_argument("--format", default="cif", choices=FORMATS, help="default: cif")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print structures and reports as JSON on standard output, all else on standard error",
    )


def _reconstruct(options: argparse.Namespace) -> int:
    from nesf.data.files import shown
    from nesf.domain import in_cell
    from nesf.saved import model_folder
    from nesf.trust import judged

    if options.structures and options.out is None and not options.json:
        raise ConfigError("--out is missing: a folder for the reconstructed structures")
    if options.structures and options.label is not None:
        raise ConfigError("--label is for splits of the run's dataset; own structures go to --out")
    options.run = model_folder(options.run)
    method, decode = methods.method_of(options.run), assignments(options.decode, "--decode")
    model = method.load(options.run, options.device)
    if not options.structures:
        return _reconstruct_splits(options, model, decode)
    inputs = [*options.structures, options.run]
    _check_out(options, inputs)
    if options.symmetrise:
        from nesf_design.symmetry import check_tolerance, symmetrised

        check_tolerance(options.symmetrise)
    decoding = method.with_decoding(model.config, decode).decoding
    given, skipped, notes = _own_structures(options, model.vocabulary)
    domain = getattr(model, "domain", {})
    used, cells = in_cell(given, options.cell, domain)
    made = method.reconstruct(model, used, decoding, not options.quiet)
    if options.symmetrise:
        made = symmetrised(made, options.symmetrise)
    made = judged(made, domain, used, given=given, cells=cells)
    about = {
        "model": dict(model.dataset),
        "input": shown(", ".join(Path(path).name for path in options.structures)),
        "reconstruction": dataclasses.asdict(decoding),
        "domain": dict(domain),
        "skipped": [dataclasses.asdict(s) for s in skipped],
        "notes": [dataclasses.asdict(n) for n in notes],
    }
    return _deliver(options, made, about, inputs, skipped)


def _reconstruct_splits(options: argparse.Namespace, model: Any, decode: Mapping[str, str]) -> int:
    from nesf import runs
    from nesf.records import command_line

    if (
        options.json
        or options.strict
        or options.out
        or options.format != "cif"
        or options.symmetrise
    ):
        raise ConfigError(
            "--out, --format, --json, --symmetrise and --strict are for own structures; splits go to the run's folder"
        )
    made = runs.reconstruct(
        options.run,
        dataset_of(options),
        tuple(options.split or ("val", "test")),
        decode=decode,
        label=options.label,
        model=model,
        command=command_line(options.words),
        progress=not options.quiet,
        replace=options.replace,
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
    return 0


def _encode(options: argparse.Namespace) -> int:
    from nesf.domain import in_cell, outside
    from nesf.latent import ids_beside, write_latent
    from nesf.saved import TrainedModel, model_folder
    from nesf.trust import warning

    if options.out.suffix not in (".npy", ".csv"):
        raise ConfigError(f"--out {options.out}: the name of a .npy or .csv file is expected")
    kinds = {options.out: b"id,z000,"}
    if options.out.suffix == ".npy":
        kinds = {options.out: b"\x93NUMPY", ids_beside(options.out): b"["}
    for file, begins in kinds.items():
        check_file(file, options.replace, inputs=_files(options.structures), begins=begins)
    model = TrainedModel.load(model_folder(options.run), options.device)
    given, skipped, _ = _own_structures(options, model.vocabulary)
    used, cells = in_cell(given, options.cell, model.domain)
    z = model.encode(used).cpu().numpy()
    write_latent(options.out, z, used.ids)
    print_skipped(skipped)
    if model.domain and (sentence := warning(used.ids, outside(used, model.domain))):
        warnings.warn(sentence, stacklevel=2)
    if converted := sum("converted" in cell for cell in cells):
        were = "crystal was" if converted == 1 else "crystals were"
        print(f"{converted} {were} converted to the model's kind of cell (--cell as-given)")
    print(f"{len(z)} latent vector{'s' * (len(z) != 1)} of {z.shape[1]} numbers in {options.out}")
    return 0


def _decode(options: argparse.Namespace) -> int:
    from nesf.decode import decode_latent
    from nesf.latent import read_latent
    from nesf.saved import TrainedModel, model_folder
    from nesf.trust import judged

    _check_out(options, [options.latent])
    model = TrainedModel.load(model_folder(options.run), options.device)
    config = methods.NESF.with_decoding(model.config, assignments(options.decode, "--decode"))
    z, ids = read_latent(options.latent)
    try:
        latent = model.latent(z)
    except DataError as error:
        raise DataError(f"{options.latent}: {error}") from None
    made = decode_latent(model, latent, ids, config.decoding, progress=not options.quiet)
    about = {"model": dict(model.dataset), "input": options.latent.name}
    about["reconstruction"] = dataclasses.asdict(config.decoding)
    return _deliver(options, judged(made, model.domain), about, [options.latent])


def _interpolate(options: argparse.Namespace) -> int:
    import nesf
    from nesf.data.files import read_structures

    files = options.source, options.destination
    _check_out(options, files)
    model = nesf.load_model(options.run, device=options.device)
    changes: dict[str, Any] = {**assignments(options.decode, "--decode")}
    read = [read_structures(path, vocabulary=model.vocabulary) for path in files]
    print_notes([note for end in read for note in end.notes])
    made = nesf.interpolate(
        model,
        read[0].crystals,
        read[1].crystals,
        options.steps,
        cell=options.cell,
        progress=not options.quiet,
        **changes,
    )
    about = {"model": dict(model.dataset), "steps": options.steps}
    about["input"] = f"{options.source.name} to {options.destination.name}"
    return _deliver(options, made, about, files)


def _own_structures(options: argparse.Namespace, vocabulary: Sequence[int]) -> Read:
    """Read the structures that the options name, in order, as they are given; print the notes."""
    from nesf.data.files import read_structures

    own = read_structures(
        options.structures,
        skip_bad=options.skip_bad,
        vocabulary=vocabulary,
        column=options.column,
    )
    print_notes(own.notes)
    return own


def _check_out(options: argparse.Namespace, inputs: Sequence[str | Path]) -> None:
    """Say before the work, not after it, that nothing may be written to --out."""
    if options.out is not None:
        check(options.out, replace=options.replace, inputs=_files(inputs))


def _files(inputs: Sequence[str | Path]) -> list[Path]:
    from nesf.data.files import files_of

    return files_of(inputs)


def _deliver(
    options: argparse.Namespace,
    made: Reconstruction,
    about: Mapping[str, Any],
    inputs: Sequence[str | Path],
    skipped: Sequence[Skipped] = (),
) -> int:
    """Write and print reconstructions, and what is known about them; return the exit code."""
    from nesf.export import as_document, line, write_reconstruction
    from nesf.trust import is_doubtful, untrusted, warning

    if options.out is not None:
        with output(options.out, replace=options.replace, inputs=_files(inputs)) as folder:
            write_reconstruction(folder, made, about, options.format)
    if options.json:
        print(json.dumps(as_document(made, about), ensure_ascii=False, allow_nan=False))
    said = sys.stderr if options.json else sys.stdout
    doubtful = untrusted(made)
    if not (options.json and options.quiet):
        print_skipped(skipped, said)
        reports = list(made.reports)
        if len(reports) > SHOWN:  # doubtful ones first
            reports.sort(key=is_doubtful, reverse=True)
        for report in reports[:SHOWN]:
            print(f"{report['id']}: {line(report)}", file=said)
        if len(reports) > SHOWN:
            print(
                f"and {len(reports) - SHOWN} more, {max(len(doubtful) - SHOWN, 0)} of them doubtful",
                file=said,
            )
        print(
            f"{len(made.crystals)} crystals"
            + (
                f" in {options.out} ({options.format}/, structures.csv, atoms.csv, summary.json)"
                if options.out is not None
                else ""
            )
            + f"; nothing detected in {len(made.nothing_detected)}{made.verdict}",
            file=said,
        )
    if sentence := warning(made.crystals.ids, [r["trust"]["outside"] for r in made.reports]):
        warnings.warn(sentence, stacklevel=2)
    return STRICT if doubtful and options.strict else 0
