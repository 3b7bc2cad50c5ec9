"""The model in the page of a book: an engine in JavaScript, and what it is given.

`setup` makes this package an extension of Sphinx: the files of the page are written beside the
built pages. The modules `*.mjs` run in the browser and in node alike.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def setup(app: Any) -> dict[str, Any]:
    """Write the files of the page when the book has been built (extension of Sphinx)."""
    app.connect("build-finished", _written)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _written(app: Any, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        from nesf_studies.live.export import export  # here: it loads torch

        export(Path(app.outdir) / "live")
