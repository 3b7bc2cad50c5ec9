"""The README says what is true: its tables are those of the recorded runs, its commands are ones that the program knows."""

import importlib.util
import re
import shlex
from pathlib import Path

from nesf.cli import _parser
from nesf.records import all_runs

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_tables_are_made_from_the_recorded_runs() -> None:
    spec = importlib.util.spec_from_file_location("update_readme", ROOT / "scripts" / "update_readme.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.updated(README, all_runs(ROOT / "results")) == README, "run: python scripts/update_readme.py"


def test_commands_exist() -> None:
    commands = [line.split("#")[0].replace("&&", "\n").strip() for line in README.splitlines() if line.startswith("nesf ")]
    assert len(commands) > 8
    for command in commands:
        assert _parser().parse_args(shlex.split(command)[1:]).call


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
