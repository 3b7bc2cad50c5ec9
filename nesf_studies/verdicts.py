"""Two means compared: better, not told apart or worse, by the standard error of the difference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from scipy.stats import t as student

CONFIDENCE = 0.95  # of the interval of a difference
Verdict = Literal["better", "not told apart", "worse", "not judged"]


@dataclass(frozen=True)
class Mean:
    """Mean and sample standard deviation of n runs; std is NaN where none is known.

    `unit`: last digit of a number that is known from print only, 0 for one that is not rounded.
    """

    mean: float
    std: float
    n: int
    unit: float = 0.0

    @property
    def spread(self) -> float:
        """The deviation; one that is printed as zero is taken for half of its last digit."""
        return self.unit / 2 if self.std == 0 and self.unit else self.std

    @property
    def has_spread(self) -> bool:
        """Whether a standard error can be made of it."""
        return self.n > 1 and self.spread == self.spread


@dataclass(frozen=True)
class Comparison:
    """Difference of two means, ours − theirs, with its interval (NaN where there is none)."""

    difference: float
    low: float
    high: float
    verdict: Verdict
    assumed: str  # whose spread the interval stands on


def compare(ours: Mean, theirs: Mean, stand_in: Mean | None = None) -> Comparison:
    """Judge a difference of two means of which the smaller is the better.

    The interval (95 %) is Welch's, from the standard error of the difference and Student's t. Where
    one side has no spread, what is assumed is said: theirs is exact (only ours is counted), or
    ours, a single run, spreads as `stand_in` (by default theirs). The rounding of printed numbers
    is added (unit²/12). Better or worse: the interval does not hold zero; not judged: no spread on
    either side.
    """
    difference, like = ours.mean - theirs.mean, stand_in or theirs
    if ours.has_spread and theirs.has_spread:
        assumed = "both sides"
        parts = [(ours.spread**2 / ours.n, ours.n - 1), (theirs.spread**2 / theirs.n, theirs.n - 1)]
    elif ours.has_spread:
        assumed, parts = "ours only: the paper gives none", [(ours.spread**2 / ours.n, ours.n - 1)]
    elif theirs.has_spread and like is theirs:
        assumed = "the paper's, for our one run too"
        parts = [(theirs.spread**2 * (1 / ours.n + 1 / theirs.n), theirs.n - 1)]
    elif theirs.has_spread and like.has_spread:
        assumed = "the paper's; of its NeSF for our one run"
        parts = [(like.spread**2 / ours.n, like.n - 1), (theirs.spread**2 / theirs.n, theirs.n - 1)]
    else:
        return Comparison(difference, math.nan, math.nan, "not judged", "none is known")
    variance = sum(v for v, _ in parts)
    below = sum(v**2 / degrees for v, degrees in parts)
    error = math.sqrt(variance + (ours.unit**2 + theirs.unit**2) / 12)
    half = student.ppf((1 + CONFIDENCE) / 2, variance**2 / below if below else math.inf) * error
    low, high = difference - float(half), difference + float(half)
    verdict: Verdict = "worse" if low > 0 else "better" if high < 0 else "not told apart"
    return Comparison(difference, low, high, verdict, assumed)


SIGNS: dict[str, str] = {"better": "▼", "not told apart": "≈", "worse": "▲", "not judged": "–"}


def badge(verdict: str) -> str:
    """Return a verdict as HTML: a sign (▼ a smaller error, ▲ a larger one), the word, a colour."""
    return f'<span class="verdict {verdict.replace(" ", "-")}">{SIGNS[verdict]} {verdict}</span>'
