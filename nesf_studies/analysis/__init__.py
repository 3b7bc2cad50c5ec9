"""Old place of the analyses, for callers that have not moved yet; to be deleted with this folder."""

from nesf_studies import ANALYSES

__all__ = ["ANALYSES"]
