"""Damage, drawn from a seed: of text, JSON, bytes and trained weights."""

from __future__ import annotations

import copy
import gzip
import hashlib
import json
import pickle
import random
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

NUMBERS = (
    *("0", "-1", "1e400", "-1e400", "nan", "inf", "1e-320", "9" * 400, "1000000000"),
    *("2147483648", "-0.0", "0x10", "1,5", "1(99999)", "٣", "½", "1e", "?", "."),
)
WORDS = (
    "D",
    "X",
    "Qq",
    "",
    "H" * 5000,
    "Å",
    "\x00",
    "\ud800",
    "'",
    '"',
    ";",
    "#",
    "data_",
    "loop_",
)
JSON_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 10**30, -(10**400), 0.5, -0.0, 1e308, 5e-324),
    *(float("nan"), float("inf"), "", "x", "../../x", "x" * 300, "\ud800", "\x00", [], {}, [[]]),
    *({"": {}}, [0] * 5000, list(range(200)), [None], ["a", 1], {"a": [1, {"b": None}]}),
)


class Payload:
    """An object whose unpickling makes the file that the environment's CANARY names."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return eval, ("__import__('os').mkdir(__import__('os').environ['CANARY'])",)


def text(random_: random.Random, original: str, other: str) -> bytes:
    """Return damaged text; `other` is a further text of the same kind."""
    lines, changed = original.splitlines(), original
    k = random_.randrange(len(lines))
    numbers = list(re.finditer(r"(?<![\w.])-?\d+\.?\d*(?:\(\d+\))?(?![\w])", original))
    words = list(re.finditer(r"[^\s,]+", original))
    how = random_.randrange(14)
    if how < 5 and numbers:  # a number becomes another
        spot = random_.choice(numbers)
        changed = original[: spot.start()] + random_.choice(NUMBERS) + original[spot.end() :]
    elif how == 5:
        spot = random_.choice(words)
        changed = original[: spot.start()] + random_.choice(WORDS) + original[spot.end() :]
    elif how == 6:
        changed = "\n".join(lines[:k] + lines[k + 1 :])
    elif how == 7:
        changed = "\n".join(lines[:k] + [lines[k]] * random_.choice((2, 3, 3000)) + lines[k:])
    elif how == 8:
        changed = original[: random_.randrange(len(original))]
    elif how == 9:
        j = random_.randrange(len(lines))
        lines[j], lines[k] = lines[k], lines[j]
        changed = "\n".join(lines)
    elif how == 10:
        changed = "\n".join(lines[:k] + other.splitlines()[k:])
    elif how == 11:
        changed = original + random_.choice(("\n", " ")) + other
    elif how == 12:
        return original.encode(random_.choice(("utf-16", "utf-8-sig", "utf-32")), "replace")
    else:
        return content(random_, original.encode())
    return changed.encode("utf-8", "surrogatepass")


def content(random_: random.Random, original: bytes) -> bytes:
    """Return damaged bytes."""
    changed = bytearray(original)
    how = random_.randrange(7)
    if how < 3:
        for _ in range(random_.choice((1, 3, 30))):
            changed[random_.randrange(len(changed))] = random_.randrange(256)
    elif how == 3:
        del changed[random_.randrange(len(changed)) :]
    elif how == 4:
        start = random_.randrange(len(changed))
        changed[start : start + random_.randrange(64)] = random_.randbytes(random_.randrange(64))
    elif how == 5:
        return random_.choice((b"", b"\x00" * 1000, b"{}", b"[]", gzip.compress(bytes(10**7))))
    else:
        return pickle.dumps(Payload())
    return bytes(changed)


def json_text(random_: random.Random, original: str) -> bytes:
    """Return JSON with a value, a key or the text itself damaged."""
    if random_.random() < 0.2:
        deep = random_.choice((50, 990, 100_000))
        return random_.choice(
            (
                content(random_, original.encode()),
                b"[" * deep + b"]" * deep,
                b'{"a":' * deep + b"1" + b"}" * deep,
            )
        )
    value = copy.deepcopy(json.loads(original))
    for _ in range(random_.choice((1, 1, 1, 2, 5))):
        parents = _containers(value)
        if not parents:
            break
        # one of the first levels as likely as one deep in a long list
        parent = random_.choice([random_.choice(level) for level in parents])
        key = random_.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
        how = random_.randrange(8)
        if how == 0:
            del parent[key]
        elif how == 1 and isinstance(parent, dict):
            parent[random_.choice(("", "format", "x", "method"))] = random_.choice(JSON_VALUES)
        elif how == 2 and isinstance(parent, list):
            parent.append(parent[key])
        elif how == 3 and isinstance(parent, list):
            random_.shuffle(parent)
        elif how == 4 and isinstance(parent[key], int | float):
            parent[key] = parent[key] * random_.choice((-1, 2, 1000, 10**9))
        else:
            parent[key] = copy.deepcopy(random_.choice(JSON_VALUES))
    return json.dumps(value).encode()


def _containers(value: Any) -> list[list[Any]]:
    """Return the containers that are not empty, by level."""
    levels, level = [], [value]
    while level := [one for one in level if isinstance(one, dict | list)]:
        levels.append([one for one in level if one])
        level = [v for one in level for v in (one.values() if isinstance(one, dict) else one)]
    return [level for level in levels if level]


def tensors(random_: random.Random, original: bytes) -> bytes:
    """Return a safetensors file with its header or its numbers damaged."""
    size = int.from_bytes(original[:8], "little")
    header, body = original[8 : 8 + size].decode(), bytearray(original[8 + size :])
    how = random_.randrange(4)
    if how == 0:
        return content(random_, original)
    if how == 1:
        damaged = json_text(random_, header.strip())
        return len(damaged).to_bytes(8, "little") + damaged + body
    if how == 2:
        return (
            random_.choice((0, 2**63 - 1, size - 8, size + 8)).to_bytes(8, "little")
            + header.encode()
            + body
        )
    for _ in range(random_.choice((1, 4, 400))):  # single precision
        number = struct.pack("<f", random_.choice((float("nan"), float("inf"), 3e38, -1e30, 0.0)))
        start = 4 * random_.randrange(len(body) // 4)
        body[start : start + 4] = number
    return original[: 8 + size] + bytes(body)


def with_hash(folder: Path, file: str, description: str) -> None:
    """Write the hash of a file of weights into the JSON beside it, as if it were meant."""
    path = folder / description
    about = json.loads(path.read_text(encoding="utf-8"))
    about["sha256"] = hashlib.sha256((folder / file).read_bytes()).hexdigest()
    path.write_text(json.dumps(about), encoding="utf-8")
