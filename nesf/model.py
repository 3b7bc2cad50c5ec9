"""The autoencoder of Supplementary Note 5: a PointNet-like encoder and two neural fields.

All are MLPs. A hidden layer is Linear -> ReLU -> BatchNorm (-> Dropout), the last layer Linear
only. paper: «ReLU, batch norm» per layer / official: this order / here: as official.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from nesf.config import ModelConfig
from nesf.crystals import PaddedCrystals
from nesf.distributed import BatchNorm
from nesf.field_kernel import FieldKernel


class Lattice(NamedTuple):
    """Predicted lattice: lengths [B, 3] in Å and angles [B, 3] in radians."""

    lengths: Tensor
    angles: Tensor


class MLP(nn.Sequential):
    """Layers of the given widths."""

    def __init__(
        self,
        n_in: int,
        widths: Sequence[int],
        *,
        batch_norm: bool,
        dropout: float = 0.0,
        momentum: float = 0.1,
    ) -> None:
        layers: list[nn.Module] = []
        for width in widths[:-1]:
            layers += [nn.Linear(n_in, width), nn.ReLU()]
            if batch_norm:
                layers.append(BatchNorm(width, momentum=momentum))
            if dropout:
                layers.append(nn.Dropout(dropout))
            n_in = width
        super().__init__(*layers, nn.Linear(n_in, widths[-1]))


class Encoder(nn.Module):
    """Features per atom, max pooling, then the lattice is appended (Supplementary Note 5)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        momentum = config.batch_norm_momentum
        self.n_species, self.counts = config.n_species, config.pooling == "max_mean_count"
        self.position = MLP(3, config.encoder_position, batch_norm=True, momentum=momentum)
        self.species = MLP(
            config.n_species, config.encoder_species, batch_norm=True, momentum=momentum
        )
        n_features, latent_widths = (
            config.encoder_position[-1] + config.encoder_species[-1],
            (*config.encoder_latent, config.latent_size),
        )
        self.mix = MLP(
            n_features,
            config.encoder_mix,
            batch_norm=True,
            dropout=config.dropout,
            momentum=momentum,
        )
        n_pooled = config.encoder_mix[-1] * (1 + self.counts) + self.counts
        self.lattice: MLP | None = None
        if config.lattice_input == "scaled":
            widths = config.encoder_lattice
            self.lattice = MLP(6, widths, batch_norm=True, momentum=momentum)
        self.latent = MLP(
            n_pooled + (config.encoder_lattice[-1] if self.lattice else 6),
            latent_widths,
            batch_norm=True,
            dropout=config.dropout,
            momentum=momentum,
        )

    def forward(self, crystals: PaddedCrystals) -> Tensor:
        """Return z [B, latent_size], whatever the order of the atoms and the padding."""
        atoms = crystals.atoms()
        positions, species = (
            crystals.positions.flatten(0, 1)[atoms],
            crystals.species.flatten()[atoms],
        )
        one_hot = functional.one_hot(species, self.n_species).to(positions.dtype)
        # [n, 512]
        features = self.mix(torch.cat([self.position(positions), self.species(one_hot)], dim=-1))
        n_atoms = crystals.mask.sum(1)
        parts = [torch.segment_reduce(features, "max", lengths=n_atoms, unsafe=True)]  # [B, 512]
        if self.counts:
            positive = torch.relu(features)
            parts.append(torch.segment_reduce(positive, "mean", lengths=n_atoms, unsafe=True))
            parts.append(n_atoms[:, None] / 10)
        if self.lattice:
            parts.append(self.lattice(scaled_lattice(crystals.lengths, crystals.angles)))
        else:
            parts += [crystals.lengths, crystals.angles]
        return self.latent(torch.cat(parts, dim=-1))


def scaled_lattice(lengths: Tensor, angles: Tensor) -> Tensor:
    """Return lengths [B, 3], Å, and angles [B, 3], radians, as numbers of order 1 [B, 6]."""
    return 4 * torch.cat([torch.log(lengths / 5), angles - math.pi / 2], dim=-1)


class Field(nn.Module):
    """Neural field f(p, z), Eq. 1: an MLP, each layer of which reads the query position (Note 5).

    Written for speed: the latent's part of the first layer is computed once per crystal, and each
    batch normalisation, which is affine once its statistics are known, is folded into the weights
    of the next layer.
    """

    def __init__(self, config: ModelConfig, widths: Sequence[int], n_out: int) -> None:
        super().__init__()
        self.n_frequencies = config.n_frequencies
        self.n_query = n_query = 3 * (1 + 2 * config.n_frequencies)
        n_in = [config.latent_size, *widths[:-1]]
        self.layers = nn.ModuleList(
            nn.Linear(n + n_query, width) for n, width in zip(n_in, widths, strict=True)
        )
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(width, momentum=config.batch_norm_momentum) for width in widths
        )
        self.last = nn.Linear(widths[-1] + (n_query if config.query_in_last_layer else 0), n_out)
        # the latent's weights in the later hidden layers
        self.conditions = nn.ModuleList(
            nn.Linear(config.latent_size, width, bias=False)
            for width in (widths[1:] if config.condition == "every" else ())
        )

    def encode_query(self, queries: Tensor) -> Tensor:
        """Append the positional encoding of queries [..., 3]: sin and cos of 2^l p, l < L."""
        if not self.n_frequencies:
            return queries
        scaled = queries[..., None] * 2.0 ** torch.arange(
            self.n_frequencies, device=queries.device, dtype=queries.dtype
        )  # [..., 3, L]
        return torch.cat([queries, scaled.sin().flatten(-2), scaled.cos().flatten(-2)], dim=-1)

    def forward(
        self, queries: Tensor, z: Tensor, crystal: Tensor | None = None, precision: str = "fp32"
    ) -> Tensor:
        """Evaluate the field.

        Args:
            queries: [B, Q, 3] in Å; or [M, 3] with `crystal`, where crystals have different numbers
                of queries.
            z: latent vectors [B, latent_size].
            crystal: [M], the crystal each of M queries belongs to.
            precision: in training, `fp32`, or `bf16` for the matrix products (see
                `nesf.field_kernel`); evaluation is always fp32.

        Returns:
            [B, Q, n_out] or [M, n_out]: vectors to the nearest atom in Å, or logits of the species.
        """
        query = self.encode_query(queries).reshape(-1, self.n_query)  # [M, 3]
        latent_weight, bias, query_weight = self.first_layer()
        # [B, 256] and the later layers' parts: once per crystal, not per query
        per_crystal = functional.linear(z, latent_weight, bias)
        later: list[Tensor | None] = [condition(z) for condition in self.conditions]
        later += [None] * (len(self.norms) - len(later))
        if self.training:
            values = self._train(query, per_crystal, later, crystal, query_weight, precision)
        else:
            if crystal is None:
                crystal = (
                    torch.arange(len(z), device=z.device)[:, None]
                    .expand(queries.shape[:-1])
                    .reshape(-1)
                )
            values = self._evaluate(query, per_crystal, later, crystal, query_weight)
        return values.view(*queries.shape[:-1], self.last.out_features)

    def first_layer(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the first layer's weight for the latent vector, bias and weight for the query."""
        first: nn.Linear = self.layers[0]  # type: ignore[assignment]
        split = first.in_features - self.n_query
        return first.weight[:, :split], first.bias, first.weight[:, split:]

    def later_layers(self) -> list[tuple[nn.BatchNorm1d, Tensor, Tensor | None, Tensor]]:
        """Return each later layer's norm, weight for its output, weight for the query, and bias."""
        layers = []
        for norm, layer in zip(self.norms, [*list(self.layers)[1:], self.last], strict=True):
            n = norm.num_features  # type: ignore[operator, union-attr]
            weight_query = layer.weight[:, n:] if layer.in_features > n else None  # type: ignore[index, operator]
            layers.append((norm, layer.weight[:, :n], weight_query, layer.bias))  # type: ignore[index]
        return layers  # type: ignore[return-value]

    def _evaluate(
        self,
        query: Tensor,
        per_crystal: Tensor,
        later: list[Tensor | None],
        crystal: Tensor,
        query_weight: Tensor,
    ) -> Tensor:
        """Evaluate the field with running statistics [M, n_out], in fp32."""
        y = per_crystal[crystal] + functional.linear(query, query_weight)
        for (norm, weight, weight_query, bias), condition in zip(
            self.later_layers(), later, strict=True
        ):
            scale, shift = scale_and_shift(norm)
            y = functional.linear(torch.relu(y), weight * scale, bias + weight @ shift)
            if weight_query is not None:
                y = y + functional.linear(query, weight_query)
            if condition is not None:
                y = y + condition[crystal]
        return y

    def _train(
        self,
        query: Tensor,
        per_crystal: Tensor,
        later: list[Tensor | None],
        crystal: Tensor | None,
        query_weight: Tensor,
        precision: str,
    ) -> Tensor:
        """Evaluate the field with the batch's statistics [M, n_out]; update the running ones."""
        layers = self.later_layers()
        flat = [
            t
            for (norm, weight, weight_query, bias), condition in zip(layers, later, strict=True)
            for t in (norm.weight, norm.bias, weight, weight_query, bias, condition)
        ]
        y, *statistics = FieldKernel.apply(
            query, per_crystal, crystal, precision == "bf16", layers[0][0].eps, query_weight, *flat
        )
        with torch.no_grad():
            for (norm, *_), mean, variance in zip(
                layers, statistics[0::2], statistics[1::2], strict=True
            ):
                norm.running_mean.lerp_(mean, norm.momentum)  # type: ignore[union-attr, arg-type]
                norm.running_var.lerp_(variance, norm.momentum)  # type: ignore[union-attr, arg-type]
                norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        return y


def scale_and_shift(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Return scale and shift of a norm in evaluation, whose output is scale * x + shift."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


class Autoencoder(nn.Module):
    """Encoder, two fields and lattice decoders (Fig. 1b); 765,465 parameters with 80 species."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.position_field = Field(config, config.decoder_position, 3)
        self.species_field = Field(config, config.decoder_species, config.n_species)
        self.length_decoder = MLP(
            config.latent_size, (*config.decoder_lattice, 3), batch_norm=False
        )
        self.angle_decoder = MLP(config.latent_size, (*config.decoder_lattice, 3), batch_norm=False)
        self.composition_decoder: MLP | None = None
        if config.composition:
            widths = (*config.decoder_composition, config.n_species)
            self.composition_decoder = MLP(config.latent_size, widths, batch_norm=False)

    def encode(self, crystals: PaddedCrystals) -> Tensor:
        """Return latent vectors z [B, latent_size] of crystals."""
        return self.encoder(crystals)

    def decode_lattice(self, z: Tensor) -> Lattice:
        """Return lattice lengths (Å) and angles (radians) for latent vectors."""
        lengths, angles = self.length_decoder(z), self.angle_decoder(z)
        if self.config.lattice_output == "bounded":
            lengths = 5 * torch.exp(3 * torch.tanh(lengths / 3))
            angles = math.pi / 2 * (1 + torch.tanh(angles))
        return Lattice(lengths, angles)

    @property
    def n_parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.parameters())
