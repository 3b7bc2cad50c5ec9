"""What of the recorded runs is published, and its checksums.

Imports neither torch nor pandas: Snakemake reads this whenever it looks for work.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from nesf.files import sha256_of

SUMS, TABLE = "SHA256SUMS", "table1.csv"


def published(results: Path) -> list[Path]:
    """Return the files below `results/` that are kept in the repository.

    Of the weights those of seed 0 or fold 0 alone; no checkpoints, no decoded crystals.
    """
    found = []
    for path in sorted(Path(results).rglob("*")):
        parts = path.relative_to(results).parts
        left_out = (
            "reconstruction" in parts
            or path.name.startswith("checkpoint")
            or any(part.startswith(".") for part in parts)
            or path.name == SUMS
        )
        weights = path.name in ("model.safetensors", "model.json") and path.parent.name not in (
            "seed-0",
            "fold-0",
        )
        if path.is_file() and not left_out and not weights:
            found.append(path)
    return found


def checksums(results: Path) -> str:
    """Return the content of `SHA256SUMS`: every published file, for `sha256sum --check`."""
    return "".join(
        f"{sha256_of(path)}  {path.relative_to(results).as_posix()}\n"
        for path in published(results)
    )


def state_of(results: Path) -> tuple[str, bool]:
    """Return a hash of all that is published, and whether the recorded checksums agree."""
    sums, path = checksums(results), Path(results) / SUMS
    agrees = (
        path.exists()
        and (Path(results) / TABLE).exists()
        and path.read_text(encoding="utf-8") == sums
    )
    return hashlib.sha256(sums.encode()).hexdigest(), agrees
