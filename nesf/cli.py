"""The command line. It reads options, calls the package and prints; a user's mistake ends in one sentence and exit code 2."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nesf import __version__
from nesf.errors import ConfigError, DataError, NesfError

EPILOG = """examples:
  nesf run starter --minutes 2                     the main job on the embedded data: train, reconstruct, evaluate
  nesf data fetch lcs6 && nesf run lcs6            the paper's LCS6Å (add --preset paper on a GPU)
  nesf data import my_cifs/ --name mine && nesf train mine --out runs/mine
  nesf reconstruct runs/mine more.cif --out out/   structures in, structures out
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, 2 for a user's mistake, 130 for Ctrl-C."""
    if "OMP_WAIT_POLICY" not in os.environ:
        # Threads that spin for long while they wait make torch many times slower as soon as another program wants a core; threads that sleep
        # at once cost a quarter of a training step on a quiet machine. Read when torch is loaded, hence not in nesf.hardware.
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    options = parser.parse_args(words)
    options.words = words
    warnings.formatwarning = lambda message, *_: f"nesf: warning: {message}\n"
    try:
        options.call(options)
    except NesfError as error:
        print(f"nesf: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 0
    except OSError as error:
        print(
            f"nesf: error: {error.filename or 'input/output'}: {error.strerror or error}; check the path, its permissions and the free space",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("nesf: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nesf",
        description="Neural Structure Fields: an autoencoder for crystals (Chiba et al. 2023).",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"nesf {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _data_parser(commands)

    run = _command(commands, "run", _run, "train, reconstruct and evaluate: the main job")
    run.add_argument("dataset", help="starter, lcs6, ybco, icsg3d, an imported dataset, or a path to own data")
    run.add_argument("--out", type=Path, help="run folder (default: results/<dataset>/<method>/<preset>/<seed-N or fold-K>)")
    _training_options(run)
    _split_options(run)

    train = _command(commands, "train", _train, "train the autoencoder")
    train.add_argument("dataset", help="starter, lcs6, ybco, icsg3d, an imported dataset, or a path to own data")
    train.add_argument("--out", type=Path, required=True, help="run folder")
    train.add_argument("--stream", action="store_true", help="read crystals from the packed dataset while training: for more than fit in memory")
    _training_options(train)

    reconstruct = _command(commands, "reconstruct", _reconstruct, "reconstruct splits of a run's dataset, or any structures")
    reconstruct.add_argument("run", type=Path, help="run folder with model.safetensors and model.json")
    reconstruct.add_argument(
        "structures", type=Path, nargs="?", help="own structures: a CIF or POSCAR file, a folder of them, extxyz, csv; default: the run's dataset"
    )
    reconstruct.add_argument("--out", type=Path, help="folder for own structures' reconstructions (required with STRUCTURES)")
    reconstruct.add_argument("--skip-bad", action="store_true", help="leave out entries that cannot be used, and list them")
    reconstruct.add_argument(
        "--cell", default="as-given", choices=("as-given", "conventional", "primitive"), help="cell of own structures (paper: conventional)"
    )
    reconstruct.add_argument("--dataset", help="name or path of the run's dataset, if it was a path")
    reconstruct.add_argument("--device", default="auto", help="auto, cpu, cuda")
    _split_options(reconstruct)
    _data_options(reconstruct)

    evaluate = _command(commands, "evaluate", _evaluate, "score a run's reconstructions, or any structures against any others")
    evaluate.add_argument("run", type=Path, nargs="?", help="run folder")
    evaluate.add_argument("--actual", type=Path, help="instead of a run: reference structures (file or folder)")
    evaluate.add_argument("--detected", type=Path, help="with --actual: predicted structures, matched by id (file name); a missing one is charged")
    evaluate.add_argument("--out", type=Path, help="with --actual: folder for metrics.json and materials.csv")
    evaluate.add_argument("--split", action="append", help="train, val or test; may be repeated (default: all that were reconstructed)")
    evaluate.add_argument("--dataset", help="name or path of the run's dataset, if it was a path")
    _data_options(evaluate)

    _analysis_parser(commands)
    aggregate = _command(commands, "aggregate", _aggregate, "recorded runs to one table beside the paper's, with checksums")
    aggregate.add_argument("results", type=Path, nargs="?", default=Path("results"), help="folder of recorded runs (default: results)")
    aggregate.add_argument("--figures", type=Path, metavar="DIR", help="only draw Table 1 into this folder: SVG, PNG, and what they show as CSV")
    return parser


def _analysis_parser(commands: Any) -> None:
    from nesf_studies.analysis import ANALYSES

    text = "analyse a trained model: " + ", ".join(ANALYSES)
    analyse = _command(commands, "analyse", _analyse, text)
    analyse.add_argument("analysis", help="; ".join(f"{name}: {what}" for name, what in ANALYSES.items()))
    analyse.add_argument("run", type=Path, help="run folder with model.safetensors and model.json")
    analyse.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a parameter of the analysis")
    analyse.add_argument("--out", type=Path, help="where it is recorded (default: RUN/analysis/ANALYSIS)")
    analyse.add_argument("--dataset", help="name or path of a dataset, if it is not the run's")
    analyse.add_argument("--fold", type=int, help="of --dataset ybco, 0-19")
    analyse.add_argument("--device", default="auto", help="auto, cpu, cuda")
    _data_options(analyse)


def _data_parser(commands: Any) -> None:
    data = commands.add_parser("data", help="get, import, build and inspect datasets", description="Get, import, build and inspect datasets.")
    actions = data.add_subparsers(title="commands", required=True, metavar="COMMAND")
    fetch = _command(actions, "fetch", _fetch, "get a dataset of the official release")
    fetch.add_argument("name", help="lcs6, ybco, icsg3d, icsg3d-as-released")
    fetch.add_argument("--fold", type=int, help="of ybco, 0-19 (default: all)")
    _data_options(fetch)
    own = _command(actions, "import", _import, "make a dataset of own structures")
    own.add_argument("path", type=Path, help="folder with train/val/test.csv(.gz), folder of CIF or POSCAR files, .extxyz, .csv")
    own.add_argument("--name", help="name of the dataset (default: that of the folder)")
    own.add_argument("--cell", default="as-given", choices=("as-given", "conventional", "primitive"), help="cell to use (paper: conventional)")
    own.add_argument("--seed", type=int, default=0, help="of the split, where one has to be made")
    own.add_argument("--skip-bad", action="store_true", help="leave out entries that cannot be used, and list them")
    _data_options(own, mirror=False)
    build = _command(actions, "build", _build, "query the Materials Project by selection rules")
    build.add_argument("rules", help="lcs6, icsg3d, ybco, or a JSON file of rules")
    build.add_argument("--name", help="name of the dataset (default: RULES-mp)")
    build.add_argument("--api-key", help="Materials Project key (default: as configured for mp-api)")
    build.add_argument("--endpoint", help="address of the interface (default: the Materials Project's)")
    build.add_argument("--seed", type=int, default=0, help="of the split")
    build.add_argument("--skip-bad", action="store_true", help="leave out documents that cannot be used, and list them")
    _data_options(build, mirror=False)
    audit = _command(actions, "audit", _audit, "counts, elements, cell shapes, shared ids and near-duplicates of a dataset")
    audit.add_argument("dataset")
    audit.add_argument("--fold", type=int)
    audit.add_argument("--json", type=Path, help="write the audit to this file too")
    audit.add_argument("--no-near-duplicates", action="store_true", help="leave the comparison of structures out")
    _data_options(audit)
    listed = _command(actions, "list", _list, "datasets that are on this machine")
    _data_options(listed, mirror=False)


def _command(commands: Any, name: str, call: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(call=call)
    return parser


def _data_options(parser: argparse.ArgumentParser, mirror: bool = True) -> None:
    parser.add_argument("--data", type=Path, help="data folder (default: the user's data folder)")
    if mirror:
        parser.add_argument("--mirror", type=Path, help="local copy of the official release, instead of the network")


def _split_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--split", action="append", help="train, val or test; may be repeated (default: val and test)")
    parser.add_argument(
        "--decode",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a parameter of the decoding, e.g. mode=fast or nms_radius=0.4 (icsg3d: binary_threshold=0.5)",
    )


def _training_options(parser: argparse.ArgumentParser) -> None:
    from nesf.methods import METHODS

    parser.add_argument("--method", default="nesf", help=f"{', '.join(METHODS)} (default: nesf; all but nesf and icsg3d need no training)")
    parser.add_argument("--fold", type=int, help="of ybco, 0-19")
    parser.add_argument(
        "--preset",
        help="of nesf: paper, official or cpu (default); of icsg3d: as-published, repaired (default), or either with -reduced; "
        "with --resume: that of the checkpoint",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a value of the preset, e.g. training.learning_rate=0.001"
    )
    parser.add_argument("--label", help="name for a preset changed by --set, under which the run is recorded in place of the preset's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, help="plan the number of epochs to take about this long on this machine")
    parser.add_argument("--max-minutes", type=float, help="stop after so long, with a checkpoint")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the run folder")
    parser.add_argument(
        "--resume-if-possible",
        action="store_true",
        help="go on from the run folder's checkpoint if it is of this very training, else start anew in place of what the folder holds",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--skip-bad", action="store_true", help="own data: leave out entries that cannot be used")
    _data_options(parser)


def _assignments(pairs: Sequence[str], option: str) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise ConfigError(f"{option} {pair!r}: KEY=VALUE is expected")
    return dict(pair.split("=", 1) for pair in pairs)  # type: ignore[misc]


def _dataset(options: argparse.Namespace, name: str | None = None, fold: int | None = None) -> Any:
    from nesf.data import load

    fold = fold if fold is not None else getattr(options, "fold", None)
    return load(name or options.dataset, fold=fold, data_dir=options.data, mirror=options.mirror, skip_bad=getattr(options, "skip_bad", False))


def _dataset_of_run(options: argparse.Namespace) -> Any:
    from nesf.files import read_json

    recorded = read_json(options.run / ("run.json" if (options.run / "run.json").exists() else "model.json"))["dataset"]
    return _dataset(options, options.dataset or recorded["name"], recorded["fold"])


def _skipped(skipped: Sequence[Any]) -> None:
    if skipped:
        print(f"left out {len(skipped)}:")
        for one in skipped:
            print(f"  {one.entry}: {one.reason}")


def _label(options: argparse.Namespace) -> str | None:
    if options.label is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", options.label):
        raise ConfigError(f"--label {options.label}: letters, digits and . _ - are expected, for it names a folder")
    return options.label


def _asked(options: argparse.Namespace, dataset: Any) -> Any:
    from nesf.methods import Asked

    return Asked(dataset.name, options.preset, _assignments(options.set, "--set"), _label(options))


def _maps(options: argparse.Namespace) -> Path | None:
    """Where voxelised crystals are kept: in the data folder, if there is one."""
    from nesf.data import default_data_dir

    data = options.data or default_data_dir()
    return data / "maps" if data.is_dir() else None


def _trained(options: argparse.Namespace, dataset: Any, folder: Path) -> Any:
    from nesf import methods
    from nesf.distributed import launched, processes
    from nesf.pipeline import train_run
    from nesf.records import command_line

    number, n_processes = launched()
    launcher = f"torchrun --nproc-per-node {n_processes} -m " if n_processes > 1 else ""
    method = methods.trained(options.method)
    config = method.config(_asked(options, dataset)) if not options.resume or options.preset or options.set else None
    with processes(options.device) as device:
        result = train_run(
            dataset,
            config,
            folder,
            method=method.name,
            seed=options.seed,
            device=device,
            resume="if-possible" if options.resume_if_possible else options.resume,
            minutes=options.minutes,
            max_minutes=options.max_minutes,
            maps=_maps(options),
            command=launcher + command_line(options.words),
        )
    if number > 0:  # the first process says it, and does all that follows
        return None
    state = "finished" if result.finished else f"stopped; go on with --resume --out {folder}"
    info = result.model.info
    kept = " and ".join(f"{epoch} of {network}" for network, epoch in info.get("best_epochs", {}).items()) or info["epoch"]
    print(f"training {state}: {info['epochs_trained']} epochs, {info['minutes']:.1f} minutes, weights of epoch {kept} in {folder}")
    return result


def _run(options: argparse.Namespace) -> None:
    from nesf import methods, pipeline
    from nesf import records as results

    method = methods.method(options.method)
    dataset, splits, decode = _dataset(options), tuple(options.split or ("val", "test")), _assignments(options.decode, "--decode")
    asked = _asked(options, dataset)
    predictor = isinstance(method, methods.Predictor)
    name = method.preset_of(asked) if isinstance(method, methods.Predictor) else method.config(asked).preset
    folder = options.out or methods.run_folder(
        Path("results"), dataset.name, options.method, name, seed=0 if predictor else options.seed, fold=dataset.fold
    )
    for split in splits:
        dataset.split(split)
    if isinstance(method, methods.Predictor):
        command = results.command_line(options.words)
        metrics = pipeline.predictor_run(method.name, dataset, folder, splits, asked=asked, decoding=decode, command=command)
    else:
        method.decoding(None, decode)  # a wrong one is said before the training
        trained = _trained(options, dataset, folder)
        if trained is None or not trained.finished:
            return
        pipeline.reconstruct_run(folder, dataset, splits, config=method.decoding(trained.model.config, decode), device=options.device)
        metrics = pipeline.evaluate_run(folder, dataset, splits)
    print(f"{dataset.label}, {options.method}; everything is in {folder}")
    print(pipeline.summary_table(metrics))


def _train(options: argparse.Namespace) -> None:
    from nesf import methods

    method = methods.trained(options.method)
    if not options.stream:
        _trained(options, _dataset(options), options.out)
        return
    from nesf.data import stream

    if not method.streams:
        raise ConfigError(f"--stream: {method.name} keeps the maps of all crystals in memory; train without it")

    if options.skip_bad:
        raise ConfigError("--skip-bad does not go with --stream: a packed dataset holds no bad entries")
    _trained(options, stream(options.dataset, fold=options.fold, data_dir=options.data, mirror=options.mirror), options.out)


def _reconstruct(options: argparse.Namespace) -> None:
    from nesf import methods, pipeline
    from nesf.export import write_reconstruction
    from nesf.records import command_line

    if options.structures is not None and options.out is None:
        raise ConfigError("--out is missing: a folder for the reconstructed structures")
    method = methods.method_of(options.run)
    model = method.load(options.run, options.device)
    decoding = method.decoding(model.config, _assignments(options.decode, "--decode"))
    if options.structures is None:
        made = pipeline.reconstruct_run(
            options.run,
            _dataset_of_run(options),
            tuple(options.split or ("val", "test")),
            config=decoding,
            device=options.device,
            command=command_line(options.words),
        )
        for split, result in made.items():
            print(
                f"{split}: {len(result.crystals)} crystals in {options.run / 'reconstruction' / split}, nothing detected in {len(result.nothing_detected)}"
            )
        return
    from nesf.data.files import read_structures

    crystals, skipped = read_structures(options.structures, cell=options.cell, skip_bad=options.skip_bad, vocabulary=model.vocabulary)
    result = method.reconstruct(model, crystals, decoding, True)
    about = {"model": dict(model.dataset), "input": options.structures.name, "reconstruction": dataclasses.asdict(decoding)}
    about["skipped"] = [{"entry": s.entry, "reason": s.reason} for s in skipped]
    write_reconstruction(options.out, result, about)
    _skipped(skipped)
    print(
        f"{len(crystals)} crystals in {options.out} (cif/, structures.csv, atoms.csv, summary.json); nothing detected in {len(result.nothing_detected)}"
    )


def _evaluate(options: argparse.Namespace) -> None:
    from nesf import pipeline
    from nesf.records import command_line

    if options.run is not None:
        if options.actual or options.detected:
            raise ConfigError("give either a run folder or --actual and --detected, not both")
        metrics = pipeline.evaluate_run(options.run, _dataset_of_run(options), options.split, command=command_line(options.words))
        print(pipeline.summary_table(metrics))
        return
    if not (options.actual and options.detected and options.out):
        raise ConfigError("give a run folder, or all of --actual, --detected and --out")
    from nesf.data.files import read_structures
    from nesf.files import write_atomically, write_json
    from nesf.metrics import align, evaluate

    actual, detected = read_structures(options.actual)[0], read_structures(options.detected)[0]
    result = evaluate(actual, align(actual, detected), progress=True)
    write_json(options.out / "metrics.json", result.summary)
    write_atomically(options.out / "materials.csv", result.materials.to_csv(index=False, lineterminator="\n"))
    print(pipeline.summary_table({"detected": result}))


def _analyse(options: argparse.Namespace) -> None:
    from nesf.records import command_line
    from nesf_studies.analysis.recording import run_analysis

    made = run_analysis(
        options.analysis,
        options.run,
        _dataset(options) if options.dataset else _dataset_of_run(options),
        _assignments(options.set, "--set"),
        out=options.out,
        device=options.device,
        command=command_line(options.words),
    )
    print(f"written: {made.folder} ({', '.join(sorted(p.name for p in made.folder.iterdir()))})")


def _aggregate(options: argparse.Namespace) -> None:
    from nesf.records import all_runs
    from nesf_studies.paper import beside_the_paper, write_table

    if options.figures is None:
        print(f"written: {write_table(options.results)}, with SHA256SUMS beside it")
        return
    from nesf_studies.figures import comparison, save
    from nesf_studies.pages import LABELS, TABLE1, TITLES

    rows = beside_the_paper(all_runs(options.results))
    rows = rows[rows["metric"].isin(TABLE1)]
    made = save(comparison(rows, {k: LABELS[k] for k in TABLE1}, TITLES), options.figures / "table1", rows)
    print(f"written: {', '.join(map(str, made))}")


def _fetch(options: argparse.Namespace) -> None:
    from nesf.data import fetch

    print(f"written: {fetch(options.name, fold=options.fold, data_dir=options.data, mirror=options.mirror)}")


def _import(options: argparse.Namespace) -> None:
    from nesf.data import OFFICIAL, default_data_dir, save_dataset
    from nesf.data.files import read

    name = options.name or options.path.resolve().name.split(".")[0]
    if name in (*OFFICIAL, "starter") or not name or "/" in name or name.startswith("."):
        raise ConfigError(f"{name!r} cannot be the name of an imported dataset; give another by --name")
    dataset, skipped = read(options.path, name=name, seed=options.seed, cell=options.cell, skip_bad=options.skip_bad)
    folder = (options.data or default_data_dir()) / name
    save_dataset(dataset, folder)
    _skipped(skipped)
    print(f"written: {folder} ({', '.join(f'{s} {len(c)}' for s, c in dataset.splits.items())})")


def _build(options: argparse.Namespace) -> None:
    from nesf.data.materials_project import build
    from nesf.data.rules import load_rules

    rules = load_rules(options.rules)
    name = options.name or f"{Path(options.rules).stem}-mp"
    folder = build(
        rules, name=name, api_key=options.api_key, endpoint=options.endpoint, data_dir=options.data, seed=options.seed, skip_bad=options.skip_bad
    )
    print(f"written: {folder}")


def _audit(options: argparse.Namespace) -> None:
    from nesf.data.audit import audit
    from nesf.files import write_json

    result = audit(_dataset(options), near_duplicates=not options.no_near_duplicates)
    print(result)
    if options.json:
        write_json(options.json, json.loads(json.dumps(result.to_dict(), default=str)))


def _list(options: argparse.Namespace) -> None:
    from nesf.data import available
    from nesf.files import read_json

    for label, folder in available(options.data).items():
        try:
            counts = read_json(folder / "dataset.json")["counts"]
        except (DataError, KeyError) as error:
            print(f"{label:24s} damaged: {error}")
            continue
        print(f"{label:24s} " + ", ".join(f"{split} {n}" for split, n in counts.items()))


if __name__ == "__main__":
    sys.exit(main())
