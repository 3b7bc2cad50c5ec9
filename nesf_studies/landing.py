"""The first page: headline numbers read from recorded runs, and the animated field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ase.data import chemical_symbols

from nesf.crystals import Crystals
from nesf.records import RecordedRun, all_runs
from nesf_studies.certificates import shortest_that_beats_the_paper
from nesf_studies.fields import IN_SLICE, PointFields, fullest_plane
from nesf_studies.links import linked, quoted
from nesf_studies.page import RESULTS, number_text
from nesf_studies.paper import compared
from nesf_studies.particles import Steps
from nesf_studies.style import element_colour

DATASET = "lcs6"  # of the headline: the dataset on which the paper chose its hyperparameters
PRESET, BEST = "cpu", "plus"
MODELS = {PRESET: "the paper's model (`cpu`)", BEST: "nesf+, our own (`plus`)"}
FILM_SECONDS = 9
SCALE = 60  # pixels per ångström
FRAMES = (0, 1, 2, 3, 4, 8)  # iterations at which the film stops


def headline() -> str:
    """Return the cards with the headline numbers, as MyST text (runs under `results/`).

    Raises:
        DataError: a recorded run is broken.
    """
    runs = all_runs(RESULTS / DATASET / "nesf")
    cards = [
        _card(runs, PRESET, "species_error_actual_percent", "%", "of atoms with the wrong element"),
        _card(
            runs, PRESET, "position_error_actual_angstrom", "Å", "mean error of an atom's position"
        ),
        _card(runs, BEST, "match_rate_percent", "%", "of crystals matched by StructureMatcher"),
    ]
    return "::::{grid} 1 1 3 3\n:class-container: headline\n\n" + "\n".join(cards) + "\n::::\n"


def cost() -> str:
    """Return what the runs of the headline cost, as sentences in MyST."""
    runs = all_runs(RESULTS / DATASET / "nesf")
    trained = {p: [r for r in runs if r.run["preset"] == p] for p in (PRESET, BEST)}
    took = {}
    for preset, own in trained.items():
        minutes = sorted(r.run["wall_time_seconds"]["train"] / 60 for r in own)
        folders = [r.folder for r in own]
        took[preset] = linked(f"{minutes[0]:.0f} to {minutes[-1]:.0f}", folders, base="")
    first = trained[PRESET][0].run
    short = shortest_that_beats_the_paper(runs, DATASET)
    sooner = ""
    if short is not None:
        folders = [r.folder for r in runs if r.run["preset"] == short["label"]]
        minutes_taken = linked(f"{short['minutes']:.1f}", folders, base="")
        sooner = (
            f" nesf+ is below the paper's means in number of atoms, position (actual), species "
            f"(actual) and lattice after {minutes_taken} minutes, n = {short['n']} "
            f"([](notebooks/consistent))."
        )
    threads = {r.run["threads"] for own in trained.values() for r in own}
    return (
        f"The first two numbers cost {took[PRESET]} minutes of training for each of "
        f"{len(trained[PRESET])} models, on {'one thread' if threads == {1} else 'some threads'} of "
        f"a processor ({first['device_name']}), with a shorter schedule than the paper's; the "
        f"third, {took[BEST]} minutes each.{sooner} The paper reports {quoted('9')} hours on one GPU for its whole schedule."
    )


def _card(runs: Sequence[RecordedRun], preset: str, metric: str, unit: str, what: str) -> str:
    chosen = [run for run in runs if run.run["preset"] == preset]
    (row,) = compared(chosen).query("split == 'test' and metric == @metric").itertuples()
    paper = "not reported by the paper"
    if row.paper_mean == row.paper_mean:
        spread = f" ± {number_text(metric, row.paper_std)}"
        paper = "paper: " + quoted(f"{number_text(metric, row.paper_mean)}{spread}") + f" {unit}"
    number = linked(row.text, [run.folder for run in chosen], base="")
    return (
        f":::{{grid-item-card}}\n<span class='number'>{number}</span> {unit}\n\n{what}\n\n"
        f"<span class='source'>{paper}<br>LCS6Å, test split, {MODELS[preset]}, "
        f"n = {row.n}</span>\n:::"
    )


def field_film(crystal: Crystals, steps: Steps, field: PointFields) -> str:
    """Return an SVG in which particles follow the position field to the atoms, again and again.

    Args:
        crystal: one crystal, the true one.
        steps: its decoding (`nesf_studies.particles.follow`), with the moments `FRAMES`.
        field: the learned field, whose arrows are drawn on the crystal's fullest plane; particles
            that start in the layer next to that plane are shown, seen along z.
    """
    lattice, height = crystal.lattice[0], fullest_plane(crystal)
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) @ lattice[:2, :2]
    sheet = Sheet(corners.min(0) - 0.8, corners.max(0) + 0.8)
    start = steps.moments[0]
    layer = abs(start[:, 2] - height)
    inside = ((start[:, :2] > sheet.low) & (start[:, :2] < sheet.high)).all(1)
    accepted = np.append(steps.accepted, False)[steps.cluster]  # of the dropped: the last
    shown = np.flatnonzero((layer <= layer.min() + 1e-3) & inside & accepted)
    names = dict(zip(np.flatnonzero(steps.accepted), steps.species, strict=True))
    width, tall = (SCALE * (sheet.high - sheet.low)).round().astype(int)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {tall}">',
        _line("M" + "L".join(map(sheet.at, corners)) + "Z", 'stroke-width="1.5"'),
        _arrows(sheet, height, field),
        *(
            _particle(sheet, steps, i, element_colour(int(names[steps.cluster[i]])))
            for i in shown.tolist()
        ),
        *_atoms(sheet, steps, height),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


class Sheet(NamedTuple):
    """The part of a plane that is drawn: its lower left and upper right corner, Å."""

    low: np.ndarray
    high: np.ndarray

    def pixels(self, point: np.ndarray) -> tuple[int, int]:
        """Return where a point [2 or more], Å, is drawn."""
        x, y = SCALE * (point[0] - self.low[0]), SCALE * (self.high[1] - point[1])
        return round(float(x)), round(float(y))

    def at(self, point: np.ndarray) -> str:
        """Return the same as text of a path."""
        return "{} {}".format(*self.pixels(point))


def _line(path: str, style: str) -> str:
    return f'<path d="{path}" fill="none" stroke="#808890" {style}/>'


def _arrows(sheet: Sheet, height: float, field: PointFields) -> str:
    """Return a third of the field's arrows, with a dot at their feet, on a grid of 0.5 Å."""
    axes = (np.arange(a + 0.15, b, 0.5) for a, b in zip(sheet.low, sheet.high, strict=True))
    x, y = np.meshgrid(*axes)
    points = np.stack([x, y, np.full_like(x, height)], -1)
    pairs = zip(points.reshape(-1, 3), field(points)[0].reshape(-1, 3), strict=True)
    path = "".join(f"M{sheet.at(p)}L{sheet.at(p + v / 3)}" for p, v in pairs)
    return _line(path, 'stroke-opacity="0.8"')


def _particle(sheet: Sheet, steps: Steps, i: int, colour: str) -> str:
    """Return one particle: its way, iteration after iteration, then a rest on its atom."""
    way = [sheet.pixels(steps.moments[moment][i]) for moment in FRAMES]
    stops = np.linspace(0.08, 0.55, len(FRAMES))
    times = ";".join(f"{t:.2f}" for t in (0, *stops, 1))
    moves = []
    for name, values in zip(("cx", "cy"), zip(way[0], *way, way[-1], strict=True), strict=True):
        moves.append(_animate(name, times, ";".join(map(str, values))))
    x, y = way[-1]
    style = f'fill="{colour}" stroke="#404850" stroke-width="0.8"'
    return f'<circle r="4" cx="{x}" cy="{y}" {style}>{"".join(moves)}</circle>'


def _animate(name: str, times: str, values: str) -> str:
    return (
        f'<animate attributeName="{name}" dur="{FILM_SECONDS}s" repeatCount="indefinite" '
        f'keyTimes="{times}" values="{values}"/>'
    )


def _atoms(sheet: Sheet, steps: Steps, height: float) -> list[str]:
    """Return the detected atoms of the plane, which appear when the particles have arrived."""
    marks = []
    for position, number in zip(steps.positions, steps.species, strict=True):
        if abs(position[2] - height) < 2 * IN_SLICE:
            x, y = sheet.pixels(position)
            marks.append(
                f'<g><circle r="15" cx="{x}" cy="{y}" fill="{element_colour(int(number))}" '
                f'stroke="#303840" stroke-width="1.5"/><text x="{x}" y="{y + 5}" '
                'text-anchor="middle" font-family="sans-serif" font-size="14" font-weight="600" '
                f'fill="#101418">{chemical_symbols[int(number)]}</text>'
                f"{_animate('opacity', '0;0.57;0.65;1', '0;0;1;1')}</g>"
            )
    return marks
