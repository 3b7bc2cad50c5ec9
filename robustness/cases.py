"""The cases of the campaign, by kind."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from robustness import mutate
from robustness.base import DECODE, MIRRORED, Base, train
from robustness.runner import (
    Case,
    Fault,
    forked,
    full_disk,
    nesf,
    snapshot,
    still_there,
)
from robustness.server import KEY, Server

RESULTS = Path(__file__).resolve().parents[1] / "results"

COUNTS = {
    "undamaged": 6,
    "structure files": 2000,
    "models and records": 300,
    "kills in training": 50,
    "full disk": 60,
    "two processes": 30,
    "foreign files": 20,
}
BATCH = 25  # structure files of one command
COMPILED = 10  # each so many kills, one of a compiled training


def all_cases(base: Base, share: float, seed: int) -> list[Case]:
    """Return the cases of a share of the campaign, at least one of each kind."""
    cases: list[Case] = []
    for kind, (make, count) in MAKERS.items():
        n = max(1, round(count * share))
        cases += make(base, kind, range(seed * count, seed * count + n))
    return cases


def structure_files(base: Base, kind: str, seeds: range) -> list[Case]:
    """Damaged structure files, read in batches by `nesf encode --skip-bad`."""
    cases = []
    for start in range(0, len(seeds), BATCH):
        part = list(seeds[start : start + BATCH])
        singles = [Case(kind, s, partial(_read, base, [s])) for s in part]
        body = partial(_read, base, part)
        cases.append(Case(kind, part[0], body, parts=singles, count=len(part)))
    return cases


def damaged_structure(base: Base, seed: int) -> tuple[str, bytes]:
    """Return name and content of the damaged structure file of a seed."""
    random_, files = random.Random(f"structure {seed}"), base.structures()
    source = random_.choice(files)
    other = random_.choice([f for f in files if f.suffix == source.suffix])
    original = source.read_text()
    if source.suffix == ".json" and random_.random() < 0.7:
        damaged = mutate.json_text(random_, original)
    else:
        damaged = mutate.text(random_, original, other.read_text())
    return f"{seed}{source.suffix}", damaged


def _read(base: Base, seeds: list[int], work: Path, _: random.Random) -> str:
    for seed in seeds:
        name, damaged = damaged_structure(base, seed)
        # tables and extended XYZ are read as single files
        (work / name).write_bytes(damaged)
    before = snapshot(work)
    single = [p for p in work.iterdir() if p.suffix in (".csv", ".extxyz", ".json")]
    groups = [[p] for p in single] + [[p for p in work.iterdir() if p not in single]]
    for k, group in enumerate(filter(None, groups)):
        out = work / f"z{k}.npy"
        code, printed = nesf("encode", base.run, *group, "--skip-bad", "--out", out)
        if code == 2 and not any(p.name in printed for p in group):
            raise Fault("message", f"names none of {group[0].name}: {printed[-200:]}")
    still_there(before, work)
    return ""


def models_and_records(base: Base, kind: str, seeds: range) -> list[Case]:
    """Damaged models, checkpoints, datasets, records, latent vectors and rules."""
    return [Case(kind, s, partial(TARGETS[s % len(TARGETS)], base)) for s in seeds]


def _model(base: Base, work: Path, random_: random.Random) -> str:
    run = base.copy("run", work / "run")
    file = random_.choice(("model.json", "model.json", "model.safetensors"))
    _damage(run / file, random_)
    if file.endswith(".safetensors") and random_.random() < 0.8:
        mutate.with_hash(run, file, "model.json")
    before = snapshot(work)
    nesf("encode", run, base.good(), "--out", work / "z.npy")
    nesf("reconstruct", run, base.good(), "--out", work / "out", *DECODE)
    still_there(before, work)
    return file


def _record(base: Base, work: Path, random_: random.Random) -> str:
    run = base.copy("run", work / "nesf" / "small" / "seed-0")
    place = run / "reconstruction" / "test"
    file = random_.choice(
        [
            run / "run.json",
            run / "metrics.json",
            place / "summary.json",
            place / "crystals.safetensors",
        ]
    )
    _damage(file, random_)
    nesf(*with_option(["evaluate", str(run), "--data", str(base.data)], "--replace"))
    nesf("reconstruct", run, "--data", base.data, "--label", "other", *DECODE)
    return file.name


def _checkpoint(base: Base, work: Path, random_: random.Random) -> str:
    run = base.copy("run", work / "run")
    name = next(run.glob("checkpoint-*")).name
    file = random_.choice(("checkpoint.json", "checkpoint.json", name, "run.json"))
    _damage(run / file, random_)
    if file == name and random_.random() < 0.8:
        mutate.with_hash(run, file, "checkpoint.json")
    words = ["train", "few", "--data", str(base.data), "--out", str(run), "--device", "cpu"]
    nesf(*words, "--resume")
    nesf(*train(base, run, "--resume-if-possible"))
    return file


def _dataset(base: Base, work: Path, random_: random.Random) -> str:
    data = base.copy("data", work / "data")
    file = random_.choice(("dataset.json", "dataset.json", "train.safetensors", "test.safetensors"))
    _damage(data / "few" / file, random_)
    before = snapshot(work)
    nesf("data", "list", "--data", data)
    nesf("data", "audit", "few", "--data", data, "--json", work / "audit.json")
    words = [str(data) if w == str(base.data) else w for w in train(base, work / "run")]
    nesf(*words)
    nesf(*(str(work / "streamed") if w == str(work / "run") else w for w in words), "--stream")
    still_there(before, work)
    return file


def _latent(base: Base, work: Path, random_: random.Random) -> str:
    file = random_.choice(("z.npy", "z.csv", "z.ids.json"))
    for name in ("z.npy", "z.csv", "z.ids.json"):
        base.copy(name, work / name)
    _damage(work / file, random_)
    z = "z.csv" if file == "z.csv" else "z.npy"
    nesf("decode", base.run, work / z, "--out", work / "out", *DECODE)
    return file


def _rules(base: Base, work: Path, random_: random.Random) -> str:
    rules = base.copy("rules.json", work / "rules.json")
    _damage(rules, random_)
    nesf("data", "build", rules, "--data", work / "data", "--endpoint", "http://127.0.0.1:9")
    return "rules.json"


def _analysis(base: Base, work: Path, random_: random.Random) -> str:
    from nesf.records import read_run
    from nesf_io.errors import NesfError
    from nesf_studies.record import recorded_analysis

    run = base.copy("run", work / "run")
    files = [
        run / "analysis" / "examples" / "analysis.json",
        run / "log.csv",
        run / "materials.csv",
    ]
    file = random_.choice([f for f in files if f.exists()])
    _damage(file, random_)
    for read in (
        lambda: recorded_analysis("examples", run),
        lambda: (read_run(run).log(), read_run(run).materials()),
    ):
        try:
            read()  # type: ignore[no-untyped-call]
        except NesfError:
            pass
        except Exception as error:
            raise Fault("traceback", f"{file.name}: {error!r}"[:300]) from None
    return file.name


def _options_of_decoding(base: Base, work: Path, random_: random.Random) -> str:
    import dataclasses

    from nesf.config import ReconstructionConfig

    name = random_.choice([f.name for f in dataclasses.fields(ReconstructionConfig)])
    value = random_.choice(
        (
            "0",
            "-1",
            "1e-9",
            "0.001",
            "1e9",
            "10000000000",
            "nan",
            "[",
            "x",
            "1e400",
            "null",
            "true",
            "9" * 5000,
        )
    )
    nesf(
        *("reconstruct", base.run, base.good(), "--out", work / "out", *DECODE),
        *("--decode", f"{name}={value}"),
    )
    return f"{name}={value}"


TARGETS: tuple[Callable[[Base, Path, random.Random], str], ...] = (
    *(_model, _checkpoint, _record, _model, _dataset, _checkpoint, _model),
    *(_record, _latent, _dataset, _rules, _options_of_decoding, _analysis),
)


INTACT = (_model, _checkpoint, _record, _dataset, _latent, _analysis)


def undamaged(base: Base, kind: str, seeds: range) -> list[Case]:
    """The commands on files without damage, where all must succeed: else the rest says nothing."""
    return [Case(kind, s, partial(_intact, base, INTACT[s % len(INTACT)])) for s in seeds]


def _intact(
    base: Base,
    target: Callable[[Base, Path, random.Random], str],
    work: Path,
    random_: random.Random,
) -> str:
    # in the process of this case alone
    globals().update(_damage=lambda *_: None, nesf=partial(nesf, exits=(0,)))
    return target(base, work, random_)


def _damage(path: Path, random_: random.Random) -> None:
    original = path.read_bytes()
    if path.suffix == ".json":
        damaged = mutate.json_text(random_, original.decode())
    elif path.suffix == ".safetensors":
        damaged = mutate.tensors(random_, original)
    elif path.suffix == ".csv":
        damaged = mutate.text(random_, original.decode(), original.decode())
    else:
        damaged = mutate.content(random_, original)
    path.write_bytes(damaged)


def with_option(words: list[str], option: str) -> list[str]:
    """Return a command with an option, if it has it."""
    from nesf_cli.main import parser

    found: Any = parser()
    for word in words:
        if not found._subparsers:
            break
        found = found._subparsers._group_actions[0].choices[word]
    return [*words, option] if option in found._option_string_actions else words


def kills(base: Base, kind: str, seeds: range) -> list[Case]:
    """Trainings that are killed and resumed, compared with one that was not."""
    cases = []
    for seed in seeds:
        compiled = seed % COMPILED == COMPILED - 1
        body = partial(_kill, base, compiled)
        cases.append(Case(kind, seed, body, limit=300 if compiled else 60))
    return cases


def _kill(base: Base, compiled: bool, work: Path, random_: random.Random) -> str:
    changes = {"training__compile": "true"} if compiled else {}
    if random_.random() < 0.5:
        changes["training__average"] = "0.9"
    whole, killed = work / "whole", work / "killed"
    n = [0]
    _ended(forked(lambda: _training(base, whole, changes, None, work / "events")))
    n_events = int((work / "events").read_text())
    early = random_.random() < 0.3
    for _ in range(random_.choice((1, 1, 2, 3))):
        n[0] = random_.randrange(min(n_events, 12) if early else n_events)
        _ended(forked(lambda: _training(base, killed, changes, n[0], work / "n")), killed=True)
    _ended(forked(lambda: _training(base, killed, changes, None, work / "n")))
    for name in ("model.safetensors", "log.csv"):
        first, second = (_content(folder / name) for folder in (whole, killed))
        if first != second:
            raise Fault("differs", f"{name} after a kill at event {n[0]} of {n_events} ({changes})")
    if left := [p.name for p in killed.glob(".*.part")]:
        raise Fault("left", f"{left[0]}, a part of a file")
    return ""


def _content(path: Path) -> bytes | list[list[str]]:
    """Return a file's content; of a log all but the minutes."""
    if path.suffix != ".csv":
        return path.read_bytes()
    rows = [line.split(",") for line in path.read_text().splitlines()]
    minutes = rows[0].index("minutes")
    return [row[:minutes] + row[minutes + 1 :] for row in rows]


def _training(base: Base, out: Path, changes: dict[str, str], at: int | None, report: Path) -> None:
    """Train, with a checkpoint after every step; kill this process at an event, if one is given.

    Events: a step, a file that is about to be whole (of which half is then on the disk), a file
    that takes its name.
    """
    from nesf import trainer
    from nesf.training import FieldTrainer

    events = [0]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            if events[0] == at:
                if function is fsync:
                    os.ftruncate(arguments[0], os.fstat(arguments[0]).st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            events[0] += 1
            return function(*arguments)

        return wrapped

    fsync = os.fsync
    trainer.CHECKPOINT_SECONDS = -1.0
    os.fsync, os.replace = counted(fsync), counted(os.replace)  # type: ignore[assignment]
    FieldTrainer.step = counted(FieldTrainer.step)  # type: ignore[method-assign]
    nesf(*train(base, out, "--resume-if-possible", **changes), exits=(0,))
    os.fsync = fsync
    report.write_text(str(events[0]))


def _ended(pid: int, killed: bool = False) -> int:
    """Wait for a process and return its exit code, -9 for a kill (allowed with `killed`)."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code and not (killed and code == -signal.SIGKILL):
        log = (Path.cwd().parent / "log").read_text(errors="replace")
        raise Fault("traceback", f"a process ended with {code}: {log[-250:]}")
    return code


def commands(base: Base) -> dict[str, Callable[[Path], list[str]]]:
    """Return every command that writes, as a function of the folder that it writes in."""
    run, data, good = str(base.run), str(base.data), str(base.good())
    structures = base.structures()
    return {
        "data import": lambda out: [
            "data",
            "import",
            *(str(base.folder / "structures" / "table.csv"), "--name", "mine", "--data", str(out)),
        ],
        "data build": lambda out: ["data", "build", *_interface(base), "--data", str(out)],
        "data fetch": lambda out: ["data", "fetch", "perov5", *_mirror(base), "--data", str(out)],
        "data audit": lambda out: [
            "data",
            "audit",
            "few",
            "--data",
            data,
            "--json",
            str(out / "audit.json"),
        ],
        "train": lambda out: train(base, out),
        "run": lambda out: ["run", *train(base, out, "--split", "test", *DECODE)[1:]],
        "copy": lambda out: [
            "run",
            "few",
            "--method",
            "copy",
            "--data",
            data,
            "--out",
            str(out),
            "--split",
            "test",
        ],
        "reconstruct": lambda out: ["reconstruct", run, good, "--out", str(out), *DECODE],
        "evaluate": lambda out: [
            "evaluate",
            "--actual",
            good,
            "--detected",
            good,
            "--out",
            str(out),
        ],
        "encode": lambda out: ["encode", run, good, "--out", str(out / "z.npy")],
        "decode": lambda out: [
            "decode",
            run,
            str(base.folder / "z.npy"),
            "--out",
            str(out),
            *DECODE,
        ],
        "interpolate": lambda out: [
            "interpolate",
            run,
            str(structures[0]),
            str(structures[4]),
            "--steps",
            "3",
            "--out",
            str(out),
            *DECODE,
        ],
        "analyse": lambda out: [
            "analyse",
            "examples",
            run,
            "--data",
            data,
            "--set",
            "split=test",
            "--out",
            str(out),
        ],
        "view": lambda out: ["view", good, "--out", str(out / "picture.svg")],
        "sample": lambda out: [
            "sample",
            run,
            *("-n", "2", "--density", "noise", "--passes", "0", "--all", "--data", data),
            *("--out", str(out)),
        ],
        "design": lambda out: [
            "design",
            run,
            *("--target", "size=min", "--table", str(base.folder / "properties.csv")),
            *("-n", "2", "--pool", "20", "--density", "mixture", "--data", data),
            *("--out", str(out)),
        ],
        "aggregate": lambda out: ["aggregate", str(_recorded(base, out))],
        "aggregate --figures": lambda out: (["aggregate", str(RESULTS), "--figures", str(out)]),
        "benchmark": lambda out: (
            ["benchmark", run, "--data", data, "--split", "test", "--out", str(out)]
        ),
    }


def _interface(base: Base) -> list[str]:
    """Answer as the Materials Project does, in this process; return what to ask."""
    from pymatgen.core import Lattice, Structure

    salts = [
        Structure(Lattice.cubic(4 + k / 50), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])
        for k in range(12)
    ]
    server = Server({f"mp-{k}": salt for k, salt in enumerate(salts)})
    server.start()
    rules = Path("rules-of-all.json")
    rules.write_text('{"max_length": 6.0, "val_fraction": 0.2, "test_fraction": 0.2}')
    return [str(rules), "--endpoint", server.url, "--api-key", KEY, "--name", "mine"]


def _mirror(base: Base) -> list[str]:
    """Take the base's small tables for the benchmark's, in this process; return where they are."""
    from nesf_design import datasets

    datasets.BENCHMARKS = {"perov5": datasets.Benchmark("perov_5", MIRRORED, "none")}
    return ["--mirror", str(base.folder / "mirror")]


def _recorded(base: Base, out: Path) -> Path:
    """Make a folder of results whose one run is links to the base's."""
    run = out / "few" / "nesf" / "small" / "seed-0"
    run.mkdir(parents=True, exist_ok=True)
    for path in base.run.iterdir():
        with suppress(FileExistsError):
            (run / path.name).symlink_to(path)
    return out


def full_disks(base: Base, kind: str, seeds: range) -> list[Case]:
    """Every command on a disk that is, or becomes, full."""
    names = list(commands(base))
    return [Case(kind, s, partial(_full, base, names[s % len(names)]), limit=40) for s in seeds]


def _full(base: Base, name: str, work: Path, random_: random.Random) -> str:
    command, first, out = commands(base)[name], work / "first", work / "out"
    out.mkdir()
    free, again = random_.choice((0, 0, 4096, 8192, 20_000, 60_000)), random_.random() < 0.7
    held = 0
    if again:  # what the same command has written before must stay
        nesf(*command(first / "new"), exits=(0,))
        held = sum(4096 * (2 + p.stat().st_size // 4096) for p in first.rglob("*"))
    full_disk(out, held + free)
    if again:
        shutil.copytree(first, out, dirs_exist_ok=True)
        # a second name: what a command removes makes no room
        shutil.copytree(out / "new", out / "kept", copy_function=os.link)
    if not free:  # a file without a name takes what is left
        filling = os.open(out / "filling", os.O_WRONLY | os.O_CREAT)
        with suppress(OSError):
            while os.write(filling, bytes(4096)) and held < 10**9:
                held += 4096
        os.unlink(out / "filling")
    before = set(snapshot(out / "new").values())
    words = command(out / "new")
    code, printed = nesf(*(with_option(words, "--replace") if again else words))
    refused = any(word in printed for word in ("exists", "already", "holds", "remove it"))
    if code == 0 and not any((out / "new").rglob("*")):
        raise Fault("lost", f"{name}: exit code 0, and nothing is written")
    if code == 2 and not before <= set(snapshot(out / "new").values()):
        raise Fault("lost", f"{name}: what was written before is gone")
    said = any(words in printed for words in ("No space left", "disk is full", "File too large"))
    if code == 2 and not (said or (again and refused)):
        raise Fault("message", f"{name}: does not say that the disk is full: {printed[-200:]}")
    if parts := [p.name for p in out.rglob("*.part")]:
        raise Fault("left", f"{name}: {parts[0]}, a part of a file")
    return name


def two_processes(base: Base, kind: str, seeds: range) -> list[Case]:
    """The same command twice at once on one folder."""
    names = list(commands(base))
    return [Case(kind, s, partial(_twice, base, names[s % len(names)]), limit=60) for s in seeds]


def _twice(base: Base, name: str, work: Path, _: random.Random) -> str:
    alone, both, make = work / "alone", work / "both", commands(base)[name]

    def call(out: Path, report: Path) -> None:
        code, printed = nesf(*make(out))
        report.write_text(str(code))
        if code:
            print(printed)

    _ended(forked(partial(call, alone, work / "code")))
    pids = [forked(partial(call, both, work / f"code-{k}")) for k in (0, 1)]
    for pid in pids:
        _ended(pid)
    if (work / "code").read_text() != "0":
        raise Fault("message", f"{name}: has failed alone")
    if "0" not in [(work / f"code-{k}").read_text() for k in (0, 1)]:
        raise Fault("lost", f"{name}: neither of the two has succeeded")
    first, second = (_names(folder) for folder in (alone, both))
    if first != second:
        raise Fault("lost", f"{name}: {sorted(first ^ second)[0]} is in one of the folders only")
    weights = [folder / "model.safetensors" for folder in (alone, both)]
    if weights[0].exists() and weights[0].read_bytes() != weights[1].read_bytes():
        raise Fault("differs", f"{name}: other weights than of one process alone")
    return name


def _names(folder: Path) -> set[str]:
    return {
        p.relative_to(folder).as_posix()
        for p in folder.rglob("*")
        if p.is_file() and not p.name.startswith(".")
    }


def foreign_files(base: Base, kind: str, seeds: range) -> list[Case]:
    """Every command on a folder that holds a user's own files, or another call's output."""
    names = list(commands(base))
    return [Case(kind, s, partial(_foreign, base, names[s % len(names)]), limit=60) for s in seeds]


def _foreign(base: Base, name: str, work: Path, random_: random.Random) -> str:
    words = commands(base)[name](work / "out")
    if random_.random() < 0.5:
        nesf(*words, exits=(0,))
    for own in ("notes.txt", "checkpoint-notes.txt", "cif/mine.cif", "mine/dataset.txt"):
        (work / "out" / own).parent.mkdir(exist_ok=True, parents=True)
        (work / "out" / own).write_text("a user's")
    before = snapshot(work)
    nesf(*words)
    still_there(before, work)
    return name


MAKERS: dict[str, tuple[Callable[[Base, str, range], list[Case]], int]] = {
    kind: (make, COUNTS[kind])
    for kind, make in zip(
        COUNTS,
        (
            undamaged,
            structure_files,
            models_and_records,
            kills,
            full_disks,
            two_processes,
            foreign_files,
        ),
        strict=True,
    )
}
