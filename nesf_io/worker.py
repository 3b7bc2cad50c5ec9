"""Foreign files are read in a process of their own, and one that takes too long is ended.

Guaranteed, whatever a reader does with a file: an entry without an answer after `LIMIT_S`, or that
needs more than `MEMORY`, is given up with an error, the process is started again, and reading goes
on. It works from any thread, each with a process of its own; the start takes about a second, and
then they read ahead. (On Windows memory is not limited.)
"""

from __future__ import annotations

import atexit
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from nesf_io.errors import DataError, NesfError

LIMIT_S = 10.0  # for an entry
START_S = 120.0  # for the start of a process, on a busy machine
MEMORY = 4 << 30  # bytes
MAX_ENDED = 3  # entries in a row that end the process; then the rest of their file is left
START = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); import nesf_io.worker as w; w.serve()"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

_idle: list[subprocess.Popen[bytes]] = []
_owner = os.getpid()  # after a fork the processes are another's


class EndedError(DataError):
    """The process ended, or was ended, before it had answered."""


def stream(
    function: Callable[..., Iterator[Callable[[], Any]]], jobs: Sequence[tuple[Any, ...]]
) -> Iterator[tuple[int, Any]]:
    """Yield the values of the callables that `function(*job)` yields, made in another process.

    Args:
        function: of a module. It may be called again for a job, and then goes on where it was; a
            callable is not called twice.
        jobs: arguments, which can be pickled.

    Yields:
        Number of the job, and a value; or an `EndedError` for one that took too long; or a
        `DataError` that ends the job.
    """
    job, done, ended, process = 0, 0, 0, _taken()
    try:
        _send(process, (function, jobs, job, done))
        while job < len(jobs):
            try:
                whole, value = _answer(process, LIMIT_S)
            except EndedError as error:
                whole, value, ended = False, error, ended + 1
                if ended == MAX_ENDED:
                    whole, value = True, DataError(f"{error}; what follows in the file is not read")
                process = _taken()
            else:
                ended = 0
            at, job, done = job, job + whole, 0 if whole else done + 1
            if ended:
                ended *= not whole
                _send(process, (function, jobs, job, done))
            if value is not None:
                yield at, value
    finally:
        _give_back(process, len(jobs) - job)


def _taken() -> subprocess.Popen[bytes]:
    """Return an idle process, or a new one."""
    global _owner
    if _owner != os.getpid():
        _idle.clear()
        _owner = os.getpid()
    with suppress(IndexError):
        return _idle.pop()
    # What this process imports, the other can import; -P: a file numpy.py in the current folder is
    # not taken for the library.
    path = os.pathsep.join([str(Path(__file__).resolve().parents[1]), *filter(None, sys.path)])
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", START],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | ONE_THREAD | {"PYTHONPATH": path},
    )
    try:
        _answer(process, START_S)
    except EndedError as error:
        raise NesfError(
            f"the process that reads files does not start ({error}); see what `python -c 'import pymatgen.io.cif'` says"
        ) from None
    return process


def _send(process: subprocess.Popen[bytes], request: Any) -> None:
    assert process.stdin is not None
    with suppress(OSError):  # it has ended, as its answer will say
        pickle.dump(request, process.stdin)
        process.stdin.flush()


def _answer(process: subprocess.Popen[bytes], limit: float) -> Any:
    assert process.stdout is not None
    late = threading.Event()

    def give_up() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(limit, give_up)
    timer.daemon = True
    timer.start()
    try:
        return pickle.load(process.stdout)
    except (OSError, EOFError, pickle.UnpicklingError):
        _end(process)
        raise EndedError(
            f"it took over {limit:g} s and was given up"
            if late.is_set()
            else f"it ended the process that reads files (exit status {process.returncode}): it is damaged, or needs more than {MEMORY >> 30} GiB of memory"
        ) from None
    finally:
        timer.cancel()
        timer.join()


def _give_back(process: subprocess.Popen[bytes], jobs: int) -> None:
    """Keep a process whose jobs are done, but for the word that says so; end another."""
    whole = jobs == 0
    if jobs == 1:
        with suppress(EndedError):
            whole = _answer(process, 0.2)[0]
    if whole and process.poll() is None:
        _idle.append(process)
    else:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):  # what was not sent
            pipe.close()  # type: ignore[union-attr]
    process.wait()


@atexit.register
def _end_at_exit() -> None:
    while _owner == os.getpid() and _idle:
        _end(_idle.pop())


def serve() -> None:
    """Answer requests on standard input until it is closed: the process itself."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what readers print is no answer
    with suppress(ImportError, ValueError, OSError):  # Windows; or a smaller limit is set
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    # before the clock of the first entry runs
    import pymatgen.io.cif
    import pymatgen.io.vasp.inputs  # noqa: F401

    def say(answer: Any) -> None:
        pickle.dump(answer, answers)
        answers.flush()

    say("ready")
    with suppress(EOFError):
        while True:
            function, jobs, first, done = pickle.load(sys.stdin.buffer)
            for job in jobs[first:]:
                error = None
                try:
                    for make in islice(function(*job), done, None):
                        say((False, make()))
                except DataError as raised:
                    error = raised
                except Exception as raised:
                    error = DataError(f"it cannot be read ({in_one_line(raised)})")
                say((True, error))
                done = 0


def in_one_line(error: BaseException) -> str:
    """Return the class of an error and what it says."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200] or 'no message'}"
