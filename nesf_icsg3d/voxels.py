"""Crystals to 32³ maps (density, coordinates, species); their rotations and their cache on disk.

A crystal is voxelised as if its cell were orthogonal: fractional coordinates minus their minimum
per axis, times (a, b, c). The angles are not used. Each atom occurs once, without periodic images.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor
from tqdm import tqdm

from nesf.crystals import Crystals, lattice_parameters
from nesf.data.dataset import Dataset
from nesf.files import write_atomically
from nesf_icsg3d.config import VoxelConfig
from nesf_io.errors import DataError

FORMAT = 1  # of the cache
FAR = 1e4  # Å; position of padding: never nearest, never in the density
PLANES = ((-3, -2), (-3, -1), (-2, -1))  # of the quarter turns
NO_TURN = -1  # instead of an index into them


@dataclass(frozen=True)
class Maps:
    """B voxelised crystals; the coordinates follow from the lengths (`network_input`).

    Attributes:
        density: [B, n, n, n] float16, e/Å³.
        species: [B, n, n, n] uint8, atomic number Z, 0 where there is no atom; the binary map is
            `species != 0`.
        lengths: [B, 3] float32, Å.
        angles: [B, 3] float32, radians; not in the maps, for the angle head only.
    """

    density: Tensor
    species: Tensor
    lengths: Tensor
    angles: Tensor

    def __len__(self) -> int:
        return len(self.density)

    def to(self, device: torch.device | str) -> Maps:
        """Return the maps on another device."""
        return Maps(**{name: tensor.to(device) for name, tensor in vars(self).items()})


@functools.cache
def ionic_radii() -> dict[int, float]:
    """Return pymatgen's ionic radii, Å, mean over oxidation states, by atomic number.

    Some elements have none (scripts/build_ionic_radii.py).
    """
    text = resources.files("nesf_icsg3d").joinpath("ionic_radii.json").read_text(encoding="utf-8")
    return {int(z): radius for z, radius in json.loads(text).items()}


def origin(crystals: Crystals) -> np.ndarray:
    """Return the smallest fractional coordinate per axis, [B, 3], which voxelisation subtracts."""
    return np.array([_fractional(crystals, i).min(0) for i in range(len(crystals))]).reshape(-1, 3)


def voxelise(
    crystals: Crystals,
    config: VoxelConfig,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 16,
    progress: bool = False,
) -> Maps:
    """Compute density and species maps of crystals.

    Density: Σ_j Z_j (2π)^(-3/2) σ_j^(-3) exp(-d²/2σ_j²), computed as a product of three vectors an
    atom. Species: a voxel takes the atom within whose σ_j · label_frac its centre lies; where
    several reach it, the nearest atom of all.

    Args:
        device: to compute on; the maps are returned on the CPU.
        batch_size: crystals at a time, bounds the memory.

    Raises:
        DataError: a crystal has no atoms, or an element beyond the classes.
    """
    if np.any(empty := crystals.n_atoms == 0):
        raise DataError(
            f"{crystals.ids[int(np.argmax(empty))]}: has no atoms, so there is nothing to voxelise; leave it out"
        )
    if np.any(beyond := crystals.species >= config.n_classes):
        atom = int(np.argmax(beyond))
        name, z = crystals.id_of_atom(atom), int(crystals.species[atom])
        raise DataError(
            f"{name}: atomic number {z}, but the species map has {config.n_classes} classes; leave the entry out"
        )
    radii = np.array([ionic_radii().get(z, config.default_radius) for z in range(config.n_classes)])
    b, n = len(crystals), config.n
    lengths, angles = lattice_parameters(crystals.lattice)
    density, species = (
        torch.empty((b, n, n, n), dtype=torch.float16),
        torch.empty((b, n, n, n), dtype=torch.uint8),
    )
    order = np.argsort(crystals.n_atoms, kind="stable")  # so that batches need little padding
    with tqdm(total=b, desc="voxelising", unit="crystal", disable=not progress) as bar:
        for start in range(0, b, batch_size):
            some = order[start : start + batch_size]
            arrays = (
                *_padded(crystals.select(some), lengths[some], radii),
                lengths[some].astype(np.float32),
            )
            made = _maps(config, *(torch.as_tensor(a, device=device) for a in arrays))
            density[some], species[some] = made[0].to("cpu", torch.float16), made[1].to("cpu")
            bar.update(len(some))
    return Maps(
        density,
        species,
        torch.as_tensor(lengths, dtype=torch.float32),
        torch.as_tensor(angles, dtype=torch.float32),
    )


def _fractional(crystals: Crystals, i: int) -> np.ndarray:
    return crystals.positions[crystals.atoms(i)] @ np.linalg.inv(crystals.lattice[i])


def _padded(
    crystals: Crystals, lengths: np.ndarray, radii: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return positions [b, N, 3] in the orthogonal frame (Å), Z [b, N] and σ [b, N] (Å).

    Padding is far away and has Z = 0.
    """
    mask = np.arange(crystals.n_atoms.max()) < crystals.n_atoms[:, None]
    positions, z = np.full((*mask.shape, 3), FAR, np.float32), np.zeros(mask.shape, np.int64)
    fractional = [_fractional(crystals, i) for i in range(len(crystals))]
    positions[mask] = np.concatenate(
        [(f - f.min(0)) * length for f, length in zip(fractional, lengths, strict=True)]
    )
    z[mask] = crystals.species
    return positions, z, radii[z].astype(np.float32)


def _maps(
    config: VoxelConfig, positions: Tensor, z: Tensor, sigma: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Return density [b, n, n, n] float32 and species [b, n, n, n] uint8 of padded crystals."""
    (b, n_atoms), n = z.shape, config.n
    # in units of the length
    centres = (torch.arange(n, device=z.device) + 0.5) * (config.extent / n) - config.margin
    # [b, N, n, 3]
    squares = (centres[:, None] * lengths[:, None, None] - positions[:, :, None]) ** 2
    x, y, w = torch.exp(squares / (-2 * sigma[:, :, None, None] ** 2)).unbind(-1)
    height = z * (2 * math.pi) ** -1.5 / sigma**3
    yw = (y[:, :, :, None] * w[:, :, None, :]).flatten(2)  # [b, N, n²]
    density = torch.bmm((height[:, :, None] * x).transpose(1, 2), yw)  # [b, n, n²]

    # paper: the voxels of the nearest atom within its ionic radius / published code: as here, so a
    # voxel that one atom alone reaches is that atom's even where another, smaller one is nearer.
    reach = (sigma * config.label_frac) ** 2
    nearest = torch.full((b, n, n, n), math.inf, device=z.device)
    z_nearest, z_reaching, n_reaching = (
        torch.zeros((b, n, n, n), dtype=torch.uint8, device=z.device) for _ in range(3)
    )
    for j in range(n_atoms):
        sx, sy, sz = squares[:, j].unbind(-1)
        square = (sx[:, :, None] + sy[:, None, :])[..., None] + sz[:, None, None, :]
        number = z[:, j, None, None, None].to(torch.uint8)
        z_nearest = torch.where(square < nearest, number, z_nearest)
        nearest = torch.minimum(nearest, square)
        reaches = square < reach[:, j, None, None, None]
        z_reaching = torch.where(reaches, number, z_reaching)
        n_reaching += reaches
    species = torch.where(n_reaching > 1, z_nearest, z_reaching)
    return density.view(b, n, n, n), species


def network_input(density: Tensor, lengths: Tensor, config: VoxelConfig) -> Tensor:
    """Return the four channels that both networks read.

    The grid's coordinates start at 0 and are those of the voxels' lower corners, as in the
    published code. They carry the lengths.

    Args:
        density: [B, n, n, n], e/Å³.
        lengths: L, [B, 3], Å.

    Returns:
        [B, 4, n, n, n] float32: density, then the coordinates 0 … extent · L (1 - 1/n) in Å along
        each axis.
    """
    b, n = len(density), config.n
    steps = torch.arange(n, device=density.device) * (config.extent / n)
    along = lengths[:, :, None] * steps  # [B, 3, n]
    axes = [along[:, 0, :, None, None], along[:, 1, None, :, None], along[:, 2, None, None, :]]
    return torch.stack([density.float(), *(axis.expand(b, n, n, n) for axis in axes)], 1)


def random_turns(n: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw three quarter turns a crystal, [n, 3] indices into `PLANES`, as the published code does.

    Three is an odd number, so they reach 12 of the 24 rotations.
    """
    return torch.randint(len(PLANES), (n, 3), generator=generator)


def rotate(volumes: Tensor, turns: Tensor) -> Tensor:
    """Turn volumes [B, ..., n, n, n] by quarter turns [B, k], indices into `PLANES`, in order.

    Coordinate channels turn with the array and stay those of their axis.
    """
    turns = turns.to(volumes.device)
    for step in turns.unbind(1):
        turned = volumes.clone()
        for i, plane in enumerate(PLANES):
            of_plane = torch.nonzero(step == i)[:, 0]
            turned[of_plane] = torch.rot90(volumes[of_plane], 1, plane)
        volumes = turned
    return volumes


def class_weights(species: Tensor, n_classes: int) -> Tensor:
    """Return inverse-frequency weights [n_classes] of the classes in species maps [B, n, n, n].

    As the published code computes them before it drops them: background 0 (the binary map learns
    it), classes that do not occur 0.
    Here: scaled so that the mean weight of a voxel is 1 over all voxels, background included, as it
    is without weights.
    """
    counts = torch.bincount(species.flatten(), minlength=n_classes).double()
    counts[0] = 0
    weights = torch.where(counts > 0, 1 / counts.clamp(min=1), 0.0)
    return (weights * species.numel() / (counts > 0).sum()).float()


def cached_maps(
    dataset: Dataset,
    split: str,
    config: VoxelConfig,
    folder: Path | None,
    *,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> Maps:
    """Return the maps of a split, read from `folder` or computed and kept there (96 KiB a crystal).

    The file's name holds the hash of the dataset's content, of `config` and of the radii, so a file
    never holds other maps. Without a folder nothing is kept, and neither is an empty split.

    Raises:
        NesfError: the file cannot be written.
    """
    crystals = dataset.split(split)
    if folder is None or not len(crystals):
        return voxelise(crystals, config, device=device, progress=progress)
    parts = [FORMAT, dataset.hash(), split, dataclasses.asdict(config), ionic_radii()]
    path = (
        Path(folder)
        / f"{split}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}.safetensors"
    )
    try:
        return Maps(**load_file(path))
    except (FileNotFoundError, SafetensorError):  # not there, or cut short
        maps = voxelise(crystals, config, device=device, progress=progress)
        write_atomically(
            path, to_safetensors({name: tensor.contiguous() for name, tensor in vars(maps).items()})
        )
        return maps
