"""Figures: one typed function each, which returns a matplotlib figure and shows nothing."""

# ruff: noqa: E402

import sys

from nesf_studies import style
from nesf_studies.style import METHOD_COLOURS, element_colour, save

sys.modules["nesf_studies.figures.style"] = style  # until the other figures have moved too

from nesf_studies.figures.interpolation import path_chart, path_summary
from nesf_studies.figures.latent_space import SYSTEM_COLOURS, frequent_groups, latent_map, neighbour_chart, value_colours
from nesf_studies.figures.properties import property_parity, property_scores
from nesf_studies.figures.scores import comparison, error_distribution, loss_curves, metrics_chart
from nesf_studies.figures.search import search_steps
from nesf_studies.figures.sensitivity import sensitivity_curves

__all__ = [
    "METHOD_COLOURS",
    "SYSTEM_COLOURS",
    "comparison",
    "element_colour",
    "error_distribution",
    "frequent_groups",
    "latent_map",
    "loss_curves",
    "metrics_chart",
    "neighbour_chart",
    "path_chart",
    "path_summary",
    "property_parity",
    "property_scores",
    "save",
    "search_steps",
    "sensitivity_curves",
    "value_colours",
]
