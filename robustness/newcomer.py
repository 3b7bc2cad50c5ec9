"""The first ten minutes of somebody new with the command line, as a transcript.

`python -m robustness.newcomer` runs the commands in an empty folder, each in a shell as it is typed,
and records what they print in `results/robustness/newcomer.json`. Among them are mistakes that
people make; each has the exit code that it must have, else the exit code of this script is 1.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from robustness.inputs import cif, rock_salt

ROOT = Path(__file__).resolve().parents[1]
MOST_LINES = 24  # of what a command prints
FILES = {
    "NaCl.cif": cif(5.64, rock_salt("Na", "Cl"), name="NaCl"),
    "LiF.cif": cif(4.03, rock_salt("Li", "F"), name="LiF"),
    "folder/KF.cif": cif(5.34, rock_salt("K", "F"), name="KF"),
    "folder/MgO.cif": cif(4.21, rock_salt("Mg", "O"), name="MgO"),
}
# what is typed, with its exit code
COMMANDS: tuple[tuple[str, int], ...] = (
    ("nesf --version", 0),
    ("nesf doctor", 0),
    ("ls *.cif folder", 0),
    ("nesf reconstruct lcs6 NaCl.cif --out first", 0),
    ("nesf reconstruct lcs6 NaCl.cif --out first", 2),
    ("nesf reconstruct lcs6 NaC.cif --out second", 2),
    ("nesf reconstruct lcs7 NaCl.cif --out second", 2),
    ("nesf reconstruct lcs6 '*.cif' folder --out second --decode mode=fast", 0),
    ("ls second second/cif", 0),
    ("nesf evaluate --actual folder --detected second/cif --out scores", 2),
    (
        "mkdir mine && cp *.cif folder/*.cif mine && nesf evaluate --actual mine --detected second/cif --out scores",
        0,
    ),
    ("gzip --keep LiF.cif && nesf encode lcs6 LiF.cif.gz --out z.csv && cut -c1-80 z.csv", 0),
    ("nesf decode lcs6 z.csv --out decoded --format poscar && cat decoded/*/*.vasp", 0),
    ("cat NaCl.cif | nesf reconstruct lcs6 - --json --quiet | head -c 300", 0),
    ("nesf interpolate lcs6 NaCl.cif LiF.cif --steps 3 --out path && ls path/cif", 0),
    ("nesf view path/cif --out path.png && ls -s path.png", 0),
    ("nesf train starter --out runs/first --max-minutes 0.5 --quiet", 0),
    ("nesf train starter --out runs/first --max-minutes 0.5 --resume --quiet", 0),
    ("ls runs/first", 0),
    ("nesf completion bash | head -n 2", 0),
)


@dataclass(frozen=True)
class Step:
    """One command, as typed, and what it printed."""

    command: str
    expected: int
    exit_code: int
    printed: str
    seconds: float


def typed(command: str, expected: int, folder: Path) -> Step:
    """Run a command in a shell and return what a screen shows after it."""
    begin = time.monotonic()
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=1200,
        env=os.environ
        | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "100",
        },
    )
    seconds = time.monotonic() - begin
    # a bar of progress ends in its last state
    text = re.sub(r"[^\n]*\r(?!\n)", "", done.stdout.decode(errors="replace"))
    for place, shown in ((str(folder), "."), (str(ROOT), "nesf"), (str(Path.home()), "~")):
        text = text.replace(place, shown)
    bar = re.compile(r"\d+%\|")  # of progress
    lines = [x.rstrip()[:160] for x in text.splitlines() if x.strip() and not bar.search(x)]
    if len(lines) > MOST_LINES:
        lines = [*lines[:MOST_LINES], f"... ({len(lines) - MOST_LINES} more lines)"]
    return Step(command, expected, done.returncode, "\n".join(lines), round(seconds, 1))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 1 where a command ends otherwise than it must."""
    from nesf.files import write_json
    from nesf.forms import FORMAT
    from nesf.records import command_line, commit, environment

    parser = argparse.ArgumentParser(prog="python -m robustness.newcomer", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "results" / "robustness" / "newcomer.json"
    )
    options = parser.parse_args(arguments)
    started, begin, steps = datetime.now(UTC), time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="nesf-newcomer-") as name:
        for file, content in FILES.items():
            (Path(name) / file).parent.mkdir(exist_ok=True)
            (Path(name) / file).write_text(content)
        for command, expected in COMMANDS:
            steps.append(step := typed(command, expected, Path(name)))
            print(f"$ {step.command}\n{step.printed}\n[{step.exit_code}, {step.seconds} s]\n")
    record = {
        "format": FORMAT,
        "command": command_line(
            list(sys.argv[1:] if arguments is None else arguments),
            ("python", "-m", "robustness.newcomer"),
        ),
        "commit": commit(),
        "started": started.isoformat(timespec="seconds"),
        "wall_time_seconds": round(time.monotonic() - begin, 1),
        **environment(),
        "steps": [asdict(step) for step in steps],
    }
    write_json(options.out, record)
    wrong = [s for s in steps if s.exit_code != s.expected or "Traceback" in s.printed]
    for step in wrong:
        print(f"{step.command}: exit code {step.exit_code}, {step.expected} is expected")
    print(f"written: {options.out}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
