"""From a property to crystals: latent vectors chosen for a target, decoded, and looked up.

A Gaussian process predicts the property from z, with its uncertainty. Of many latent vectors drawn
from a density (`nesf_design.density`), those are chosen of which it is most sure that they are
good: predicted value, made worse by one standard deviation. They are settled and decoded as samples
are (`nesf_design.sample`), and the decoded crystals are predicted again.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.pipeline import Pipeline, make_pipeline

from nesf.crystals import Crystals
from nesf.data.dataset import Dataset
from nesf.forms import within
from nesf.matching import match_rmse
from nesf.saved import TrainedModel
from nesf_design.density import VARIANCE, Kind, fit
from nesf_design.sample import MOST_DRAWN, Samples, settled
from nesf_design.validity import formula
from nesf_io.errors import ConfigError, DataError

CAUTION = 1.0  # standard deviations by which a prediction is made worse
MOST_FITTED = 1000  # crystals that the Gaussian process is fitted on; its time grows with the cube
FEWEST = 20  # crystals with a known value


@dataclass(frozen=True)
class Goal:
    """What is wanted of a property."""

    name: str
    aim: float  # a value; -inf: as low, inf: as high as possible

    @classmethod
    def of(cls, text: str) -> Goal:
        """Read PROPERTY=min, PROPERTY=max or PROPERTY=NUMBER; ConfigError: it is none of them."""
        name, _, aim = text.rpartition("=")
        known = {"min": -math.inf, "max": math.inf}
        try:
            value = known[aim] if aim in known else float(aim)
        except ValueError:
            value = math.nan
        if not name or math.isnan(value) or (math.isinf(value) and aim not in known):
            raise ConfigError(
                f"target {text!r}: PROPERTY=min, PROPERTY=max or PROPERTY=NUMBER is expected"
            )
        return cls(name, value)

    def badness(self, values: np.ndarray) -> np.ndarray:
        """Return how far values [n] are from the goal; lower is better."""
        if math.isinf(self.aim):
            return values if self.aim < 0 else -values
        return np.abs(values - self.aim)


@dataclass(frozen=True)
class Predictor:
    """A property predicted from latent vectors, with its uncertainty."""

    pipeline: Pipeline

    @classmethod
    def fitted(cls, z: np.ndarray, values: np.ndarray, seed: int = 0) -> Predictor:
        """Fit a Gaussian process on latent vectors [B, Z] and values [B]; NaN is left out.

        Raises:
            DataError: fewer than 20 known values, or all of them are the same.
        """
        known = np.flatnonzero(np.isfinite(values))
        if len(known) < FEWEST or np.ptp(values[known]) == 0:
            raise DataError(
                f"{len(known)} training crystals have a known value, {len(np.unique(values[known]))} different ones; at least {FEWEST} that differ are needed"
            )
        if len(known) > MOST_FITTED:
            known = np.random.default_rng(seed).choice(known, MOST_FITTED, replace=False)
        kernel = ConstantKernel(1.0, (1e-2, 1e3)) * RBF(10.0, (1e-1, 1e3)) + WhiteKernel(
            0.1, (1e-4, 1e1)
        )
        process = GaussianProcessRegressor(kernel, normalize_y=True, random_state=seed)
        pipeline = make_pipeline(PCA(VARIANCE, svd_solver="full", whiten=True), process)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a bound of the kernel is reached
            pipeline.fit(z[known], values[known])
        return cls(pipeline)

    def __call__(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return predicted values and standard deviations [n] of latent vectors [n, Z]."""
        mean, deviation = self.pipeline.predict(np.asarray(z, np.float64), return_std=True)
        return mean, deviation


@dataclass(frozen=True)
class Designed:
    """Crystals made for a goal."""

    samples: Samples
    # a row a crystal: `predicted` and `deviation` of the chosen z, `predicted_decoded` and
    # `deviation_decoded` of the latent vector of the crystal; NaN where nothing was detected
    table: pd.DataFrame


def design(
    model: TrainedModel,
    goal: Goal,
    dataset: Dataset,
    values: np.ndarray,
    *,
    n: int = 50,
    pool: int = 2000,
    seed: int = 0,
    **options: Any,
) -> Designed:
    """Choose latent vectors for a goal and decode them.

    Args:
        model: a trained model.
        goal: property, and what is wanted of it.
        dataset: what the model was trained on.
        values: the property of its training crystals [B], NaN where unknown.
        n: crystals to make.
        pool: latent vectors drawn, of which the n best are taken.
        seed: of fit and draw.
        options: `density` (flow, mixture), `passes`, `symmetrise`, `progress`, as of
            `nesf_design.sample.sample`.

    Raises:
        ConfigError: n or pool out of range.
        DataError: too few known values.
    """
    within("pool", pool, 1, MOST_DRAWN)
    within("seed", seed)
    if not 0 < n <= pool:
        raise ConfigError(f"n = {n}, pool = {pool}: at least one, and no more than are drawn")
    train, val = (model.encode(dataset.split(s)).cpu().double().numpy() for s in ("train", "val"))
    predictor = Predictor.fitted(train, values, seed)
    kind: Kind = options.pop("density", "flow")
    drawn = fit(train, val, kind, seed).sample(pool, seed)
    chosen = drawn[best(drawn, predictor, goal)[:n]]
    return decoded(model, chosen, predictor, **options)


def best(z: np.ndarray, predictor: Predictor, goal: Goal) -> np.ndarray:
    """Return the order [n] of latent vectors [n, Z], the surest to be good first."""
    mean, deviation = predictor(z)
    return np.argsort(goal.badness(mean) + CAUTION * deviation, kind="stable")


def decoded(
    model: TrainedModel,
    z: np.ndarray,
    predictor: Predictor,
    prefix: str = "design",
    **options: Any,
) -> Designed:
    """Settle and decode latent vectors [n, Z], and predict the property before and after."""
    ids = [f"{prefix}-{i:0{len(str(max(len(z) - 1, 1)))}d}" for i in range(len(z))]
    made = settled(model, model.latent(z), ids, **options)
    mean, deviation = predictor(z)
    table = pd.DataFrame({"id": ids, "predicted": mean, "deviation": deviation})
    some = np.flatnonzero(made.crystals.n_atoms)
    again = np.full((2, len(z)), np.nan)
    if len(some):
        own = model.encode(made.crystals.select(some)).cpu().double().numpy()
        again[:, some] = predictor(own)
    table["predicted_decoded"], table["deviation_decoded"] = again
    table["certified"] = made.certified
    return Designed(made, table)


def looked_up(crystals: Crystals, known: Crystals, values: np.ndarray) -> np.ndarray:
    """Return the values [B] of the known crystals that StructureMatcher maps crystals onto.

    NaN where there is none, or its value is not known; the nearest one where there are several.
    """
    groups, found = defaultdict(list), np.full(len(crystals), np.nan)
    for j in range(len(known)):
        groups[formula(known.species[known.atoms(j)])].append(j)
    for i in range(len(crystals)):
        others = groups.get(formula(crystals.species[crystals.atoms(i)]), [])
        if others and crystals.n_atoms[i]:
            far = match_rmse(known.select(others), crystals.select([i] * len(others)))
            if np.isfinite(far).any():
                found[i] = values[others[int(np.nanargmin(far))]]
    return found


def known_values(
    dataset: Dataset, goal: Goal, table: pd.DataFrame | None = None, split: str = "train"
) -> np.ndarray:
    """Return a goal's property of the crystals of a split [B], NaN where unknown.

    Args:
        dataset: with the property as a column, where there is no table.
        goal: names the property.
        table: with a column `id` or `material_id`, and one of the property's name.
        split: train, val or test.

    Raises:
        DataError: there is no such property, it is no number, or the table knows no crystal.
    """
    crystals = dataset.split(split)
    if table is None:
        numbers = [k for k, v in crystals.properties.items() if v.dtype.kind in "fiub"]
        if goal.name not in numbers:
            has = f"choose from {', '.join(sorted(numbers))}" if numbers else "it has none"
            raise DataError(
                f"{dataset.label}: {goal.name!r} is not a property of its crystals; {has}, or give a table of them"
            )
        return crystals.properties[goal.name].astype(float)
    key = next((c for c in ("id", "material_id") if c in table), None)
    if key is None or goal.name not in table:
        raise DataError(
            f"the table has the columns {', '.join(map(str, table.columns))}; `id` (or `material_id`) and {goal.name!r} are expected"
        )
    numbers_of = pd.to_numeric(table[goal.name], errors="coerce")
    by_id = dict(zip(table[key].astype(str), numbers_of, strict=True))
    made = np.array([by_id.get(i, np.nan) for i in crystals.ids], float)
    if split == "train" and not np.isfinite(made).any():
        raise DataError(
            f"the table has no number {goal.name!r} for any training crystal of {dataset.label}; its ids are like {crystals.ids[0]}"
        )
    return made
