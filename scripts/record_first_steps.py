"""Run the commands of book/first_steps.txt and write their output below them.

The file is a terminal session: a line `$ command`, then what it printed. The commands run one after
the other in an empty folder; progress bars and warnings of libraries are left out.

python scripts/record_first_steps.py
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "book" / "first_steps.txt"
PROMPT, FURTHER = "$ ", "> "  # before a command, and before its further lines


def main() -> None:
    """Record the session anew."""
    argparse.ArgumentParser(description="Record book/first_steps.txt anew.").parse_args()
    commands = [command for command, _ in session(TARGET.read_text(encoding="utf-8"))]
    with tempfile.TemporaryDirectory() as folder:
        parts = [
            PROMPT + command.replace("\n", f"\n{FURTHER}") + f"\n{text}"
            for command, text in repeated(commands, Path(folder))
        ]
    TARGET.write_text("\n".join(parts), encoding="utf-8")
    print(f"{TARGET}: {len(commands)} commands")


def session(text: str) -> list[tuple[str, str]]:
    """Return the commands of a recorded session, each with the text that it printed."""
    found = []
    for part in f"\n{text}".split(f"\n{PROMPT}")[1:]:
        first, *lines = part.rstrip("\n").split("\n")
        further = list(itertools.takewhile(lambda line: line.startswith(FURTHER), lines))
        command = [first, *(line.removeprefix(FURTHER) for line in further)]
        found.append(("\n".join(command), "\n".join(lines[len(further) :])))
    return found


def repeated(commands: Iterable[str], folder: Path) -> Iterator[tuple[str, str]]:
    """Run commands in a folder and yield each with what it printed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in commands:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env=os.environ | {"PATH": path, "LC_ALL": "C.UTF-8"},
            capture_output=True,
            text=True,
            timeout=900,
        )
        said = [line for line in done.stderr.splitlines() if line.startswith("nesf: ")]
        yield command, done.stdout + "".join(f"{line}\n" for line in said)


if __name__ == "__main__":
    main()
