"""Two means: the interval is Welch's, and every assumption is said."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from nesf_studies.verdicts import Mean, badge, compare

NAN = math.nan


def test_interval_is_welchs() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(1.0, 0.3, 5), rng.normal(1.4, 0.1, 9)
    found = compare(Mean(a.mean(), a.std(ddof=1), 5), Mean(b.mean(), b.std(ddof=1), 9))
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.difference == pytest.approx(a.mean() - b.mean()) and found.assumed == "both sides"


def test_without_a_spread_of_theirs_ours_alone_is_counted() -> None:
    values = np.array([1.0, 2.0, 4.0, 5.0])
    found = compare(Mean(values.mean(), values.std(ddof=1), 4), Mean(6.0, NAN, 20))
    expected = stats.ttest_1samp(values, 6.0).confidence_interval(0.95)
    assert (found.low + 6, found.high + 6) == pytest.approx((expected.low, expected.high))
    assert found.verdict == "better" if expected.high < 6 else "not told apart"
    assert found.assumed.startswith("ours only")


def test_one_run_of_ours_spreads_as_theirs_or_as_a_stand_in() -> None:
    theirs = Mean(1.0, 0.5, 10)
    found = compare(Mean(1.9, NAN, 1), theirs)
    half = stats.t.ppf(0.975, 9) * 0.5 * math.sqrt(1.1)  # the prediction interval of one more run
    assert found.high - found.difference == pytest.approx(half)
    assert found.verdict == "not told apart" and "one run" in found.assumed
    narrow = compare(Mean(1.9, NAN, 1), Mean(1.0, 0.01, 10), theirs)
    assert narrow.high - narrow.low > 1.5 and narrow.verdict == "not told apart"


def test_rounding_of_printed_numbers_is_counted() -> None:
    printed = Mean(0.05, 0.00, 10, unit=0.01)
    assert compare(Mean(0.054, 0.001, 3), printed).verdict == "not told apart"
    assert compare(Mean(0.010, 0.001, 3), printed).verdict == "better"
    assert compare(Mean(0.090, 0.001, 3), printed).verdict == "worse"


def test_without_any_spread_nothing_is_judged() -> None:
    found = compare(Mean(1.0, NAN, 1), Mean(9.0, NAN, 20))
    assert found.verdict == "not judged" and math.isnan(found.low) and found.difference == -8.0


def test_a_verdict_is_a_word_and_a_sign_and_not_a_colour_alone() -> None:
    assert "▼ better" in badge("better") and "▲ worse" in badge("worse")
