"""All commands as text of the book, read from the parser of the command line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

from nesf_cli.main import parser


def commands() -> str:
    """Return a section for each command, in MyST: what it does, its options, its examples."""
    return "\n\n".join(_section(name, one) for name, one in leaves(parser()))


def leaves(known: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield the commands that take no further command, with their whole names."""
    below = [a for a in known._actions if isinstance(a, argparse._SubParsersAction)]
    if not below:
        yield known.prog, known
    for action in below:
        for one in action.choices.values():
            yield from leaves(one)


def _section(name: str, known: argparse.ArgumentParser) -> str:
    usage = re.sub(r"\s+", " ", known.format_usage().removeprefix("usage: ")).strip()
    actions = [
        a for a in known._actions if a.help != argparse.SUPPRESS and a.dest not in ("help", "quiet")
    ]
    rows = "\n".join(f"| {_spelling(a)} | {_cell(_help(known, a))} |" for a in actions)
    table = f"| argument | what it says |\n|---|---|\n{rows}\n\n" if rows else ""
    examples = (known.epilog or "").removeprefix("examples:\n")
    lines = "\n".join(line.strip() for line in examples.splitlines())
    shown = f"```text\n{lines}\n```\n" if lines else ""
    about = f"### {name}\n\n{_cell(known.description or '')}\n\n{shown}\n"
    return about + f":::{{dropdown}} Arguments\n```text\n{usage}\n```\n\n{table}:::\n"


def _spelling(action: argparse.Action) -> str:
    """Return how an argument is written, with the name of its value."""
    value = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
    if not action.option_strings:
        return f"`{action.metavar or action.dest}`"
    return ", ".join(
        f"`{word}{f' {value}' if value else ''}`" for word in action.option_strings[-1:]
    )


def _help(known: argparse.ArgumentParser, action: argparse.Action) -> str:
    """Return the help of an argument, its placeholders filled in, and its choices."""
    text = known._get_formatter()._expand_help(action) if action.help else ""
    choices = f" One of {', '.join(map(str, action.choices))}." if action.choices else ""
    return text + choices


def _cell(text: str) -> str:
    """Return plain text as a cell of a table in MyST."""
    return re.sub(r"([|*_<>\[\]`$#{}])", r"\\\1", text.replace("\n", " "))
