"""Forms of JSON values: type hints, against which files and configurations are checked when read.

A form is a dataclass (no further keys) or a `TypedDict` (further keys are kept), so that what a
file may hold stands in one place, and code after `read_form` need not ask again.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypedDict, TypeVar

from nesf.files import read_json
from nesf_io.errors import ConfigError, DataError

T = TypeVar("T")
FORMAT = 1  # of every JSON file that this version writes


class Range(NamedTuple):
    """Bounds of a number, both allowed: `Annotated[float, Range(0, 1)]`."""

    low: float = -math.inf
    high: float = math.inf


NOT_NEGATIVE = Range(0)
COUNT = Range(0, 2**31 - 1)  # of whole numbers
MOST_ITEMS = 1000  # of a tuple
SEEDS = 2**32 - 1  # the largest seed that all generators take

Sha256 = Annotated[str, "[0-9a-f]{64}"]
Element = Annotated[int, Range(1, 118)]  # atomic number


class Identity(TypedDict):
    """A dataset, as models, checkpoints and runs name it."""

    name: str
    fold: int | None
    hash: Sha256


def within(name: str, value: int, low: int = 0, high: int = SEEDS) -> None:
    """Raise a `ConfigError` that names a whole number out of bounds, which both are allowed."""
    if not low <= value <= high:
        raise ConfigError(f"{name} = {value}: a whole number from {low} to {high} is expected")


def from_values(cls: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """Make a dataclass of values as JSON gives them, checked against the types of its fields.

    Types: as of `checked`. Fields not given keep their defaults.

    Raises:
        ConfigError: an unknown key or a value of the wrong type; the message names it, after the
            prefix.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"{prefix.rstrip('.') or cls.__name__} = {shown(values)}: keys with values are expected"
        )
    hints = typing.get_type_hints(cls, include_extras=True)
    if unknown := sorted(set(values) - set(hints)):
        raise ConfigError(
            f"unknown configuration key {prefix + unknown[0]!r}; the keys are {', '.join(prefix + h for h in hints)}"
        )
    return cls(
        **{name: checked(hints[name], value, prefix + name) for name, value in values.items()}
    )


def read_form(path: Path, form: Any, remedy: str) -> Any:
    """Read a JSON file of a form, a `TypedDict`: its keys are checked, others kept as they are.

    Raises:
        DataError: no such file, not JSON, of another version or form; the message names the file,
            the key and its value.
    """
    if not Path(path).exists():
        raise DataError(f"{path}: no such file; {remedy}")
    content = read_json(path)
    if isinstance(content, dict) and content.get("format", FORMAT) != FORMAT:
        raise DataError(
            f"{path}: format {shown(content['format'])}, this version reads {FORMAT}; {remedy}"
        )
    try:
        return checked(form, content, "")
    except ConfigError as error:
        raise DataError(f"{path}: {error}; {remedy}") from None


def checked(hint: Any, value: Any, key: str, bounds: Any = None) -> Any:
    """Return a JSON value in the form of a type hint, or raise a `ConfigError` that names its key.

    `bool`, `str`, `Literal`; `int` and `float`, finite and not negative (not 0 where the key ends
    in `interval`), or in the `Range` of an `Annotated` type; `str` that matches the pattern of an
    `Annotated` type; `tuple[X, ...]`, not empty, `tuple[X, X]` and `list[X]`; `dict[str, X]`;
    dataclasses (`from_values`) and `TypedDict`, which may have further keys; any of these or None.
    What is in a `TypedDict` or `dict` stays as JSON has it.
    """
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        return checked(options[0], value, key, hint.__metadata__[0])
    if origin is typing.NotRequired:
        return checked(options[0], value, key)
    if origin in (typing.Union, types.UnionType):
        inner = next(option for option in options if option is not type(None))
        return None if value is None else checked(inner, value, key, bounds)
    if dataclasses.is_dataclass(hint):
        return from_values(typing.cast(type, hint), value, f"{key}.")
    if typing.is_typeddict(hint) or origin is dict:
        return _checked_keys(hint, value, key)
    if origin in (tuple, list):
        return _checked_items(origin, options, value, key)
    if origin is Literal:
        fits, expected = value in options, f"one of {', '.join(map(str, options))}"
    elif hint in (int, float):
        low, high = bounds or (COUNT if hint is int else NOT_NEGATIVE)
        above_zero = hint is float and not bounds and key.endswith("interval")
        fits = type(value) in {int, hint} and abs(value) < 1e308 and low <= value <= high
        fits = fits and not (above_zero and value == 0)
        expected = "a whole number" if hint is int else "a finite number"
        if bounds:
            expected += f" from {low:g} to {high:g}"
        else:
            expected += " above 0" if above_zero else " not below 0"
    else:
        fits = type(value) is hint and (bounds is None or bool(re.fullmatch(bounds, value)))
        expected = f"a value of type {hint.__name__}" + (f" like {bounds}" if bounds else "")
    if not fits:
        raise ConfigError(f"{key} = {shown(value)}: {expected} is expected")
    return value if origin is Literal else hint(value)


def _checked_keys(hint: Any, value: Any, key: str) -> dict[str, Any]:
    prefix = f"{key}." if key else ""
    if not isinstance(value, dict):
        raise ConfigError(f"{key or 'content'} = {shown(value)}: keys with values are expected")
    if typing.get_origin(hint) is dict:
        hints = dict.fromkeys(value, typing.get_args(hint)[1])
    else:
        hints = typing.get_type_hints(hint, include_extras=True)
    needed = {k for k, h in hints.items() if typing.get_origin(h) is not typing.NotRequired}
    if missing := sorted(needed - set(value)):
        raise ConfigError(f"{prefix + missing[0]!r} is missing")
    for k, v in value.items():
        checked(hints.get(k, Any), v, prefix + k)
    return value


def _checked_items(kind: Any, options: Any, value: Any, key: str) -> Any:
    item, many = options[0], kind is list or options[-1] is Ellipsis
    if (
        not isinstance(value, list | tuple)
        or (kind is tuple and not value)
        or not (many or len(value) == len(options))
    ):
        n = "" if many else f"{len(options)} "
        expected = "texts" if item is str else f"{n}numbers, for example [256, 128],"
        raise ConfigError(f"{key} = {shown(value)}: a list of {expected} is expected")
    if kind is tuple and many and len(value) > MOST_ITEMS:
        raise ConfigError(f"{key}: has {len(value)} entries; at most {MOST_ITEMS} are expected")
    return kind(checked(item, one, f"{key}[{i}]") for i, one in enumerate(value))


def shown(value: Any) -> str:
    """Return a value for a message, cut where it is long."""
    return cut(repr(value))


def cut(text: str, most: int = 100) -> str:
    """Return text of at most about so many characters, and how many it has."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"
