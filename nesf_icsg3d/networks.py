"""The two networks: U-Net (maps to species) and Cond-DFC-VAE (maps to a latent vector and back).

Parameter counts are those that Keras prints as total, hence with the running mean and variance of
each batch normalisation: 31,163,008 (U-Net, 95 classes) and 839,800 (VAE, latent size 256). Of
these 31,156,800 and 838,832 are trained.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from nesf_icsg3d.config import UNetConfig, VAEConfig, VoxelBaselineConfig
from nesf_io.errors import ConfigError

CHANNELS = 4  # density and three coordinates
DECODER_GRID = (4, 4, 4, 4)  # channels and edges of the decoder's first map
RIGHT_ANGLE = torch.pi / 2


def n_parameters(module: nn.Module) -> int:
    """Return the number of parameters as Keras counts them in total, with running statistics."""
    running = [b for name, b in module.named_buffers() if "running" in name]
    return sum(x.numel() for x in (*module.parameters(), *running))


def _convolution(n_in: int, n_out: int, edge: int = 3) -> nn.Conv3d:
    return nn.Conv3d(n_in, n_out, edge, padding=edge // 2)


def _batch_norm(n: int, momentum: float) -> nn.BatchNorm3d:
    return nn.BatchNorm3d(n, eps=1e-3, momentum=momentum)  # Keras's default; torch's is 1e-5


def _initialise(module: nn.Module) -> None:
    """Initialise a layer as Keras does: Glorot's uniform weights, biases of 0."""
    if isinstance(module, nn.Conv3d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]


class Block(nn.Module):
    """Twice convolution 3³ → ReLU → BatchNorm."""

    def __init__(self, n_in: int, n_middle: int, n_out: int, momentum: float) -> None:
        super().__init__()
        self.first, self.first_norm = _convolution(n_in, n_middle), _batch_norm(n_middle, momentum)
        self.second, self.second_norm = _convolution(n_middle, n_out), _batch_norm(n_out, momentum)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output and the second ReLU's activation (perceptual loss), [B, n_out, ...]."""
        activation = functional.relu(self.second(self.first_norm(functional.relu(self.first(x)))))
        return self.second_norm(activation), activation


class UNet(nn.Module):
    """Segmentation of the four channels: species of each voxel, and whether it is an atom's."""

    def __init__(self, config: UNetConfig, n_classes: int = 95) -> None:
        super().__init__()
        w, m = config.width, config.batch_norm_momentum
        self.down = nn.ModuleList(
            [
                Block(CHANNELS, w, 2 * w, m),
                Block(2 * w, 2 * w, 4 * w, m),
                Block(4 * w, 4 * w, 8 * w, m),
            ]
        )
        self.bottom = Block(8 * w, 16 * w, 16 * w, m)
        self.up = nn.ModuleList(
            [
                Block(24 * w, 16 * w, 8 * w, m),
                Block(12 * w, 8 * w, 4 * w, m),
                Block(6 * w, 4 * w, 4 * w, m),
            ]
        )
        self.species = _convolution(4 * w, n_classes, 1)
        self.binary = _convolution(4 * w, 1, 1)
        self.apply(_initialise)

    def _encode(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Return the bottom map, the skip connections' maps and the perceptual activations."""
        skips, activations = [], []
        for block in self.down:
            x, activation = block(x)
            skips.append(x)
            activations.append(activation)
            x = functional.max_pool3d(x, 2)
        x, activation = self.bottom(x)
        return x, skips, [*activations, activation]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits of species (softmax) and atom (sigmoid) from channels [B, 4, n, n, n].

        Shapes: [B, n_classes, n, n, n] and [B, n, n, n].
        """
        x, skips, _ = self._encode(x)
        for block, skip in zip(self.up, reversed(skips), strict=True):
            x, _ = block(torch.cat([skip, functional.interpolate(x, scale_factor=2)], 1))
        return self.species(x), self.binary(x)[:, 0]

    def perceptual(self, x: Tensor) -> list[Tensor]:
        """Return the activations of the 2nd, 4th, 6th and 8th ReLU, before batch normalisation."""
        return self._encode(x)[2]


class Latent(NamedTuple):
    """Distribution of the latent vector: mean and log variance, each [B, latent_size]."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Return one z a crystal from standard normal noise, [B, latent_size]."""
        return self.mean + torch.exp(0.5 * self.log_variance) * noise


def _levels(widths: Sequence[int], momentum: float) -> nn.ModuleList:
    return nn.ModuleList(
        nn.Sequential(_convolution(a, b), _batch_norm(b, momentum))
        for a, b in itertools.pairwise(widths)
    )


class CondDFCVAE(nn.Module):
    """Conditional deep-feature-consistent variational autoencoder of the four channels.

    With `angle_head` (repaired): the encoder's dense layer also reads the three angles, and a
    linear layer predicts them from z and condition, both as differences from 90° in radians. The
    published networks know no angles.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        filters, momentum = config.filters, config.batch_norm_momentum
        n_angles = 3 if config.angle_head else 0
        # the published code repeats the condition 4 times along the channels
        widths = (CHANNELS + 4 * config.n_conditions, *filters)
        self.encoder = _levels(widths, momentum)
        self.encoder_last = _convolution(filters[-1], CHANNELS)
        self.hidden = nn.Linear(CHANNELS * 2**3 + n_angles, config.latent_size)
        self.mean, self.log_variance = (
            nn.Linear(config.latent_size, config.latent_size) for _ in range(2)
        )
        n_grid = DECODER_GRID[0] * DECODER_GRID[1] ** 3
        self.to_grid = nn.Linear(config.latent_size + config.n_conditions, n_grid)
        self.decoder = _levels((DECODER_GRID[0], *reversed(filters)), momentum)
        self.output = nn.Sequential(
            _convolution(filters[0], CHANNELS), _batch_norm(CHANNELS, momentum)
        )
        self.angle_head = (
            nn.Linear(config.latent_size + config.n_conditions, 3) if config.angle_head else None
        )
        self.apply(_initialise)

    def _first(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return the encoder's first level, [B, filters, n/2, n/2, n/2], of 4 + 40 channels.

        The 40 are the condition, repeated and constant in space. So their convolution is one number
        for each filter and kernel position, summed over the positions inside the grid, which takes
        an eighth of the work. In fp32, because the coordinates carry the lengths.
        """
        level: Any = self.encoder[0]
        convolution, norm = level
        weight, n = convolution.weight, x.shape[-1]
        with torch.autocast(x.device.type, enabled=False):
            kernels = torch.einsum("bc,fcxyz->bfxyz", condition.repeat(1, 4), weight[:, CHANNELS:])
            inside = x.new_ones(n, 3)
            # the kernel's outer positions lie in the zeros around the grid
            inside[0, 0] = inside[-1, -1] = 0
            constant = torch.einsum("bfxyz,ix,jy,kz->bfijk", kernels, inside, inside, inside)
            y = functional.conv3d(x, weight[:, :CHANNELS], convolution.bias, padding=1) + constant
            return functional.max_pool3d(functional.leaky_relu(norm(y), 0.3), 2)

    def encode(self, x: Tensor, condition: Tensor, angles: Tensor) -> Latent:
        """Return the distribution of z.

        Args:
            x: channels [B, 4, 32, 32, 32].
            condition: one-hot [B, n_conditions].
            angles: [B, 3], radians; read with the angle head only.
        """
        x = self._first(x, condition)
        for layer in self.encoder[1:]:
            x = functional.max_pool3d(functional.leaky_relu(layer(x), 0.3), 2)
        # in bf16 a processor's gradient of so small a convolution is not a number
        with torch.autocast(x.device.type, enabled=False):
            features = functional.leaky_relu(self.encoder_last(x.float()), 0.3)
        features = features.flatten(1)  # [B, 32]
        if self.angle_head is not None:
            features = torch.cat([features, angles - RIGHT_ANGLE], 1)
        hidden = functional.relu(self.hidden(features))
        return Latent(self.mean(hidden), self.log_variance(hidden))

    def decode(self, z: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Return channels [B, 4, 32, 32, 32] and angles [B, 3] (radians) of z [B, latent_size]."""
        z = torch.cat([z, condition], 1)
        x = self.to_grid(z).view(-1, *DECODER_GRID)
        for layer in self.decoder[:-1]:
            x = functional.interpolate(functional.leaky_relu(layer(x), 0.3), scale_factor=2)
        x = functional.leaky_relu(self.decoder[-1](x), 0.3)
        angles = RIGHT_ANGLE + (
            z.new_zeros(len(z), 3) if self.angle_head is None else self.angle_head(z)
        )
        # the lengths are read out of the coordinates' range
        with torch.autocast(x.device.type, enabled=False):
            return functional.relu(self.output(x.float())), angles.float()


class Networks(nn.Module):
    """Both networks of one baseline.

    Raises:
        ConfigError: the VAE's number of levels does not fit the grid.
    """

    def __init__(self, config: VoxelBaselineConfig) -> None:
        super().__init__()
        # The encoder halves the grid once a level and ends with 2³ voxels; the decoder starts with
        # 4³ and doubles it after each level but the last.
        fitting = DECODER_GRID[1] * 2 ** (len(config.vae.filters) - 1)
        if config.voxels.n != fitting:
            raise ConfigError(
                f"voxels.n = {config.voxels.n}: {fitting} is expected with the {len(config.vae.filters)} levels of vae.filters; change one of them"
            )
        self.unet, self.vae = UNet(config.unet, config.voxels.n_classes), CondDFCVAE(config.vae)
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # faster than torch's own order, on a CPU too
