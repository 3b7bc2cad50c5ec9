"""Old place of `nesf_studies.record`, for callers that have not moved yet; to be deleted with this folder."""

from nesf_studies.record import RecordedAnalysis, recorded_analysis, run_analysis

__all__ = ["RecordedAnalysis", "recorded_analysis", "run_analysis"]
