"""New crystals: latent vectors drawn from a density, settled onto those of crystals, and decoded.

A drawn z is the latent vector of no crystal: only few of the points of the space are. So it is
*settled* first: decoded by the five steps, encoded again, and so on, `passes` times. Each pass ends
at the latent vector of a crystal that the fields can say, and nearer to one that they give back
(cf. Bengio et al. 2013 on sampling from autoencoders). The last latent vector is decoded
consistently; its certificate says that encoder and decoder agree on the crystal.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nesf import data
from nesf.crystals import Crystals
from nesf.data.dataset import Dataset
from nesf.decode import Reconstruction, decode_latent
from nesf.forms import within
from nesf.saved import TrainedModel, as_model
from nesf.trust import judged
from nesf_design.density import Density, Kind, fit
from nesf_design.symmetry import check_tolerance, symmetrised
from nesf_io.errors import ConfigError

PASSES = 2
MOST_DRAWN = 100_000  # latent vectors in one call


@dataclass(frozen=True)
class Samples:
    """Crystals made from latent vectors, one each."""

    z: np.ndarray  # [n, Z], as given
    made: Reconstruction  # with certificate and trust in the reports
    stages: tuple[Crystals, ...]  # after the first decoding, and after each pass but the last
    density: Density | None = None  # what z was drawn from

    @property
    def crystals(self) -> Crystals:
        """The crystals, in the order of z."""
        return self.made.crystals

    @property
    def certified(self) -> np.ndarray:
        """Tell of which crystals [n] encoder and decoder agree."""
        return np.array([bool(r["certificate"]["certified"]) for r in self.made.reports], bool)


def sample(
    model: TrainedModel | str | Path,
    n: int = 1000,
    *,
    dataset: Dataset | None = None,
    density: Kind = "flow",
    seed: int = 0,
    passes: int = PASSES,
    symmetrise: float = 0.0,
    progress: bool = False,
) -> Samples:
    """Draw latent vectors from a density fitted on the training split, and decode them.

    Args:
        model: a trained model, its folder, or its name (`nesf.load_model`).
        n: latent vectors to draw; as many crystals are returned, certified or not.
        dataset: what the model was trained on, whose training split is fitted, while the validation
            split chooses; None: it is loaded by the name in the model.
        density: flow, mixture (the control), noise (uniform, the trivial one).
        seed: of fit and draw.
        passes: of settling before the last decoding; 0: decode the drawn vectors themselves.
        symmetrise: tolerance, Å, of `nesf_design.symmetry`; 0: crystals as decoded.
        progress: bars on standard error.

    Raises:
        ConfigError: n, passes or symmetrise out of range, or no such density.
        DataError: no such model or dataset, a model of another method, or too few crystals.
    """
    within("n", n, 1, MOST_DRAWN)
    within("seed", seed)
    if symmetrise:
        check_tolerance(symmetrise)
    model = as_model(model)
    if dataset is None:
        dataset = data.load(model.dataset["name"], fold=model.dataset.get("fold"))
    fitted = fit_on(model, dataset, density, seed)
    z = model.latent(fitted.sample(n, seed))
    ids = [f"sample-{i:0{len(str(n - 1))}d}" for i in range(n)]
    made = settled(model, z, ids, passes=passes, symmetrise=symmetrise, progress=progress)
    return replace(made, density=fitted)


def fit_on(model: TrainedModel, dataset: Dataset, kind: Kind = "flow", seed: int = 0) -> Density:
    """Fit a density on the latent vectors of a dataset's training split (`nesf_design.density.fit`)."""
    train, val = (
        model.encode(dataset.split(split)).cpu().double().numpy() for split in ("train", "val")
    )
    return fit(train, val, kind, seed)


@torch.no_grad()
@np.errstate(invalid="ignore", divide="ignore")  # a wild z has a cell that is none, and is mended
def settled(
    model: TrainedModel,
    z: Tensor,
    ids: list[str],
    *,
    passes: int = PASSES,
    symmetrise: float = 0.0,
    progress: bool = False,
) -> Samples:
    """Settle latent vectors z [n, Z], and decode them consistently; arguments as of `sample`.

    The search for missing atoms is left out: it is for a z that a crystal has, and takes seconds.

    Raises:
        ConfigError: fewer than 0 passes, or a tolerance below 0.
    """
    if passes < 0:
        raise ConfigError(f"passes = {passes}: 0 or more are expected")
    fast = replace(model.config.decoding, mode="fast", particles="cell")
    last = replace(fast, mode="consistent", search_rounds=0)
    drawn, stages = z.cpu().double().numpy(), []
    for _ in range(passes):
        crystals = decode_latent(model, z, ids, fast, progress=progress).crystals
        stages.append(crystals)
        z = z.clone()
        some = np.flatnonzero(crystals.n_atoms)  # of nothing there is no latent vector
        z[torch.as_tensor(some, device=z.device)] = model.encode(crystals.select(some))
    made = decode_latent(model, z, ids, last, progress=progress)
    if symmetrise:
        made = symmetrised(made, symmetrise)
    return Samples(drawn, judged(made, model.domain), tuple(stages))
