"""Densities of latent vectors, fitted on a training split: what new latent vectors are drawn from.

Both models work on the principal components of the latent vectors that hold `VARIANCE` of their
variance, each scaled to a variance of 1: `mixture` is the control, Gaussians of full covariance by
scikit-learn; `flow` a small normalising flow of affine couplings (Dinh et al. 2017, real NVP). The
validation split chooses the number of Gaussians and the epoch of the flow. `noise` is the trivial
one: each component of z on its own, uniform between its extremes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

from nesf_io.errors import ConfigError, DataError

VARIANCE = 0.99  # of the latent vectors that the principal components keep
GAUSSIANS = (1, 4, 8, 16, 32)  # numbers of components tried on the validation split
RIDGE = 1e-3  # added to the diagonals of the covariances of components scaled to 1
LAYERS, WIDTH = 8, 128  # couplings of the flow; units of the two hidden layers of each
EPOCHS, PATIENCE, BATCH, RATE = 300, 15, 256, 1e-3
BLUR = 0.05  # standard deviation of the noise on the flow's training data: a weak regulariser
FEWEST = 20  # latent vectors that a density can be fitted on

Kind: TypeAlias = Literal["flow", "mixture", "noise"]
KINDS: tuple[Kind, ...] = ("flow", "mixture", "noise")


class Scores(Protocol):
    """What draws and judges scaled principal components."""

    def sample(self, n: int, seed: int) -> np.ndarray:
        """Return n draws [n, K]."""

    def log_density(self, y: np.ndarray) -> np.ndarray:
        """Return log densities [n], nats, of scaled principal components [n, K]."""


@dataclass(frozen=True)
class Density:
    """A density of latent vectors."""

    kind: Kind
    components: PCA | None  # None: of z itself
    scores: Scores
    choice: str  # what the validation split chose, in words

    def sample(self, n: int, seed: int = 0) -> np.ndarray:
        """Return n latent vectors [n, Z]."""
        y = self.scores.sample(n, seed)
        return y if self.components is None else self.components.inverse_transform(y)

    def log_density(self, z: np.ndarray) -> np.ndarray:
        """Return log densities [n] of latent vectors [n, Z], nats.

        Those of `flow` and `mixture` are of the same principal components, scaled to a variance
        of 1, and can be compared; that of `noise` is of z itself.
        """
        z = np.asarray(z, np.float64)
        return self.scores.log_density(
            z if self.components is None else self.components.transform(z)
        )


def fit(train: np.ndarray, val: np.ndarray, kind: Kind = "flow", seed: int = 0) -> Density:
    """Fit a density on latent vectors [B, Z] of a training split.

    Args:
        train: latent vectors that are fitted.
        val: those of the validation split, which choose the number of Gaussians or the epoch.
        kind: flow, mixture or noise.
        seed: of the fit.

    Raises:
        ConfigError: there is no such kind.
        DataError: too few latent vectors.
    """
    if kind not in KINDS:
        raise ConfigError(f"density {kind!r} does not exist; choose from {', '.join(KINDS)}")
    if len(train) < FEWEST or not len(val):
        raise DataError(
            f"{len(train)} training and {len(val)} validation crystals: a density of latent vectors needs at least {FEWEST} and 1"
        )
    train, val = np.asarray(train, np.float64), np.asarray(val, np.float64)
    if kind == "noise":
        return Density(kind, None, Uniform(train.min(0), train.max(0)), "extremes of training")
    components = PCA(VARIANCE, svd_solver="full", whiten=True).fit(train)
    y, y_val = components.transform(train), components.transform(val)
    about = f"{y.shape[1]} principal components"
    if kind == "mixture":
        mixture = _fit_mixture(y, y_val, seed)
        return Density(kind, components, mixture, f"{mixture.n} Gaussians, {about}")
    flow, epoch = fit_flow(y, y_val, seed)
    return Density(kind, components, flow, f"epoch {epoch}, {about}")


@dataclass(frozen=True)
class Uniform:
    """Uniform in a box."""

    low: np.ndarray  # [K]
    high: np.ndarray  # [K]

    def sample(self, n: int, seed: int) -> np.ndarray:
        """Return n draws [n, K]."""
        return np.random.default_rng(seed).uniform(self.low, self.high, (n, len(self.low)))

    def log_density(self, y: np.ndarray) -> np.ndarray:
        """Return log densities [n]; minus infinity outside of the box."""
        inside = ((y >= self.low) & (y <= self.high)).all(1)
        return np.where(inside, -np.log(self.high - self.low).sum(), -np.inf)


@dataclass(frozen=True)
class Mixture:
    """A mixture of Gaussians of scikit-learn."""

    gaussians: GaussianMixture

    @property
    def n(self) -> int:
        """Number of Gaussians."""
        return int(self.gaussians.n_components)

    def sample(self, n: int, seed: int) -> np.ndarray:
        """Return n draws [n, K], in random order."""
        random = np.random.default_rng(seed)
        g = self.gaussians
        which = random.choice(self.n, n, p=g.weights_ / g.weights_.sum())
        roots = np.linalg.cholesky(g.covariances_)
        noise = random.standard_normal((n, g.means_.shape[1]))
        return g.means_[which] + np.einsum("nij,nj->ni", roots[which], noise)

    def log_density(self, y: np.ndarray) -> np.ndarray:
        """Return log densities [n]."""
        return np.asarray(self.gaussians.score_samples(y))


def _fit_mixture(y: np.ndarray, val: np.ndarray, seed: int) -> Mixture:
    """Fit mixtures of several sizes, and return that of the highest validation density."""
    sizes = [k for k in GAUSSIANS if k == 1 or len(y) >= FEWEST * k]
    fitted = [
        GaussianMixture(k, reg_covar=RIDGE, random_state=seed, max_iter=200).fit(y) for k in sizes
    ]
    return Mixture(max(fitted, key=lambda mixture: mixture.score(val)))


class Coupling(nn.Module):
    """An invertible layer: half of the entries, permuted at random, scale and shift the others."""

    order: Tensor

    def __init__(self, size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.kept = size - size // 2
        self.register_buffer("order", torch.randperm(size, generator=generator))
        last = nn.Linear(WIDTH, 2 * (size // 2))
        nn.init.zeros_(last.weight)  # begins as the identity
        nn.init.zeros_(last.bias)
        hidden = nn.Linear(self.kept, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU()
        self.network = nn.Sequential(*hidden, last)

    def change(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Return log scale and shift of the other half."""
        log_scale, shift = self.network(kept).chunk(2, -1)
        return 2 * torch.tanh(log_scale / 2), shift

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return y [n, K] one layer nearer to the normal distribution, and log |det| [n]."""
        kept, other = y[:, self.order].split([self.kept, y.shape[1] - self.kept], -1)
        log_scale, shift = self.change(kept)
        return torch.cat([kept, other * log_scale.exp() + shift], -1), log_scale.sum(-1)

    def inverse(self, x: Tensor) -> Tensor:
        """Undo `forward`."""
        kept, other = x.split([self.kept, x.shape[1] - self.kept], -1)
        log_scale, shift = self.change(kept)
        return torch.cat([kept, (other - shift) * (-log_scale).exp()], -1)[:, self.order.argsort()]


class Flow(nn.Module):
    """A normalising flow of affine couplings, from data to a standard normal distribution."""

    def __init__(self, size: int, seed: int) -> None:
        super().__init__()
        self.size = size
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.ModuleList([Coupling(size, generator) for _ in range(LAYERS)])

    def forward(self, y: Tensor) -> Tensor:
        """Return log densities [n], nats, of y [n, K]."""
        total = y.new_zeros(len(y))
        for layer in self.layers:
            y, log_det = layer(y)
            total = total + log_det
        return total - (y.square() + np.log(2 * np.pi)).sum(-1) / 2

    @torch.no_grad()
    def sample(self, n: int, seed: int) -> np.ndarray:
        """Return n draws [n, K]."""
        y = torch.randn(n, self.size, generator=torch.Generator().manual_seed(seed))
        for layer in reversed(self.layers):
            y = layer.inverse(y)  # type: ignore[operator]
        return y.double().numpy()

    @torch.no_grad()
    def log_density(self, y: np.ndarray) -> np.ndarray:
        """Return log densities [n]."""
        return np.asarray(self(torch.as_tensor(y, dtype=torch.float32)).double().numpy())


def fit_flow(y: np.ndarray, val: np.ndarray, seed: int) -> tuple[Flow, int]:
    """Train a flow on y [n, K], K ≥ 2; return it as it was at its best validation epoch, and that."""
    if y.shape[1] < 2:
        raise DataError("the latent vectors vary along one direction only; take density mixture")
    flow, generator = Flow(y.shape[1], seed), torch.Generator().manual_seed(seed)
    data, held = (torch.as_tensor(v, dtype=torch.float32) for v in (y, val))
    optimizer = torch.optim.Adam(flow.parameters(), RATE, weight_decay=1e-5)
    best, best_epoch, weights = -np.inf, 0, copy.deepcopy(flow.state_dict())
    for epoch in range(1, EPOCHS + 1):
        for batch in torch.randperm(len(data), generator=generator).split(BATCH):
            noise = torch.randn(len(batch), y.shape[1], generator=generator)
            loss = -flow(data[batch] + BLUR * noise).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(flow.parameters(), 10.0)
            optimizer.step()
        with torch.no_grad():
            score = float(flow(held).mean())
        if score > best:
            best, best_epoch, weights = score, epoch, copy.deepcopy(flow.state_dict())
        elif epoch - best_epoch >= PATIENCE:
            break
    flow.load_state_dict(weights)
    return flow.eval(), best_epoch
