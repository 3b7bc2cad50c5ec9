"""The plain reference: autoencoder, loss and decoding as the paper has them, and nothing else.

Nothing is shared with the package but the data, the sampler of the queries and the numbers of the
configuration. It reads the weights of `nesf.model.Autoencoder` and must give the same losses,
gradients and atoms (tests/test_benchmarks.py); what it costs is what the others are measured
against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from nesf.config import Config, ModelConfig, ReconstructionConfig
from nesf.crystals import PaddedCrystals
from nesf.data.dataset import Box
from nesf.fields import Queries, box_grid, local_grid
from nesf_io.errors import ConfigError


def mlp(
    n_in: int,
    widths: Sequence[int],
    *,
    batch_norm: bool,
    dropout: float = 0.0,
    momentum: float = 0.1,
) -> nn.Sequential:
    """Return Linear -> ReLU -> BatchNorm -> Dropout for each width; the last one is bare Linear."""
    layers: list[nn.Module] = []
    for width in widths[:-1]:
        layers += [nn.Linear(n_in, width), nn.ReLU()]
        if batch_norm:
            layers.append(nn.BatchNorm1d(width, momentum=momentum))
        if dropout:
            layers.append(nn.Dropout(dropout))
        n_in = width
    return nn.Sequential(*layers, nn.Linear(n_in, widths[-1]))


class PlainEncoder(nn.Module):
    """Atoms' features, their maximum over a crystal, then the lattice (Supplementary Note 5)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        momentum, dropout = config.batch_norm_momentum, config.dropout
        self.n_species = config.n_species
        self.position = mlp(3, config.encoder_position, batch_norm=True, momentum=momentum)
        self.species = mlp(
            config.n_species, config.encoder_species, batch_norm=True, momentum=momentum
        )
        n_features = config.encoder_position[-1] + config.encoder_species[-1]
        self.mix = mlp(
            n_features, config.encoder_mix, batch_norm=True, dropout=dropout, momentum=momentum
        )
        widths = (*config.encoder_latent, config.latent_size)
        self.latent = mlp(
            config.encoder_mix[-1] + 6, widths, batch_norm=True, dropout=dropout, momentum=momentum
        )

    def forward(self, crystals: PaddedCrystals) -> Tensor:
        """Return latent vectors z [B, latent_size]."""
        counts = crystals.mask.sum(1).tolist()
        # [n, 3]
        positions = torch.cat([p[:n] for p, n in zip(crystals.positions, counts, strict=True)])
        species = torch.cat([s[:n] for s, n in zip(crystals.species, counts, strict=True)])  # [n]
        one_hot = functional.one_hot(species, self.n_species).to(positions.dtype)
        # [n, 512]
        features = self.mix(torch.cat([self.position(positions), self.species(one_hot)], dim=-1))
        pooled = torch.stack([atoms.amax(0) for atoms in features.split(counts)])  # [B, 512]
        return self.latent(torch.cat([pooled, crystals.lengths, crystals.angles], dim=-1))


class PlainField(nn.Module):
    """A neural field f(p, z), Eq. 1; each hidden layer reads p again (Supplementary Note 5)."""

    def __init__(self, config: ModelConfig, widths: Sequence[int], n_out: int) -> None:
        super().__init__()
        inputs = [config.latent_size, *widths[:-1]]
        self.layers = nn.ModuleList(
            nn.Linear(n + 3, width) for n, width in zip(inputs, widths, strict=True)
        )
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(width, momentum=config.batch_norm_momentum) for width in widths
        )
        self.query_in_last_layer = config.query_in_last_layer
        self.last = nn.Linear(widths[-1] + 3 * config.query_in_last_layer, n_out)

    def forward(self, queries: Tensor, z: Tensor) -> Tensor:
        """Return field values [M, n_out] at queries [M, 3] (Å) with z [M, latent_size]."""
        x = z
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = norm(torch.relu(layer(torch.cat([x, queries], dim=-1))))
        return self.last(torch.cat([x, queries], dim=-1) if self.query_in_last_layer else x)


class PlainAutoencoder(nn.Module):
    """Encoder, two fields and the decoders of the lattice (Fig. 1b)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.n_frequencies:
            raise ConfigError(
                f"model.n_frequencies = {config.n_frequencies}: the plain reference is the paper's network, which has none; set it to 0"
            )
        self.encoder = PlainEncoder(config)
        self.position_field = PlainField(config, config.decoder_position, 3)
        self.species_field = PlainField(config, config.decoder_species, config.n_species)
        self.length_decoder = mlp(
            config.latent_size, (*config.decoder_lattice, 3), batch_norm=False
        )
        self.angle_decoder = mlp(config.latent_size, (*config.decoder_lattice, 3), batch_norm=False)


def plain_model(config: ModelConfig, weights: Mapping[str, Tensor]) -> PlainAutoencoder:
    """Return the plain network with an `Autoencoder`'s weights, of their device and type."""
    model = PlainAutoencoder(config)
    some = next(iter(weights.values()))
    model.to(some.device, some.dtype).load_state_dict(weights)
    return model


class Targets(NamedTuple):
    """Queries, one crystal after the other, and the ground-truth fields there.

    Attributes:
        queries: [M, 3], Å.
        counts: B numbers of queries.
        vectors: to the nearest atom [M, 3], Å.
        species: index of the nearest atom's [M].
    """

    queries: Tensor
    counts: list[int]
    vectors: Tensor
    species: Tensor


def ground_truth(queries: Queries, crystals: PaddedCrystals) -> Targets:
    """Return the true fields (Section 2.2), crystal by crystal; nearest among the cell's atoms."""
    if queries.crystal is None:
        parts = list(queries.positions)
    else:
        counts = torch.bincount(queries.crystal, minlength=len(crystals)).tolist()
        parts = list(queries.positions[queries.crystal.argsort(stable=True)].split(counts))
    vectors, species = [], []
    for i, p in enumerate(parts):
        n = int(crystals.mask[i].sum())
        differences = crystals.positions[i, :n] - p[:, None]  # [Q, N, 3]
        nearest = differences.square().sum(-1).argmin(1)
        vectors.append(differences[torch.arange(len(p), device=p.device), nearest])
        species.append(crystals.species[i, nearest])
    return Targets(
        torch.cat(parts), [len(p) for p in parts], torch.cat(vectors), torch.cat(species)
    )


def plain_losses(
    model: PlainAutoencoder,
    crystals: PaddedCrystals,
    position_queries: Queries,
    species_queries: Queries,
    config: Config,
) -> Tensor:
    """Return Eq. 2 and its terms for one batch.

    Args:
        position_queries, species_queries: as a `Sampler` draws them.

    Returns:
        [5]: L, L_pos, L_spe, L_len, L_ang, as `nesf.training.losses`.
    """
    if config.sampling.periodic:
        raise ConfigError(
            "sampling.periodic = True: the plain reference finds atoms in the cell only, as the paper; set it to False"
        )
    z = model.encoder(crystals)
    at = ground_truth(position_queries, crystals)
    # [M, latent_size]
    repeated = torch.cat([one.expand(n, -1) for one, n in zip(z, at.counts, strict=True)])
    loss_position = functional.mse_loss(model.position_field(at.queries, repeated), at.vectors)
    at = ground_truth(species_queries, crystals)
    repeated = torch.cat([one.expand(n, -1) for one, n in zip(z, at.counts, strict=True)])
    loss_species = functional.cross_entropy(model.species_field(at.queries, repeated), at.species)
    loss_length = functional.mse_loss(model.length_decoder(z), crystals.lengths)
    loss_angle = functional.mse_loss(model.angle_decoder(z), crystals.angles)
    t = config.training
    total = (
        t.weight_position * loss_position
        + t.weight_species * loss_species
        + t.weight_length * loss_length
        + t.weight_angle * loss_angle
    )
    return torch.stack([total, loss_position, loss_species, loss_length, loss_angle])


class PlainAtoms(NamedTuple):
    """A decoded crystal: positions [N, 3] (Å), species index [N], lengths (Å), angles (radians)."""

    positions: Tensor
    species: Tensor
    lengths: Tensor
    angles: Tensor


@torch.no_grad()
def plain_decode(
    model: PlainAutoencoder, z: Tensor, box: Box, config: ReconstructionConfig
) -> PlainAtoms:
    """Decode one crystal by the five steps of Section 2.1: every particle moves `iterations` times.

    Args:
        model: in evaluation mode.
        z: latent vector of the crystal [latent_size].
        box: bounding box common to the dataset, Å.
        config: interval, iterations, thresholds; `converged`, `max_queries` and whatever else saves
            work are not read.
    """
    p = box_grid(box, config.grid_interval, z.device, z.dtype)  # step 1
    repeated = z.expand(len(p), -1)
    for _ in range(config.iterations):  # step 2
        p = p + model.position_field(p, repeated)
    scores = model.position_field(p, repeated).norm(dim=-1)  # step 3
    kept = scores <= config.score_threshold
    positions = suppress(p[kept], scores[kept], config)  # step 4
    grid = local_grid(config.species_interval, config.species_range, device=z.device, dtype=z.dtype)
    species = []
    for position in positions:  # step 5
        queries = position + grid
        voted = model.species_field(queries, z.expand(len(queries), -1)).argmax(-1)
        species.append(torch.bincount(voted).argmax())
    index = torch.stack(species) if species else torch.zeros(0, dtype=torch.long, device=z.device)
    return PlainAtoms(positions, index, model.length_decoder(z), model.angle_decoder(z))


def suppress(particles: Tensor, scores: Tensor, config: ReconstructionConfig) -> Tensor:
    """Suppress non-maxima (step 4): the best particle left is an atom if enough others are near.

    Args:
        particles: [M, 3], Å.
        scores: [M], Å.

    Returns:
        Positions of the atoms [N, 3], Å.
    """
    atoms = []
    left = torch.ones(len(particles), dtype=torch.bool, device=particles.device)
    for i in scores.argsort(stable=True).tolist():
        if not left[i]:
            continue
        near = left & ((particles - particles[i]).square().sum(-1) < config.nms_radius**2)
        if int(near.sum()) >= config.min_particles:
            atoms.append(particles[i])
        left = left & ~near
        left[i] = False
    return torch.stack(atoms) if atoms else particles[:0]
