"""Foreign files are read in a process of their own, and one that takes too long is ended.

Guaranteed, whatever a reader does with a file: an entry without an answer after `LIMIT_S`, or that
needs more than `MEMORY`, is given up with an error, the process is started again, and reading goes
on. It works from any thread; an entry costs a fraction of a millisecond more, the start a second.
(On Windows memory is not limited.)
"""

from __future__ import annotations

import atexit
import itertools
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from nesf.errors import DataError, NesfError

LIMIT_S = 10.0  # for an entry
START_S = 120.0  # for the start of the process, on a busy machine
MEMORY = 4 << 30  # bytes
MAX_ENDED = 3  # entries in a row that end the process; then the rest of their file is left
START = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); import nesf.worker as w; w.serve()"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

_lock = threading.Lock()
_numbers = itertools.count()
_closed: list[int] = []  # streams that nobody reads any more
_process: subprocess.Popen[bytes] | None = None
_owner = 0  # id of the process that started it: after a fork it is another's


class EndedError(DataError):
    """The process ended, or was ended, before it had answered."""


def stream(function: Callable[..., Iterator[Callable[[], Any]]], *arguments: Any) -> Iterator[Any]:
    """Yield the values of the callables that `function(*arguments)` yields, made in the process.

    Args:
        function: of a module. It may be called again, and then goes on where it was; a callable is
            not called twice.
        arguments: what can be pickled.

    Yields:
        A value; or an `EndedError` where there is none.

    Raises:
        DataError: of the function, or after `MAX_ENDED` values in a row that ended the process.
    """
    number, done, ended = next(_numbers), 0, 0
    try:
        while True:
            try:
                kind, value = _ask((number, function, arguments, done))
            except EndedError as error:
                kind, value, ended = "item", error, ended + 1
                if ended == MAX_ENDED:
                    raise DataError(f"{error}; what follows in the file is not read") from None
            else:
                ended = 0
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
            done += 1
    finally:
        _closed.append(number)


def _ask(request: Any) -> Any:
    global _process, _owner
    with _lock:
        if _process is None or _owner != os.getpid():
            _process, _owner = _started(), os.getpid()
        closed = _closed[:]
        del _closed[: len(closed)]
        return _answer(_process, (closed, *request), LIMIT_S)


def _answer(process: subprocess.Popen[bytes], request: Any, limit: float) -> Any:
    assert process.stdin is not None and process.stdout is not None
    late = threading.Event()

    def give_up() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(limit, give_up)
    timer.daemon = True
    timer.start()
    try:
        if request is not None:
            pickle.dump(request, process.stdin)
            process.stdin.flush()
        answer = pickle.load(process.stdout)
        timer.cancel()
        timer.join()
        if late.is_set():  # in the last moment
            _end(process)
        return answer
    except (OSError, EOFError, pickle.UnpicklingError):
        _end(process)
        raise EndedError(
            f"it took over {limit:g} s and was given up"
            if late.is_set()
            else f"it ended the process that reads files (exit status {process.returncode}): it is damaged, or needs more than {MEMORY >> 30} GiB of memory"
        ) from None
    except BaseException:  # Ctrl-C in the middle of an answer
        _end(process)
        raise
    finally:
        timer.cancel()


def _started() -> subprocess.Popen[bytes]:
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
        _answer(process, None, START_S)
    except EndedError as error:
        raise NesfError(
            f"the process that reads files does not start ({error}); see what `python -c 'import pymatgen.io.cif'` says"
        ) from None
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    global _process
    if _process is process:
        _process = None
    process.kill()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):  # what was not sent
            pipe.close()  # type: ignore[union-attr]
    process.wait()


@atexit.register
def _end_at_exit() -> None:
    if _process is not None and _owner == os.getpid():
        _end(_process)


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

    running: dict[int, Iterator[Callable[[], Any]]] = {}
    answer: Any = "ready"
    while True:
        pickle.dump(answer, answers)
        answers.flush()
        try:
            closed, number, function, arguments, done = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        for one in closed:
            running.pop(one, None)
        try:
            if number not in running:
                running[number] = itertools.islice(function(*arguments), done, None)
            answer = "item", next(running[number])()
        except StopIteration:
            answer = "end", None
        except DataError as error:
            answer = "error", error
        except BaseException as error:
            answer = "error", DataError(f"it cannot be read ({in_one_line(error)})")


def in_one_line(error: BaseException) -> str:
    """Return the class of an error and what it says."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200] or 'no message'}"
