"""The commands on what the book shows: analyse, benchmark, aggregate, view."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nesf.files import write_atomically
from nesf.outputs import check_file, output
from nesf_cli.options import (
    add_command,
    add_data_options,
    add_replace,
    assignments,
    dataset_of,
    print_notes,
)
from nesf_io.errors import ConfigError
from nesf_studies import ANALYSES
from nesf_studies.checksums import SUMS, TABLE


def add_analyse(commands: Any) -> None:
    """Add `nesf analyse`."""
    analyse = add_command(
        commands,
        "analyse",
        _analyse,
        "analyse a trained model: " + ", ".join(ANALYSES),
        "nesf analyse latent-space runs/mine",
        "nesf analyse interpolation runs/mine --set 'paths=a.cif to b.cif'",
    )
    analyse.add_argument(
        "analysis", help="; ".join(f"{name}: {what}" for name, what in ANALYSES.items())
    )
    analyse.add_argument("run", type=Path, help="run folder with model.safetensors and model.json")
    analyse.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a parameter of the analysis",
    )
    analyse.add_argument(
        "--out", type=Path, help="where it is recorded (default: RUN/analysis/ANALYSIS)"
    )
    analyse.add_argument("--dataset", help="name or path of a dataset, if it is not the run's")
    analyse.add_argument("--fold", type=int, help="of --dataset ybco, 0-19")
    analyse.add_argument("--device", default="auto", help="auto, cpu, cuda")
    add_replace(analyse)
    add_data_options(analyse)


def add_benchmark(commands: Any) -> None:
    """Add `nesf benchmark`."""
    benchmark = add_command(
        commands,
        "benchmark",
        _benchmark,
        "score a run as the field does: match rate, RMSE, validity, and their ceiling",
        "nesf benchmark runs/mine",
        "nesf benchmark results/perov5-third/nesf/plus/seed-0 --split test",
    )
    benchmark.add_argument("run", type=Path, help="run folder with its reconstructions")
    benchmark.add_argument(
        "--split",
        action="append",
        choices=("train", "val", "test"),
        help="may be repeated (default: val and test)",
    )
    benchmark.add_argument(
        "--out", type=Path, help="where it is recorded (default: RUN/analysis/benchmark)"
    )
    benchmark.add_argument("--dataset", help="name or path of the run's dataset")
    add_replace(benchmark)
    add_data_options(benchmark)


def add_aggregate(commands: Any) -> None:
    """Add `nesf aggregate`."""
    aggregate = add_command(
        commands,
        "aggregate",
        _aggregate,
        "recorded runs to one table beside the paper's, with model cards and checksums",
        "nesf aggregate results",
        "nesf aggregate results --figures figures/",
    )
    aggregate.add_argument(
        "results",
        type=Path,
        nargs="?",
        default=Path("results"),
        help="folder of recorded runs (default: results)",
    )
    aggregate.add_argument(
        "--figures",
        type=Path,
        metavar="DIR",
        help="only draw Table 1 into this folder: SVG, PNG, and what they show as CSV",
    )
    add_replace(aggregate)


def add_view(commands: Any) -> None:
    """Add `nesf view`."""
    view = add_command(
        commands,
        "view",
        _view,
        "a picture of structures: PNG, SVG, or HTML to turn in 3-D",
        "nesf view my.cif",
        "nesf view decoded/cif --out decoded.html",
    )
    view.add_argument("structures", type=Path, help="a CIF or POSCAR file, a folder, extxyz, csv")
    view.add_argument(
        "--out", type=Path, help=".png, .svg or .html (default: STRUCTURES.png in this folder)"
    )
    add_replace(view)


def _analyse(options: argparse.Namespace) -> None:
    from nesf.records import command_line
    from nesf_studies.record import run_analysis

    made = run_analysis(
        options.analysis,
        options.run,
        dataset_of(options),
        assignments(options.set, "--set"),
        out=options.out,
        device=options.device,
        command=command_line(options.words),
        replace=options.replace,
    )
    print(
        f"written: {made.folder} ({', '.join(sorted(p.name for p in made.folder.glob('[!.]*')))})"
    )


def _benchmark(options: argparse.Namespace) -> None:
    from nesf.records import command_line
    from nesf_studies.benchmark import Parameters, record_benchmark

    splits = tuple(dict.fromkeys(options.split)) if options.split else Parameters().splits
    made = record_benchmark(
        options.run,
        dataset_of(options),
        Parameters(splits),
        out=options.out,
        command=command_line(options.words),
        replace=options.replace,
    )
    table = made.table("benchmark").set_index(["split", "crystals", "tolerances", "rule"])
    print(table.round(4).to_string())
    print(f"written: {made.folder}")


def _view(options: argparse.Namespace) -> None:
    from nesf.data.files import read_structures
    from nesf_studies.viewer import picture_of, standalone

    out = options.out or Path(f"{options.structures.resolve().name.split('.')[0]}.png")
    if out.suffix not in (".png", ".svg", ".html"):
        raise ConfigError(f"--out {out}: the name of a .png, .svg or .html file is expected")
    begins = {".png": b"\x89PNG", ".svg": b"<?xml", ".html": b"<!DOCTYPE html>"}[out.suffix]
    check_file(out, options.replace, inputs=[options.structures], begins=begins)
    crystals, _, notes = read_structures(options.structures)
    print_notes(notes)
    structures = crystals.to_structures()
    if out.suffix == ".html":
        write_atomically(out, standalone(structures))
    else:
        write_atomically(out, picture_of(structures, out.suffix[1:]))
    print(f"written: {out} ({len(structures)} structures)")


def _aggregate(options: argparse.Namespace) -> None:
    from nesf.records import all_runs
    from nesf_studies.cards import write_cards
    from nesf_studies.paper import beside_the_paper, write_table

    if options.figures is None:
        for name, begins in ((TABLE, b"source,"), (SUMS, b"")):
            check_file(options.results / name, options.replace, begins=begins)
        sums = options.results / SUMS
        if sums.is_file() and TABLE not in sums.read_text(errors="replace"):
            raise ConfigError(f"{sums}: was not written by this program; move it away")
        write_cards(options.results, replace=options.replace)
        print(f"written: {write_table(options.results)}, with SHA256SUMS beside it")
        return
    from nesf_studies.page import LABELS, TABLE1, TITLES
    from nesf_studies.scores import comparison
    from nesf_studies.style import save

    rows = beside_the_paper(all_runs(options.results))
    rows = rows[rows["metric"].isin(TABLE1)]
    with output(options.figures, replace=options.replace) as folder:
        figure = comparison(rows, {k: LABELS[k] for k in TABLE1}, TITLES)
        made = save(figure, folder / "table1", rows)
    print(f"written: {', '.join(str(options.figures / file.name) for file in made)}")
