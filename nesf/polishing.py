"""Levenberg-Marquardt polishing: move atoms and lattice until the encoder gives a latent vector.

The latent distance of a crystal x to a latent vector z is

    d = mean over the components of ((E(x) - z) / σ)²,    σ: standard deviations over the training
                                                           split.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nesf.model import Encoder, scale_and_shift, scaled_lattice

# Rounding of a latent vector in fp32, in standard deviations, against the spread of the decoded
# lattice (0.05 Å, 0.06 degrees): the weights of the decoded lattice in a least-squares fit.
LATTICE_WEIGHTS = (4e-10,) * 3 + (1e-6,) * 3


class Candidates(NamedTuple):
    """C crystals, padded to N atoms, in double precision."""

    positions: Tensor  # [C, N, 3], Å; 0 where there is no atom
    species: Tensor  # [C, N], index into the vocabulary
    mask: Tensor  # [C, N]
    lattice: Tensor  # [C, 6]: lengths, Å, and angles, radians
    told: Tensor  # [C], the number of atoms that the encoder is told; more than N: of a part

    def to(self, dtype: torch.dtype) -> Candidates:
        """Return the candidates with positions and lattice of another type."""
        return self._replace(positions=self.positions.to(dtype), lattice=self.lattice.to(dtype))

    def select(self, which: Tensor | slice) -> Candidates:
        """Return the candidates at the given indices."""
        return Candidates(*(t[which] for t in self))

    @staticmethod
    def of(
        atoms: Sequence[tuple[Tensor, Tensor]], lattice: Tensor, told: Sequence[int] | None = None
    ) -> Candidates:
        """Return candidates of positions [n, 3] and species [n] each, and lattices [C, 6]."""
        width = max(len(s) for _, s in atoms)
        positions = lattice.new_zeros(len(atoms), width, 3)
        species = torch.zeros(len(atoms), width, dtype=torch.long)
        mask = torch.zeros(len(atoms), width, dtype=torch.bool)
        for i, (p, s) in enumerate(atoms):
            positions[i, : len(s)], species[i, : len(s)], mask[i, : len(s)] = p, s, True
        counts = mask.sum(1) if told is None else torch.as_tensor(told)
        return Candidates(positions, species, mask, lattice, counts)

    def atoms(self, i: int) -> tuple[Tensor, Tensor]:
        """Return positions [n, 3] and species [n] of candidate i."""
        return self.positions[i][self.mask[i]], self.species[i][self.mask[i]]


class Layer(NamedTuple):
    """A linear layer, and the affine map after its ReLU; the last layer of an MLP has none."""

    weight: Tensor
    bias: Tensor
    after: tuple[Tensor, Tensor] | None


def layers_of(mlp: nn.Sequential, dtype: torch.dtype) -> list[Layer]:
    """Return an MLP in evaluation as its layers, on the CPU."""
    layers: list[Layer] = []
    for module in mlp:
        if isinstance(module, nn.Linear):
            one = torch.ones(module.out_features, dtype=dtype)
            weight, bias = (t.detach().to("cpu", dtype) for t in (module.weight, module.bias))
            layers.append(Layer(weight, bias, (one, 0 * one)))
        elif isinstance(module, nn.BatchNorm1d):
            scale, shift = (t.detach().to("cpu", dtype) for t in scale_and_shift(module))
            layers[-1] = layers[-1]._replace(after=(scale, shift))
    layers[-1] = layers[-1]._replace(after=None)
    return layers


def evaluate(layers: Sequence[Layer], x: Tensor) -> Tensor:
    """Evaluate an MLP at x [..., n]."""
    for weight, bias, after in layers:
        x = nn.functional.linear(x, weight, bias)
        if after is not None:
            x = torch.relu(x) * after[0] + after[1]
    return x


def derive(layers: Sequence[Layer], x: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate an MLP and its derivatives along T directions dx [..., T, n]."""
    for weight, bias, after in layers:
        x, dx = nn.functional.linear(x, weight, bias), dx @ weight.T
        if after is not None:
            dx = dx * ((x > 0) * after[0]).unsqueeze(-2)
            x = torch.relu(x) * after[0] + after[1]
    return x, dx


class FixedEncoder:
    """The encoder in evaluation, with its derivatives.

    Its features of an atom are a sum of a part of the position and a part of the species, so that
    all species of an atom cost one addition each.
    """

    def __init__(self, encoder: Encoder, dtype: torch.dtype = torch.float64) -> None:
        self.position = layers_of(encoder.position, dtype)
        (mix,) = layers_of(encoder.mix, dtype)
        n = len(self.position[-1].bias)
        self.position_weight = mix.weight[:, :n]
        self.dtype = dtype
        one_hot = torch.eye(encoder.n_species, dtype=dtype)
        species = evaluate(layers_of(encoder.species, dtype), one_hot)
        self.of_species = species @ mix.weight[:, n:].T + mix.bias  # [A, F]
        self.latent = layers_of(encoder.latent, dtype)
        self.counts = encoder.counts
        self.lattice = layers_of(encoder.lattice, dtype) if encoder.lattice else None

    def of_positions(self, positions: Tensor) -> Tensor:
        """Return the part of the position [..., F] in an atom's features."""
        return evaluate(self.position, positions) @ self.position_weight.T

    def of_lattice(self, lattice: Tensor) -> Tensor:
        """Return what the lattices [C, 6] add to the pooled features [C, L]."""
        if self.lattice is None:
            return lattice
        return evaluate(self.lattice, scaled_lattice(lattice[:, :3], lattice[:, 3:]))

    def of_pooled(self, largest: Tensor, total: Tensor, n: Tensor, lattice: Tensor) -> Tensor:
        """Return latent vectors [C, latent_size] of pooled features.

        Args:
            largest: [C, F], the largest of the atoms' features.
            total: [C, F], the sum of their positive parts.
            n: [C], the number of atoms.
            lattice: [C, L], from `of_lattice`.
        """
        parts = [largest]
        if self.counts:
            n = n[:, None].to(largest.dtype)
            parts += [total / n, n / 10]
        return evaluate(self.latent, torch.cat([*parts, lattice], dim=-1))

    def __call__(self, crystals: Candidates) -> Tensor:
        """Return latent vectors [C, latent_size]."""
        mask = crystals.mask[..., None]
        features = self.of_positions(crystals.positions) + self.of_species[crystals.species]
        largest = features.masked_fill(~mask, -torch.inf).amax(1)
        total = (torch.relu(features) * mask).sum(1)
        return self.of_pooled(largest, total, crystals.told, self.of_lattice(crystals.lattice))

    def derivatives(self, crystals: Candidates) -> tuple[Tensor, Tensor]:
        """Return latent vectors [C, Z], and their derivatives [C, 3 N + 6, Z].

        By the atoms' coordinates, atom after atom, and by the lattice's lengths and angles.
        """
        c, n, _ = crystals.positions.shape
        mask, eye = crystals.mask[..., None], torch.eye(6, dtype=crystals.positions.dtype)
        x, dx = derive(self.position, crystals.positions, eye[:3, :3].expand(c, n, 3, 3))
        features = x @ self.position_weight.T + self.of_species[crystals.species]
        slopes = dx @ self.position_weight.T  # [C, N, 3, F]
        largest, where = features.masked_fill(~mask, -torch.inf).max(1)
        chosen = torch.zeros_like(features).scatter_(1, where[:, None], 1.0)
        pooled, along = [largest], [slopes * chosen[:, :, None]]
        if self.counts:
            n_atoms = crystals.told[:, None].to(x.dtype)
            share = ((features > 0) & mask) / n_atoms[:, None]
            pooled += [(features * share).sum(1), n_atoms / 10]
            along += [slopes * share[:, :, None], slopes.new_zeros(c, n, 3, 1)]
        lattice, d_lattice = crystals.lattice, eye.expand(c, 6, 6)
        if self.lattice is not None:
            scale = 4 * torch.cat([1 / lattice[:, :3], torch.ones_like(lattice[:, 3:])], dim=-1)
            lattice, d_lattice = derive(
                self.lattice,
                scaled_lattice(lattice[:, :3], lattice[:, 3:]),
                torch.diag_embed(scale),
            )
        of_atoms = torch.cat(along, dim=-1).flatten(1, 2)
        pad_to = nn.functional.pad
        d_input = torch.cat(
            [
                pad_to(of_atoms, (0, lattice.shape[1])),
                pad_to(d_lattice, (of_atoms.shape[2], 0)),
            ],
            dim=1,
        )
        return derive(self.latent, torch.cat([*pooled, lattice], dim=-1), d_input)


def polish(
    encoder: FixedEncoder,
    crystals: Candidates,
    z: Tensor,
    scale: Tensor,
    decoded: Tensor,
    steps: int,
    enough: float = 0.0,
    lattice_weights: Sequence[float] = LATTICE_WEIGHTS,
) -> tuple[Candidates, Tensor]:
    """Move atoms and lattice towards the latent vectors z (Levenberg-Marquardt).

    Args:
        z: [C, Z].
        scale: [Z], standard deviations of the latent vectors.
        decoded: [C, 6], lattices that the decoder predicts; they decide where z hardly does.
        steps: largest number of steps; an atom moves by at most 0.3 Å in each.
        enough: stop where every latent distance is smaller.
        lattice_weights: of the squared differences from the decoded lattice, in the cost.

    Returns:
        The crystals, and their latent distances d [C]; never larger than at the start.
    """
    c, n, _ = crystals.positions.shape
    weights = torch.tensor(lattice_weights, dtype=z.dtype)
    damping = torch.full((c, 1), 1e-3, dtype=z.dtype)
    free = nn.functional.pad(crystals.mask.repeat_interleave(3, dim=1), (0, 6), value=True)

    def costs(latent: Tensor, lattice: Tensor) -> tuple[Tensor, Tensor]:
        distance = ((latent - z) / scale).square().mean(-1)
        return distance, distance + (weights * (lattice - decoded).square()).sum(-1)

    def encoded(crystals: Candidates) -> Tensor:
        return encoder(crystals.to(encoder.dtype)).double()

    distance, cost = costs(encoded(crystals), crystals.lattice)
    for _ in range(steps):
        if (distance < enough).all():
            break
        latent, slopes = (t.double() for t in encoder.derivatives(crystals.to(encoder.dtype)))
        slopes = slopes / scale * free[..., None]
        residual = (latent - z) / scale
        matrix = slopes @ slopes.transpose(1, 2) / z.shape[1]
        gradient = (slopes @ residual[..., None])[..., 0] / z.shape[1]
        gradient[:, 3 * n :] += weights * (crystals.lattice - decoded)
        diagonal = matrix.diagonal(dim1=1, dim2=2)  # a view
        diagonal[:, 3 * n :] += weights
        diagonal += (diagonal + 1e-6) * damping + (~free)
        step = torch.linalg.solve_ex(matrix, -gradient[..., None])[0][..., 0]
        step = step.nan_to_num(0.0)
        longest = step[:, : 3 * n].view(c, n, 3).norm(dim=-1).amax(-1, keepdim=True)
        step = step * (0.3 / longest.clamp(min=0.3))
        lattice = crystals.lattice + step[:, 3 * n :]
        lattice = torch.cat([lattice[:, :3].clamp(min=0.5), lattice[:, 3:]], dim=-1)
        tried = crystals._replace(
            positions=crystals.positions + step[:, : 3 * n].view(c, n, 3), lattice=lattice
        )
        new_distance, new_cost = costs(encoded(tried), lattice)
        better = new_cost < cost  # false for NaN
        crystals = crystals._replace(
            positions=torch.where(better[:, None, None], tried.positions, crystals.positions),
            lattice=torch.where(better[:, None], lattice, crystals.lattice),
        )
        distance, cost = (
            torch.where(better, new_distance, distance),
            torch.where(better, new_cost, cost),
        )
        damping = torch.where(better[:, None], damping / 5, damping * 5).clamp(1e-12, 1e6)
    return crystals, distance
