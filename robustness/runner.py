"""Cases, each in a process forked from one that has imported everything: thousands take minutes."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

LIMIT_S = 10.0  # a command that takes longer hangs
START_S = 10.0  # beside it, for the process that reads structure files to start on a busy machine
MEMORY = 12 << 30  # bytes of address space that a command may have
FAULTS = ("traceback", "hang", "crash", "lost", "executed", "differs", "left", "message")


class Fault(Exception):  # noqa: N818
    """Something that must not happen: its kind (`FAULTS`), and what it was."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(kind, detail)
        self.kind, self.detail = kind, detail


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        kind: row of the table.
        seed: of all that is drawn.
        body: does it in an empty folder, and raises `Fault`; returns what it was, in a word.
        limit: seconds.
        parts: of a batch, run one by one where the batch fails.
        count: number of inputs.
    """

    kind: str
    seed: int
    body: Callable[[Path, random.Random], str]
    limit: float = LIMIT_S + START_S
    parts: Sequence[Case] = field(default=(), repr=False)
    count: int = 1


@dataclass(frozen=True)
class Failure:
    """A case that failed."""

    kind: str
    seed: int
    fault: str
    detail: str


def nesf(*words: str | Path, exits: Sequence[int] = (0, 2, 3)) -> tuple[int, str]:
    """Run a command of the program in this process; return exit code and all that it printed.

    Raises:
        Fault: a traceback, another exit code, or exit code 2 without a sentence.
    """
    from nesf_cli.main import main

    with tempfile.TemporaryFile() as file:
        sys.stdout.flush()
        sys.stderr.flush()
        kept = os.dup(1), os.dup(2)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        crash = ""
        try:
            code = main([str(word) for word in words])
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            own = [f for f in traceback.extract_tb(error.__traceback__) if "/nesf" in f.filename]
            place = own[-1] if own else where
            crash = f"{type(error).__name__}: {str(error)[:150]} ({Path(place.filename).name}:{place.lineno})"
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for target, descriptor in zip((1, 2), kept, strict=True):
                os.dup2(descriptor, target)
                os.close(descriptor)
        file.seek(0)
        printed = file.read().decode(errors="replace")
    if crash or "Traceback (most recent call last)" in printed:
        raise Fault("traceback", crash or printed[-300:])
    if code not in exits:
        raise Fault("message", f"exit code {code}: {printed[-300:]}")
    sentences = [
        line for line in printed.splitlines() if line.startswith("nesf") and "error:" in line
    ]
    if code == 2 and (len(sentences) != 1 or len(sentences[0]) > 2000):
        raise Fault("message", f"no one sentence: {printed[-300:]}")
    return code, printed


def snapshot(folder: Path) -> dict[str, str]:
    """Return the hash of every file below a folder."""
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def still_there(before: dict[str, str], folder: Path) -> None:
    """Raise `Fault` where a file is gone or has another content."""
    after = snapshot(folder)
    if lost := [name for name, value in before.items() if after.get(name) != value]:
        raise Fault("lost", f"{lost[0]} {'was changed' if lost[0] in after else 'is gone'}")


def forked(call: Callable[[], object]) -> int:
    """Start a call in a process of its own, which ends with it; return its number."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        call()
        code = 0
    except Fault as fault:
        print(json.dumps([fault.kind, fault.detail]), file=sys.__stdout__, flush=True)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def full_disk(folder: Path, size: int) -> str:
    """Let only so many bytes be written below a folder, for this process; return how.

    A small file system of its own where the process may mount one, else a limit on each file.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={max(size, 4096)}", "tmpfs", str(folder)]
    if os.geteuid() == 0 and libc.unshare(0x00020000) == 0:  # CLONE_NEWNS
        private = subprocess.run(["mount", "--make-rprivate", "/"], capture_output=True).returncode
        if private == 0 and subprocess.run(mount, capture_output=True).returncode == 0:
            return "tmpfs"
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    return "limit"


def run_case(case: Case) -> Failure | None:
    """Run one case in a forked process and return how it failed."""
    with tempfile.TemporaryDirectory(prefix="nesf-fuzz-") as name:
        folder, report = Path(name), Path(f"{name}.json")
        work = folder / "work"
        work.mkdir()
        pid = os.fork()
        if pid == 0:
            _child(case, work, folder, report)
        fault = _wait(pid, case.limit)
        try:
            if report.exists():
                fault = tuple(json.loads(report.read_text())) or fault
        finally:
            report.unlink(missing_ok=True)
        if (folder / "canary").exists():
            fault = "executed", "a file was executed"
        return Failure(case.kind, case.seed, *fault) if fault else None


def _child(case: Case, work: Path, folder: Path, report: Path) -> None:
    os.setsid()
    os.environ["CANARY"] = str(folder / "canary")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    os.chdir(work)
    code, log = 0, os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        case.body(work, random.Random(f"{case.kind} {case.seed}"))
    except Fault as fault:
        report.write_text(json.dumps([fault.kind, fault.detail]))
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        report.write_text(
            json.dumps(["crash", f"{error!r} ({where.filename}:{where.lineno})"[:300]])
        )
    finally:
        os._exit(code)


def _wait(pid: int, limit: float) -> tuple[str, str] | None:
    begin = time.monotonic()
    # where several processes wait for each processor, all of them take as many times longer
    limit *= max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        seconds = time.monotonic() - begin
        if ended:
            _end_group(pid)
            killed = os.WIFSIGNALED(status)
            return ("crash", f"signal {os.WTERMSIG(status)}") if killed else None
        if seconds > limit:
            _end_group(pid)
            os.waitpid(pid, 0)
            return "hang", f"over {limit:g} s"
        time.sleep(0.002 if seconds < 1 else 0.02)


def _end_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def run_all(cases: Sequence[Case], workers: int) -> list[Failure]:
    """Run cases in so many lanes of processes, and batches that fail part by part."""
    folder = Path(tempfile.mkdtemp(prefix="nesf-fuzz-lanes-"))
    try:
        lanes = [forked(partial(_lane, cases[k::workers], folder / str(k))) for k in range(workers)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in lanes]
        if any(codes):
            raise RuntimeError(f"a lane of the campaign ended with {codes}")
        found = [
            Failure(**one)
            for k in range(workers)
            for one in json.loads((folder / str(k)).read_text())
        ]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return sorted(found, key=lambda one: (one.kind, one.seed))


def _lane(cases: Sequence[Case], out: Path) -> None:
    failures: list[Failure] = []
    for case in cases:
        failure = run_case(case)
        if failure and case.parts:
            inner = [one for part in case.parts if (one := run_case(part))]
            failures += inner or [failure]
        elif failure:
            failures.append(failure)
    out.write_text(json.dumps([asdict(one) for one in failures]))
