"""Figures of losses, metrics and errors: the values drawn are those given."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from nesf_studies.scores import error_distribution, loss_curves, metrics_chart
from nesf_studies.style import METHOD_COLOURS, NESF


def test_losses_of_every_epoch_and_of_those_with_a_validation() -> None:
    losses = ("loss", "loss_position", "loss_species", "loss_length", "loss_angle")
    log = pd.DataFrame(
        {"epoch": [1, 2, 3]} | {name: [4.0 + i, 2.0 + i, 1.0 + i] for i, name in enumerate(losses)}
    )
    for i, name in enumerate(losses):
        log[f"val_{name}"] = [math.nan, 3.0 + i, math.nan]
    figure = loss_curves(log)
    for i, ax in enumerate(figure.axes[:5]):
        training, validation = ax.lines
        assert training.get_ydata().tolist() == [4.0 + i, 2.0 + i, 1.0 + i]
        assert validation.get_xdata().tolist() == [2] and validation.get_ydata().tolist() == [
            3.0 + i
        ]


def test_chart_draws_every_value_in_its_row_and_the_papers_hollow() -> None:
    tables = {"nesf": {"a": 1.0, "b": None}, "copy": {"a": 2.0, "b": math.nan}}
    figure = metrics_chart(tables, {"a": "A", "b": "B"}, paper={"a": 1.5})
    points = [
        (line.get_xdata()[0], line.get_ydata()[0], line.get_markerfacecolor())
        for line in figure.axes[0].lines
    ]
    assert points == [(1.0, 0, NESF), (1.5, 0, "none"), (2.0, 1, METHOD_COLOURS["copy"])]
    assert not figure.axes[1].lines and [
        text.get_text() for text in figure.axes[0].get_yticklabels()
    ] == ["nesf", "copy"]


def test_distribution_marks_median_and_mean_and_counts_atoms() -> None:
    materials = pd.DataFrame(
        {
            "position_error_actual_angstrom": [0.1, 0.2, 0.9, None],
            "n_atoms_actual": [2, 2, 2, 5],
            "n_atoms_detected": [2, 2, 3, 0],
        }
    )
    left, right = error_distribution(materials).axes
    assert [line.get_xdata()[0] for line in left.lines] == [pytest.approx(0.2), pytest.approx(0.4)]
    assert sum(bar.get_height() for bar in left.patches) == 3
    (points,) = right.collections
    assert points.get_offsets().tolist() == [
        [2, 2],
        [2, 3],
        [5, 0],
    ] and points.get_sizes().tolist() == [24, 12, 12]
