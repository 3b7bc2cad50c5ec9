"""Crystals as widgets of nglview in a running notebook: `nesf.view`."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Sequence
from typing import Any

from pymatgen.core import Structure

from nesf_io.errors import ConfigError, DataError
from nesf_studies.crystals import with_border_images
from nesf_studies.viewer import picture_of, title_of

try:
    import nglview  # registers its widgets when it is imported
    from ipywidgets import HTML, HBox, VBox
except ModuleNotFoundError as error:
    raise ConfigError("nesf.view needs nglview: pip install 'nesf[book]'") from error


class View(VBox):
    """Widgets in rows, and the picture that stands for them where no kernel runs."""

    def __init__(self, rows: list[HBox], still: bytes, stages: list[nglview.NGLWidget]) -> None:
        super().__init__(rows)
        self.still, self.stages = still, stages

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        """Return what a notebook shows; in the book, which has no kernel, the picture alone."""
        data = {"image/png": base64.b64encode(self.still).decode()}
        if "NESF_READS" in os.environ:  # the book is built; a page with a widget would hold 9 MB
            return data
        return data | (super()._repr_mimebundle_(**options) or {})


def view(
    structures: Structure | Sequence[Structure], others: Structure | Sequence[Structure] = ()
) -> View:
    """Show crystals in 3-D in a running notebook: turning or moving one turns all.

    `nesf.view(structures, decoded)` shows each crystal beside its reconstruction,
    `nesf.view(structures)` all crystals in a row. A notebook that was saved, and the book, show a
    still picture.

    Args:
        structures: of pymatgen, one or several, with their names in `properties["id"]` if they
            have any.
        others: as many, each to be shown beside one of `structures`.

    Raises:
        ConfigError: nglview is not installed.
        DataError: nothing is given, or not as many others as structures.
    """
    first, second = ([s] if isinstance(s, Structure) else list(s) for s in (structures, others))
    if not first or (second and len(first) != len(second)):
        raise DataError(
            f"nesf.view: {len(first)} structures and {len(second)} others; give at least one, and as many others or none"
        )
    pairs = [list(pair) for pair in zip(first, second, strict=True)] if second else [first]
    stages, rows = [], []
    for row in pairs:
        widgets = [stage(structure) for structure in row]
        names = [HTML(html.escape(title_of(structure))) for structure in row]
        rows.append(HBox([VBox(list(both)) for both in zip(names, widgets, strict=True)]))
        stages += widgets
    for widget in stages:
        widget._set_sync_camera([other for other in stages if other is not widget])
    return View(rows, picture_of([s for row in pairs for s in row], "png"), stages)


def stage(structure: Structure) -> nglview.NGLWidget:
    """Return the widget of one unit cell, with the atoms on its faces repeated."""
    widget = nglview.show_ase(with_border_images(structure))
    widget.add_unitcell()
    return widget
