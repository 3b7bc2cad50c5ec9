"""The trained voxel baseline: both networks on disk, and crystals to maps to crystals."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from nesf.crystals import Crystals
from nesf.decode import Reconstruction, allowed_lattices
from nesf.saved import config_in, load_network, read_description, save_network, versions
from nesf.trainer import derived_seed
from nesf_icsg3d.config import DecodingConfig, VoxelBaselineConfig
from nesf_icsg3d.networks import Networks
from nesf_icsg3d.voxels import network_input, origin, voxelise
from nesf_io.errors import DataError


@dataclass(frozen=True)
class DecodedMaps:
    """Output of both networks for B crystals, on the CPU.

    Attributes:
        channels: [B, 4, n, n, n], the VAE's output: density in e/Å³, three coordinates in Å.
        species: [B, n, n, n] uint8, the U-Net's most probable atomic number, 0 for none.
        binary: [B, n, n, n], the U-Net's probability that a voxel belongs to an atom.
        angles: [B, 3], radians; 90° without the angle head.
    """

    channels: Tensor
    species: Tensor
    binary: Tensor
    angles: Tensor


def condition_of(n: int, config: VoxelBaselineConfig, device: torch.device | str = "cpu") -> Tensor:
    """Return the condition of n crystals, one-hot [n, n_conditions]: class 0 for all.

    published code: the decile of the formation energy / here: the same for every crystal, hence
    uninformative, because the datasets of the paper (NeSF) hold no energies and its authors do not
    say what they conditioned on.
    """
    return functional.one_hot(
        torch.zeros(n, dtype=torch.long, device=device), config.vae.n_conditions
    ).float()


@dataclass
class VoxelBaseline:
    """Both trained networks."""

    networks: Networks  # in evaluation mode
    config: VoxelBaselineConfig
    dataset: Mapping[str, Any]  # name, fold and hash of what they were trained on
    info: Mapping[str, Any] = field(default_factory=dict)  # epochs, losses and so on, as recorded

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.networks.parameters()).device

    @property
    def vocabulary(self) -> tuple[int, ...]:
        """Atomic numbers that are classes of the species map."""
        return tuple(range(1, self.config.voxels.n_classes))

    @property
    def description(self) -> dict[str, Any]:
        """JSON metadata saved with the weights."""
        return {
            "method": "icsg3d",
            "config": self.config.to_dict(),
            "dataset": dict(self.dataset),
            "versions": versions(),
        }

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` (names begin with `unet.` or `vae.`) and `model.json`."""
        save_network(folder, self.networks, self.description, self.info)

    @classmethod
    def load(cls, folder: Path, device: str = "auto") -> VoxelBaseline:
        """Read what `save` wrote.

        Raises:
            DataError: a file is missing, damaged, or the two do not belong together.
        """
        about, path = read_description(folder, "icsg3d"), Path(folder) / "model.json"
        config = config_in(path, VoxelBaselineConfig, about["config"])
        networks = load_network(lambda: Networks(config), folder, about["sha256"], device)
        return cls(networks, config, about["dataset"], about["info"])

    @torch.no_grad()
    def maps(
        self, crystals: Crystals, decoding: DecodingConfig | None = None, *, seed: int = 0
    ) -> DecodedMaps:
        """Return the maps that `reconstruct` segments: crystals → maps → VAE → U-Net.

        Args:
            crystals: B crystals; all at once, some 20 MB each.
            decoding: None: the config's; only `sample_latent` matters here.
            seed: of the samples of z, drawn for each id on its own, so they do not depend on the
                other crystals.
        """
        self.networks.eval()
        decoding, device, n_z = (
            decoding or self.config.decoding,
            self.device,
            self.config.vae.latent_size,
        )
        maps = voxelise(crystals, self.config.voxels).to(device)
        condition = condition_of(len(crystals), self.config, device)
        latent = self.networks.vae.encode(
            network_input(maps.density, maps.lengths, self.config.voxels), condition, maps.angles
        )
        z = latent.mean
        if decoding.sample_latent:
            seeds = [
                derived_seed(
                    seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
                )
                for name in crystals.ids
            ]
            noise = torch.stack(
                [torch.randn(n_z, generator=torch.Generator().manual_seed(one)) for one in seeds]
            )
            z = latent.sample(noise.to(device))
        channels, angles = self.networks.vae.decode(z, condition)
        species, binary = self.networks.unet(channels)
        return DecodedMaps(
            channels.cpu(),
            species.argmax(1).to("cpu", torch.uint8),
            torch.sigmoid(binary).cpu(),
            angles.cpu(),
        )

    def reconstruct(
        self,
        crystals: Crystals,
        decoding: DecodingConfig | None = None,
        *,
        seed: int = 0,
        batch_size: int = 8,
        progress: bool = False,
    ) -> Reconstruction:
        """Reconstruct crystals in the standard setting: maps → VAE → U-Net → segmentation.

        Args:
            crystals: B crystals, `batch_size` in one pass, which bounds the memory.
            decoding: None: the config's.
            seed: of the samples of z, where they are sampled.

        Returns:
            As many crystals, same ids and order; one in which nothing is found has no atoms.

        Raises:
            DataError: no crystals, one without atoms, or an element beyond the classes.
        """
        # needs scikit-image, which training does without
        from nesf_icsg3d.segmentation import find_atoms, read_lengths, to_crystals

        if not len(crystals):
            raise DataError("there is no crystal to reconstruct")
        decoding = decoding or self.config.decoding
        found: list[tuple[np.ndarray, np.ndarray]] = []
        lengths, angles = np.zeros((len(crystals), 3)), np.zeros((len(crystals), 3))
        with tqdm(
            total=len(crystals),
            unit="crystal",
            desc="reconstructing",
            disable=not progress,
            mininterval=1,
        ) as bar:
            for start in range(0, len(crystals), batch_size):
                batch = range(start, min(start + batch_size, len(crystals)))
                maps = self.maps(crystals.select(batch), decoding, seed=seed)
                binary = maps.binary.numpy() >= decoding.binary_threshold
                found += [
                    find_atoms(s, b, decoding)
                    for s, b in zip(maps.species.numpy(), binary, strict=True)
                ]
                lengths[batch] = read_lengths(
                    maps.channels[:, 1:].double().numpy(),
                    self.config.voxels,
                    slip=decoding.length_slip,
                )
                angles[batch] = maps.angles.numpy()
                bar.update(len(batch))
        good_lengths, good_angles, repaired = allowed_lattices(lengths, angles)
        decoded = to_crystals(
            crystals.ids, found, good_lengths, good_angles, origin(crystals), self.config.voxels
        )
        columns = ("x", "y", "z", "atomic_number")
        rows = [
            (*position, number)
            for position, number in zip(
                decoded.positions.tolist(), decoded.species.tolist(), strict=True
            )
        ]
        reports = [
            {
                "id": name,
                "n_atoms": int(decoded.n_atoms[i]),
                "lengths": lengths[i].tolist(),
                "angles_degree": np.degrees(angles[i]).tolist(),
                "lattice_repaired": bool(repaired[i]),
                "atoms": [dict(zip(columns, row, strict=True)) for row in rows[decoded.atoms(i)]],
            }
            for i, name in enumerate(decoded.ids)
        ]
        return Reconstruction(decoded, reports)
