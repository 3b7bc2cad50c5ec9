"""What notebooks need beside the science: parameters that are checked, the recorded runs of the repository, tables."""

from nesf_studies.pages.benchmarks import BENCHMARKS, agreement_table, memory_table, recorded_benchmark, recorded_streaming, speed_table
from nesf_studies.pages.common import LABELS, RESULTS, TABLE1, TITLES, check_parameters, recorded_run, unbroken
from nesf_studies.pages.inputs import open_dataset, open_model
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
    "training_cost",
    "unbroken",
]
