"""The command line: options in, calls, prints.

A user's mistake ends in one sentence and exit code 2.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nesf import __version__, methods
from nesf.files import remedy_for, write_json
from nesf.outputs import output
from nesf.runs import Run
from nesf_cli.crystals import add_crystal_commands
from nesf_cli.data import add_data_commands
from nesf_cli.design import add_design_commands
from nesf_cli.doctor import add_doctor_commands
from nesf_cli.options import (
    OWN_PATHS,
    add_command,
    add_data_options,
    add_replace,
    add_split_options,
    assignments,
    dataset_of,
    print_notes,
)
from nesf_io.errors import ConfigError, EntryError, NesfError

if TYPE_CHECKING:
    from nesf.metrics import Metrics

EPILOG = """examples:
  nesf run starter --minutes 2                     the main job on the embedded data: train, reconstruct, evaluate
  nesf data fetch lcs6 && nesf run lcs6            the paper's LCS6Å (add --preset paper on a GPU)
  nesf data import my_cifs/ --name mine && nesf train mine --out runs/mine
  nesf reconstruct runs/mine more.cif --out out/   structures in, structures out
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, 2 for a user's mistake, 130 for Ctrl-C.

    3: `--strict`, and something speaks against a reconstruction.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        # Threads that spin for long while they wait make torch many times slower as soon as another
        # program wants a core; threads that sleep at once cost a quarter of a training step on a
        # quiet machine. Read when torch is loaded, hence not in nesf.hardware.
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    words = list(sys.argv[1:] if arguments is None else arguments)
    known = parser()
    options = known.parse_args(words)
    options.words, options.parser = words, known
    for stream in (sys.stdout, sys.stderr):  # ids and file names may not be Unicode
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.formatwarning = lambda message, *_: f"nesf: warning: {message}\n"
    silent = options.quiet and getattr(options, "json", None) is not True
    try:
        with redirect_stdout(io.StringIO()) if silent else nullcontext():
            return options.call(options) or 0
    except NesfError as error:
        text = str(error)
        if isinstance(error, EntryError) and hasattr(options, "skip_bad"):
            text += ", or leave it out with --skip-bad"
        print(f"nesf: error: {text}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 0
    except OSError as error:
        print(
            f"nesf: error: {error.filename or 'input/output'}: {error.strerror or error}; {remedy_for(error)}",
            file=sys.stderr,
        )
        return 2
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        print(
            "nesf: error: not enough memory; take smaller batches, networks or files, or another machine",
            file=sys.stderr,
        )
        return 2
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("nesf"):
            raise
        print(
            f"nesf: error: {error.name} is not installed; install what this command needs with pip install 'nesf[dev]'",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("nesf: interrupted", file=sys.stderr)
        return 130


def _out_of_memory(error: Exception) -> bool:
    """Tell whether an error is one of too little memory, torch's included."""
    text = str(error)
    return (
        isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text
    )


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line, with the commands of other packages."""
    parser = argparse.ArgumentParser(
        prog="nesf",
        description="Neural Structure Fields: an autoencoder for crystals (Chiba et al. 2023).",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"nesf {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_data_commands(commands)

    run = add_command(
        commands,
        "run",
        _run,
        "train, reconstruct and evaluate: the main job",
        "nesf run starter --minutes 2 --out runs/first",
        "nesf run lcs6 --preset paper",
        "nesf run ybco --fold 0 --split test --decode mode=consistent",
    )
    run.add_argument(
        "dataset", help="starter, lcs6, ybco, icsg3d, an imported dataset, or a path to own data"
    )
    run.add_argument(
        "--out",
        type=Path,
        help="run folder (default: results/<dataset>/<method>/<preset>/<seed-N or fold-K>)",
    )
    _training_options(run)
    add_split_options(run)

    train = add_command(
        commands,
        "train",
        _train,
        "train the autoencoder",
        "nesf train mine --out runs/mine --max-minutes 30",
        "nesf train mine --out runs/mine --resume",
    )
    train.add_argument(
        "dataset", help="starter, lcs6, ybco, icsg3d, an imported dataset, or a path to own data"
    )
    train.add_argument("--out", type=Path, required=True, help="run folder")
    train.add_argument(
        "--stream",
        action="store_true",
        help="read crystals from the packed dataset while training: for more than fit in memory",
    )
    _training_options(train)

    add_crystal_commands(commands)
    add_design_commands(commands)
    _add_evaluate(commands)
    add_doctor_commands(commands)
    # of nesf_studies: analyse, aggregate, view
    for point in metadata.entry_points(group="nesf.commands"):
        point.load()(commands)
    return parser


def _add_evaluate(commands: Any) -> None:
    evaluate = add_command(
        commands,
        "evaluate",
        _evaluate,
        "score a run's reconstructions, or any structures against any others",
        "nesf evaluate runs/mine",
        "nesf evaluate --actual a/ --detected b/ --out scores/",
    )
    evaluate.add_argument("run", type=Path, nargs="?", help="run folder")
    evaluate.add_argument(
        "--actual", nargs="+", help=f"instead of a run: reference structures: {OWN_PATHS}"
    )
    evaluate.add_argument(
        "--detected",
        nargs="+",
        help="with --actual: predicted structures, matched by id (file name); a missing or unusable one is charged",
    )
    evaluate.add_argument(
        "--no-images",
        action="store_true",
        help="with --actual: compare positions as they stand, as the paper does; by default each detected atom is taken at its periodic image nearest to an actual atom, for files (but nesf's own) keep atoms wrapped into the cell",
    )
    evaluate.add_argument(
        "--out",
        type=Path,
        help="with --actual: folder for metrics.json, materials.csv and evaluation.json",
    )
    evaluate.add_argument(
        "--split",
        action="append",
        help="train, val or test; may be repeated (default: all that were reconstructed)",
    )
    evaluate.add_argument("--dataset", help="name or path of the run's dataset, if it was a path")
    add_replace(evaluate)
    add_data_options(evaluate)


def _training_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--method",
        default="nesf",
        help=f"{', '.join(methods.METHODS)} (default: nesf; all but nesf and icsg3d need no training)",
    )
    parser.add_argument("--fold", type=int, help="of ybco, 0-19")
    parser.add_argument(
        "--preset",
        help="of nesf: paper, official, cpu (default) or plus; of icsg3d: as-published, repaired (default), or either with -reduced; "
        "with --resume: that of the checkpoint",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a value of the preset, e.g. training.learning_rate=0.001",
    )
    parser.add_argument(
        "--label",
        help="name for a preset changed by --set, under which the run is recorded in place of the preset's",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--minutes",
        type=_minutes,
        help="plan the number of epochs to take about this long on this machine",
    )
    parser.add_argument(
        "--max-minutes", type=_minutes, help="stop after so long, with a checkpoint"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint in the run folder"
    )
    parser.add_argument(
        "--resume-if-possible",
        action="store_true",
        help="go on from the run folder's checkpoint if it is of this very training, else start anew (with --replace: in place of the run that the folder holds)",
    )
    add_replace(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument(
        "--skip-bad", action="store_true", help="own data: leave out entries that cannot be used"
    )
    add_data_options(parser)


def _minutes(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):  # nor nan
        raise argparse.ArgumentTypeError(f"{text}: a finite number, not below 0, is expected")
    return value


def _asked(options: argparse.Namespace, dataset: Any) -> Run:
    """Return the run that the options ask for."""
    changes = tuple(assignments(options.set, "--set").items())
    splits = tuple(getattr(options, "split", None) or ("val", "test"))
    return Run(
        dataset.name,
        options.method,
        options.preset,
        options.seed,
        dataset.fold,
        options.label,
        changes,
        splits,
    ).planned(options.minutes)


def _maps(options: argparse.Namespace) -> Path | None:
    """Where voxelised crystals are kept: in the data folder, if there is one."""
    from nesf.data import default_data_dir

    data = options.data or default_data_dir()
    return data / "maps" if data.is_dir() else None


def _trained(options: argparse.Namespace, run: Run, dataset: Any, folder: Path) -> Any:
    """Train, and say how it ended; returns the result, or None in all processes but the first."""
    from nesf import runs
    from nesf.distributed import launched, processes
    from nesf.records import command_line

    number, n_processes = launched()
    launcher = f"torchrun --nproc-per-node {n_processes} -m " if n_processes > 1 else ""
    methods.trained(run.method)
    with processes(options.device) as device:
        result = runs.train(
            run,
            dataset,
            folder,
            config=run.config() if not options.resume or options.preset or options.set else None,
            resume="if-possible" if options.resume_if_possible else options.resume,
            replace=options.replace,
            command=launcher + command_line(options.words),
            **{
                "device": device,
                "minutes": options.minutes,
                "max_minutes": options.max_minutes,
                "maps": _maps(options),
                "progress": not options.quiet,
            },
        )
    if number > 0:  # the first process says it, and does all that follows
        return None
    state = "finished" if result.finished else f"stopped; go on with --resume --out {folder}"
    info = result.model.info
    kept = (
        " and ".join(
            f"{epoch} of {network}" for network, epoch in info.get("best_epochs", {}).items()
        )
        or info["epoch"]
    )
    print(
        f"training {state}: {info['epochs_trained']} epochs, {info['minutes']:.1f} minutes, weights of epoch {kept} in {folder}"
    )
    return result


def _run(options: argparse.Namespace) -> None:
    from nesf import runs
    from nesf.records import command_line

    method, decode = methods.method(options.method), assignments(options.decode, "--decode")
    dataset = dataset_of(options)
    run = _asked(options, dataset)
    method.with_decoding(run.config(), decode)  # a wrong value is said before the training
    folder, shown = options.out or Path("results") / run.name, not options.quiet
    for split in run.splits:
        dataset.split(split)
    if run.method not in methods.TRAINED:
        scores = runs.predict(
            run,
            dataset,
            folder,
            decode=decode,
            command=command_line(options.words),
            progress=shown,
            replace=options.replace,
        )
    else:
        trained = _trained(options, run, dataset, folder)
        if trained is None or not trained.finished:
            return
        # what follows from an earlier training went with it
        runs.reconstruct(
            folder,
            dataset,
            run.splits,
            decode=decode,
            model=trained.model,
            progress=shown,
            replace=True,
        )
        scores = runs.evaluate(folder, dataset, run.splits, progress=shown, replace=True)
    print(f"{dataset.label}, {options.method}; everything is in {folder}")
    print(_summary(scores))


def _train(options: argparse.Namespace) -> None:
    from nesf.data import stream

    if not options.stream:
        dataset = dataset_of(options)
    elif not methods.trained(options.method).streams:
        raise ConfigError(
            f"--stream: {options.method} keeps the maps of all crystals in memory; train without it"
        )
    elif options.skip_bad:
        raise ConfigError(
            "--skip-bad does not go with --stream: a packed dataset holds no bad entries"
        )
    else:
        dataset = stream(
            options.dataset, fold=options.fold, data_dir=options.data, mirror=options.mirror
        )
    _trained(options, _asked(options, dataset), dataset, options.out)


def _evaluate(options: argparse.Namespace) -> None:
    from nesf import runs
    from nesf.data.files import files_of
    from nesf.records import command_line

    if options.run is not None:
        if options.actual or options.detected:
            raise ConfigError("give either a run folder or --actual and --detected, not both")
        print(
            _summary(
                runs.evaluate(
                    options.run,
                    dataset_of(options),
                    options.split,
                    command=command_line(options.words),
                    progress=not options.quiet,
                    replace=options.replace,
                )
            )
        )
        return
    if not (options.actual and options.detected and options.out):
        raise ConfigError("give a run folder, or all of --actual, --detected and --out")
    inputs = files_of([*options.actual, *options.detected])
    with output(options.out, replace=options.replace, inputs=inputs) as folder:
        scores = {"test": _score_files(options, folder)}
    print(_summary(scores))


def _score_files(options: argparse.Namespace, folder: Path) -> Metrics:
    """Score the structures of some files, and write how and with what into a folder."""
    from nesf.data.files import as_decoded, read_structures
    from nesf.metrics import align, evaluate, nearest_images
    from nesf.records import command_line, commit, write_metrics

    actual, _, notes = read_structures(options.actual)
    detected, unusable, of_detected = read_structures(options.detected, decoded=True)
    print_notes([*notes, *of_detected])
    left_out = [f"{one.entry} ({one.reason})" for one in unusable]
    if left_out:
        warnings.warn(f"detected structures left out: {'; '.join(left_out)}", stacklevel=2)
    charged = [i for i in actual.ids if i not in {*detected.ids}]
    if charged:
        warnings.warn(f"charged as nothing detected: {', '.join(charged)}", stacklevel=2)
    own, detected = as_decoded(detected), align(actual, detected)
    if not options.no_images:
        detected = nearest_images(actual, detected, but=own)
    metrics = evaluate(actual, detected, progress=not options.quiet)
    write_metrics(folder, {"test": metrics})
    about = {
        "command": command_line(options.words),
        "commit": commit(),
        "periodic_images": not options.no_images,
        "left_out": left_out,
        "charged": charged,
    }
    write_json(folder / "evaluation.json", about)
    return metrics


def _summary(scores: Mapping[str, Metrics]) -> str:
    """Return the headline metrics of some splits as text, one row each metric."""
    from nesf.metrics import HEADLINE

    rows = [f"{'':40s}" + "".join(f"{split:>12s}" for split in scores)]
    for key in (*HEADLINE, "n_nothing_detected"):
        values = [metrics.summary[key] for metrics in scores.values()]
        rows.append(
            f"{key:40s}"
            + "".join(
                f"{'–' if v is None else f'{v:.4f}' if isinstance(v, float) else v:>12}"
                for v in values
            )
        )
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
