"""What notebooks need beside the science: parameters that are checked, the recorded runs of the repository, tables."""

# ruff: noqa: E402

import sys

from nesf_studies import page
from nesf_studies.page import LABELS, RESULTS, TABLE1, TITLES, check_parameters, open_dataset, open_model, recorded_run, unbroken

sys.modules["nesf_studies.pages.common"] = page  # until the other pages have moved too

from nesf_studies.pages.recipes import changes_table, config_table, effects_table, presets_table
from nesf_studies.pages.tables import (
    PAPER_HOURS,
    PAPER_PARAMETERS,
    atoms_table,
    comparison_table,
    difference_table,
    error_sources,
    largest_errors,
    metrics_table,
    not_yet_run,
    progress_table,
    recorded_summaries,
    run_links,
    training_cost,
)

__all__ = [
    "LABELS",
    "PAPER_HOURS",
    "PAPER_PARAMETERS",
    "RESULTS",
    "TABLE1",
    "TITLES",
    "atoms_table",
    "changes_table",
    "check_parameters",
    "comparison_table",
    "config_table",
    "difference_table",
    "effects_table",
    "error_sources",
    "largest_errors",
    "metrics_table",
    "not_yet_run",
    "open_dataset",
    "open_model",
    "presets_table",
    "progress_table",
    "recorded_run",
    "recorded_summaries",
    "run_links",
    "training_cost",
    "unbroken",
]
