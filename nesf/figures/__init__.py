"""Figures: one typed function each, which returns a matplotlib figure and shows nothing."""

from nesf.figures.crystals import draw_crystal, element_map, with_border_images
from nesf.figures.errors import errors_by_atoms
from nesf.figures.examples import example_caption, example_grid
from nesf.figures.particles import animation, reconstruction_frames, reconstruction_steps, steps_table, votes_chart
from nesf.figures.scores import comparison, error_distribution, loss_curves, metrics_chart
from nesf.figures.slices import (
    best_for_slice,
    compare_fields,
    field_error_curves,
    fullest_plane,
    learned_field,
    overview,
    particle_paths,
    plane_agreement,
    plane_fields,
    structure_field,
    true_field,
)
from nesf.figures.speed import scaling, step_profile
from nesf.figures.style import METHOD_COLOURS, element_colour, save

__all__ = [
    "METHOD_COLOURS",
    "animation",
    "best_for_slice",
    "compare_fields",
    "comparison",
    "draw_crystal",
    "element_colour",
    "element_map",
    "error_distribution",
    "errors_by_atoms",
    "example_caption",
    "example_grid",
    "field_error_curves",
    "fullest_plane",
    "learned_field",
    "loss_curves",
    "metrics_chart",
    "overview",
    "particle_paths",
    "plane_agreement",
    "plane_fields",
    "reconstruction_frames",
    "reconstruction_steps",
    "save",
    "scaling",
    "step_profile",
    "steps_table",
    "structure_field",
    "true_field",
    "votes_chart",
    "with_border_images",
]
