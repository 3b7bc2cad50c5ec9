"""Old place of what pages need, for callers that have not moved yet; to be deleted with this folder."""

# ruff: noqa: E402

import sys

from nesf_studies import page

sys.modules["nesf_studies.pages.common"] = page
from nesf_studies.page import LABELS, RESULTS, TABLE1, TITLES, check_parameters, open_dataset, open_model, recorded_run, unbroken
from nesf_studies.pages.benchmarks import BENCHMARKS, agreement_table, memory_table, recorded_benchmark, recorded_streaming, speed_table
from nesf_studies.tables import (
    PAPER_HOURS,
    PAPER_PARAMETERS,
    atoms_table,
    comparison_table,
    cost_table,
    difference_table,
    error_sources,
    largest_errors,
    metrics_table,
    not_yet_run,
    progress_table,
    recorded_summaries,
    run_links,
)
from nesf_studies.trials import changes_table, config_table, effects_table, presets_table

__all__ = [
    "BENCHMARKS",
    "LABELS",
    "PAPER_HOURS",
    "PAPER_PARAMETERS",
    "RESULTS",
    "TABLE1",
    "TITLES",
    "agreement_table",
    "atoms_table",
    "changes_table",
    "check_parameters",
    "comparison_table",
    "config_table",
    "cost_table",
    "difference_table",
    "effects_table",
    "error_sources",
    "largest_errors",
    "memory_table",
    "metrics_table",
    "not_yet_run",
    "open_dataset",
    "open_model",
    "presets_table",
    "progress_table",
    "recorded_benchmark",
    "recorded_run",
    "recorded_streaming",
    "recorded_summaries",
    "run_links",
    "speed_table",
    "unbroken",
]
