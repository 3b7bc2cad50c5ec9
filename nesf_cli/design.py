"""Commands that make new crystals: sample, design."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from nesf.outputs import check, output
from nesf_cli.options import add_command, add_data_options, add_replace, dataset_of
from nesf_io.errors import ConfigError, DataError

DENSITIES = ("flow", "mixture", "noise")  # of nesf_design.density, which would load torch


def add_design_commands(commands: Any) -> None:
    """Add the commands of this module."""
    sample = add_command(
        commands,
        "sample",
        _sample,
        "new crystals: latent vectors drawn from a density of the training split, and decoded",
        "nesf sample lcs6 -n 1000 --out new/",
        "nesf sample runs/mine -n 200 --out new/ --density mixture --symmetrise 0.1",
        "nesf sample lcs6/plus -n 50 --out new/ --format poscar --seed 1",
    )
    add_model(sample)
    sample.add_argument("-n", type=int, default=1000, help="latent vectors drawn (default: 1000)")
    sample.add_argument("--seed", type=int, default=0, help="of fit and draw (default: 0)")
    sample.add_argument(
        "--density",
        default="flow",
        choices=DENSITIES,
        help="flow: a normalising flow (default); mixture: Gaussians on principal components, the control; noise: uniform, the trivial one",
    )
    sample.add_argument(
        "--passes",
        type=int,
        default=2,
        help="times that a drawn vector is decoded and encoded again before the last decoding (default: 2)",
    )
    sample.add_argument(
        "--all",
        action="store_true",
        help="write crystals without a certificate too; without it they are left out and counted",
    )
    add_symmetrise(sample)
    add_output(sample)

    wanted = add_command(
        commands,
        "design",
        _design,
        "new crystals for a target: latent vectors chosen by a regression on a property, and decoded",
        "nesf design runs/perov5 --target heat_ref=min --out low/",
        "nesf design runs/mine --target band_gap=1.5 --table properties.csv -n 20 --out gap/",
    )
    add_model(wanted)
    wanted.add_argument(
        "--target",
        required=True,
        metavar="PROPERTY=AIM",
        help="AIM: min, max or a number, in the property's unit",
    )
    wanted.add_argument(
        "--table",
        type=Path,
        help="CSV with a column id (or material_id) and the property, of training crystals (default: the dataset's own properties)",
    )
    wanted.add_argument("-n", type=int, default=50, help="crystals to make (default: 50)")
    wanted.add_argument(
        "--pool", type=int, default=2000, help="latent vectors to choose from (default: 2000)"
    )
    wanted.add_argument("--seed", type=int, default=0, help="of fit and draw (default: 0)")
    wanted.add_argument(
        "--density",
        default="flow",
        choices=DENSITIES[:2],
        help="that is drawn from (default: flow)",
    )
    add_symmetrise(wanted)
    add_output(wanted)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the model, and where its dataset is."""
    parser.add_argument(
        "run",
        metavar="MODEL",
        type=Path,
        help="folder of a run, or a recorded model by name: lcs6, lcs6/plus",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--dataset", help="name or path of the model's dataset, if it was a path")
    parser.add_argument("--fold", type=int, help="of --dataset ybco, 0-19")
    add_data_options(parser)


def add_symmetrise(parser: argparse.ArgumentParser) -> None:
    """Add the option that makes decoded crystals symmetric."""
    parser.add_argument(
        "--symmetrise",
        type=float,
        default=0.0,
        metavar="TOL",
        help="move atoms and cell onto the symmetry that spglib finds within this tolerance, Å (e.g. 0.1)",
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where and how crystals are written."""
    parser.add_argument("--out", type=Path, required=True, help="folder for the structures")
    parser.add_argument(
        "--format", default="cif", choices=("cif", "poscar", "extxyz", "json"), help="default: cif"
    )
    add_replace(parser)


def loaded(options: argparse.Namespace) -> tuple[Any, Any]:
    """Return the model and the dataset that the options name."""
    from nesf.saved import TrainedModel, model_folder

    options.run = model_folder(options.run)
    model = TrainedModel.load(options.run, options.device)
    if options.fold is not None and not options.dataset:
        raise ConfigError(
            f"--fold {options.fold}: goes with --dataset; without it the model's is taken"
        )
    dataset = dataset_of(options)
    return model, dataset


def _sample(options: argparse.Namespace) -> None:
    from nesf.decode import Reconstruction
    from nesf.export import write_reconstruction
    from nesf.latent import write_latent
    from nesf.records import command_line
    from nesf_design.sample import sample

    check(
        options.out, replace=options.replace, inputs=[options.run] if options.run.exists() else []
    )
    model, dataset = loaded(options)
    made = sample(
        model,
        options.n,
        dataset=dataset,
        density=options.density,
        seed=options.seed,
        passes=options.passes,
        symmetrise=options.symmetrise,
        progress=not options.quiet,
    )
    detected, certified = made.crystals.n_atoms > 0, made.certified
    kept = np.flatnonzero(detected & (certified | options.all))
    shown = Reconstruction(made.crystals.select(kept), [made.made.reports[i] for i in kept])
    about = {
        "command": command_line(options.words),
        "model": dict(model.dataset),
        "density": options.density,
        "choice": made.density.choice if made.density else "",
        "seed": options.seed,
        "passes": options.passes,
        "symmetrise": options.symmetrise,
        "drawn": len(made.z),
        "certified": int(certified.sum()),
        "reconstruction": dataclasses.asdict(model.config.decoding),
    }
    with output(options.out, replace=options.replace, inputs=[options.run]) as folder:
        write_reconstruction(folder, shown, about, options.format)
        write_latent(folder / "z.npy", made.z[kept], shown.crystals.ids)
    print(
        f"{options.n} latent vectors of density {options.density} ({about['choice']}): {int(certified.sum())} crystals certified, nothing detected in {int((~detected).sum())}"
    )
    print(
        f"{len(kept)} crystals in {options.out} ({options.format}/, structures.csv, atoms.csv, summary.json, z.npy)"
    )


def _design(options: argparse.Namespace) -> None:
    from nesf.export import write_reconstruction
    from nesf.files import write_atomically
    from nesf.records import command_line, read_csv
    from nesf_design.design import Goal, design, known_values
    from nesf_design.symmetry import check_tolerance

    goal = Goal.of(options.target)
    if options.symmetrise:
        check_tolerance(options.symmetrise)
    inputs = [path for path in (options.run, options.table) if path is not None and path.exists()]
    check(options.out, replace=options.replace, inputs=inputs)
    table = None if options.table is None else read_csv(options.table)
    model, dataset = loaded(options)
    try:
        values = known_values(dataset, goal, table)
    except DataError as error:
        raise DataError(f"{options.table}: {error}" if options.table else str(error)) from None
    made = design(
        model,
        goal,
        dataset,
        values,
        n=options.n,
        pool=options.pool,
        seed=options.seed,
        density=options.density,
        symmetrise=options.symmetrise,
        progress=not options.quiet,
    )
    about = {
        "command": command_line(options.words),
        "model": dict(model.dataset),
        "target": options.target,
        "known_values": int(np.isfinite(values).sum()),
        "pool": options.pool,
        "density": options.density,
        "seed": options.seed,
        "reconstruction": dataclasses.asdict(model.config.decoding),
    }
    with output(options.out, replace=options.replace, inputs=inputs) as folder:
        write_reconstruction(folder, made.samples.made, about, options.format)
        write_atomically(
            folder / "predicted.csv",
            made.table.to_csv(index=False, float_format="%.6g", lineterminator="\n"),
        )
    own = made.table.loc[made.table["certified"], "predicted_decoded"]
    known = values[np.isfinite(values)]
    print(
        f"{goal.name} of {len(known)} training crystals: {known.min():.4g} to {known.max():.4g}; predicted for the {len(own)} certified of {options.n} crystals: "
        + (f"{own.min():.4g} to {own.max():.4g}" if len(own) else "–")
    )
    print(
        f"written: {options.out} ({options.format}/, structures.csv, predicted.csv, summary.json); a prediction is not a measurement"
    )
