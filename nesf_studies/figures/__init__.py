"""Old place of the figures, for callers that have not moved yet; to be deleted with this folder."""

# ruff: noqa: E402

import sys

from nesf_studies import style

sys.modules["nesf_studies.figures.style"] = style

from nesf_studies.figures.crystals import draw_crystal, element_map, with_border_images
from nesf_studies.figures.errors import errors_by_atoms
from nesf_studies.figures.examples import example_caption, example_grid
from nesf_studies.figures.particles import animation, reconstruction_frames, reconstruction_steps, steps_table, votes_chart, votes_table
from nesf_studies.figures.slices import (
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
from nesf_studies.figures.speed import scaling, step_profile
from nesf_studies.figures.voxels import decoded_slices, map_slices, voxel_losses
from nesf_studies.interpolation import path_chart, path_summary
from nesf_studies.latent_space import SYSTEM_COLOURS, frequent_groups, latent_map, neighbour_chart, value_colours
from nesf_studies.properties import property_parity, property_scores
from nesf_studies.scores import comparison, error_distribution, loss_curves, metrics_chart
from nesf_studies.search import search_steps
from nesf_studies.sensitivity import sensitivity_curves
from nesf_studies.style import METHOD_COLOURS, element_colour, save

__all__ = [
    "METHOD_COLOURS",
    "SYSTEM_COLOURS",
    "animation",
    "best_for_slice",
    "compare_fields",
    "comparison",
    "decoded_slices",
    "draw_crystal",
    "element_colour",
    "element_map",
    "error_distribution",
    "errors_by_atoms",
    "example_caption",
    "example_grid",
    "field_error_curves",
    "frequent_groups",
    "fullest_plane",
    "latent_map",
    "learned_field",
    "loss_curves",
    "map_slices",
    "metrics_chart",
    "neighbour_chart",
    "overview",
    "particle_paths",
    "path_chart",
    "path_summary",
    "plane_agreement",
    "plane_fields",
    "property_parity",
    "property_scores",
    "reconstruction_frames",
    "reconstruction_steps",
    "save",
    "scaling",
    "search_steps",
    "sensitivity_curves",
    "step_profile",
    "steps_table",
    "structure_field",
    "true_field",
    "value_colours",
    "votes_chart",
    "votes_table",
    "voxel_losses",
    "with_border_images",
]
