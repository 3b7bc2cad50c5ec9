"""Batches of crystals, the form in which the whole package passes structures on.

pymatgen is imported only where structures are converted, so training needs no more than torch,
numpy and safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors

from nesf.files import parse_json, remedy_for, write_atomically
from nesf_io.errors import DataError, EntryError
from nesf_io.parsers import reason_against

if TYPE_CHECKING:
    from pymatgen.core import Structure


def lattice_parameters(lattice: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return lengths [B, 3], Å, and angles (α, β, γ) [B, 3], radians, of lattices [B, 3, 3]."""
    lengths = np.linalg.norm(lattice, axis=-1)
    unit = lattice / lengths[..., None]
    cosines = (unit[:, [1, 0, 0]] * unit[:, [2, 2, 1]]).sum(-1)
    return lengths, np.arccos(np.clip(cosines, -1.0, 1.0))


def standard_lattice(
    lengths: np.ndarray, angles: np.ndarray, hexagonal_tolerance: float = np.radians(5.0)
) -> np.ndarray:
    """Compute lattices [B, 3, 3], rows in Å, of lengths [B, 3], Å, and angles [B, 3], radians.

    They have the setting of pymatgen's conventional standard structure: a lies along x and b in the
    xy plane; a cell with α = β = 90° and γ = 120° has a and b mirrored about x, as pymatgen sets
    hexagonal and rhombohedral cells. The official release stores positions in this setting without
    a matrix, and the decoder predicts none.

    Args:
        hexagonal_tolerance: largest difference (radians) of an angle from (90°, 90°, 120°) in a
            hexagonal cell; wide enough for a predicted one.

    Raises:
        DataError: the angles close no cell of positive volume.
    """
    lengths, angles = np.asarray(lengths, dtype=np.float64), np.asarray(angles, dtype=np.float64)
    cos, sin = np.cos(angles), np.sin(angles)
    # An angle of 90° must give an exact 0, not 6e-17, or orthogonal cells are not orthogonal.
    cos = np.where(np.abs(cos) < 1e-12, 0.0, cos)
    cx = cos[:, 1]
    cy = (cos[:, 0] - cos[:, 1] * cos[:, 2]) / sin[:, 2]
    cz2 = 1.0 - cx**2 - cy**2
    if not np.all(np.isfinite(cz2)) or np.any(cz2 <= 0):
        worst = int(np.argmin(np.where(np.isfinite(cz2), cz2, -np.inf)))
        raise DataError(
            f"angles {np.degrees(angles[worst]).round(2).tolist()} degrees (entry {worst}) close no cell"
        )
    zero, one = np.zeros_like(cx), np.ones_like(cx)
    rows = np.stack(
        [one, zero, zero, cos[:, 2], sin[:, 2], zero, cx, cy, np.sqrt(cz2)], -1
    ).reshape(-1, 3, 3)
    hexagonal = np.all(
        np.abs(angles - np.radians([90.0, 90.0, 120.0])) < hexagonal_tolerance, axis=-1
    )
    c, s = np.cos(angles[:, 2] / 2), np.sin(angles[:, 2] / 2)
    # by half of γ about z
    turn = np.stack([c, -s, zero, s, c, zero, zero, zero, one], -1).reshape(-1, 3, 3)
    rows = np.where(hexagonal[:, None, None], rows @ turn, rows)
    return rows * lengths[:, :, None]


def allowed_lattices(
    lengths: np.ndarray, angles: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Repair lengths [B, 3], Å, and angles [B, 3], radians, that form no cell; tell which [B].

    A badly trained model may predict a length near zero or below, or angles that close no cell;
    they become the nearest allowed length and 90°.
    """
    good_lengths = np.clip(lengths, 0.5, None)
    good_angles = angles.copy()
    for i in range(len(angles)):
        try:
            standard_lattice(good_lengths[i : i + 1], good_angles[i : i + 1])
        except DataError:
            good_angles[i] = np.pi / 2
    return (
        good_lengths,
        good_angles,
        np.any((good_lengths != lengths) | (good_angles != angles), axis=1),
    )


@dataclass(frozen=True)
class Crystals:
    """B crystals with n atoms in all, as ragged numpy arrays.

    Attributes:
        ids: B names.
        positions: [n, 3] float64, cartesian, Å.
        species: [n] int64, atomic numbers Z.
        lattice: [B, 3, 3] float64, rows a, b, c in Å.
        offsets: [B + 1] int64; the atoms of crystal i are offsets[i]:offsets[i + 1].
        properties: further columns, one value a crystal (numbers or text), never used by the model.
    """

    ids: tuple[str, ...]
    positions: np.ndarray
    species: np.ndarray
    lattice: np.ndarray
    offsets: np.ndarray
    properties: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        b, n = len(self.ids), len(self.positions)
        shapes = (
            self.positions.shape == (n, 3),
            self.species.shape == (n,),
            self.lattice.shape == (b, 3, 3),
            self.offsets.shape == (b + 1,),
        )
        if (
            not all(shapes)
            or self.offsets[0] != 0
            or self.offsets[-1] != n
            or np.any(np.diff(self.offsets) < 0)
        ):
            raise DataError(
                f"inconsistent crystal batch: {b} ids, positions {self.positions.shape}, species {self.species.shape}, "
                f"lattice {self.lattice.shape}, offsets {self.offsets.shape}"
            )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_atoms(self) -> np.ndarray:
        """Number of atoms of each crystal, [B]."""
        return np.diff(self.offsets)

    @property
    def lengths(self) -> np.ndarray:
        """Lattice lengths (a, b, c), [B, 3], Å."""
        return lattice_parameters(self.lattice)[0]

    @property
    def angles(self) -> np.ndarray:
        """Lattice angles (α, β, γ), [B, 3], radians."""
        return lattice_parameters(self.lattice)[1]

    def atoms(self, i: int) -> slice:
        """Return the slice of `positions` and `species` that belongs to crystal i."""
        return slice(int(self.offsets[i]), int(self.offsets[i + 1]))

    def id_of_atom(self, atom: int) -> str:
        """Return the id of the crystal that holds an atom, given by its index in `positions`."""
        return self.ids[int(np.searchsorted(self.offsets, atom, side="right")) - 1]

    def select(self, indices: Sequence[int] | np.ndarray) -> Crystals:
        """Return the crystals at the given indices, in that order."""
        indices = np.asarray(indices, dtype=np.int64)
        atoms = np.concatenate(
            [
                np.zeros(0, np.int64),
                *(np.arange(self.offsets[i], self.offsets[i + 1]) for i in indices),
            ]
        )
        return Crystals(
            ids=tuple(self.ids[i] for i in indices),
            positions=self.positions[atoms],
            species=self.species[atoms],
            lattice=self.lattice[indices],
            offsets=np.cumsum([0, *self.n_atoms[indices]]),
            properties={k: v[indices] for k, v in self.properties.items()},
        )

    @classmethod
    def from_arrays(
        cls,
        ids: Iterable[str],
        positions: Sequence[np.ndarray],
        species: Sequence[np.ndarray],
        lattice: np.ndarray,
        properties: Mapping[str, np.ndarray] | None = None,
    ) -> Crystals:
        """Make crystals of positions [N_i, 3], Å, atomic numbers [N_i], lattices [B, 3, 3], Å."""
        return cls(
            ids=tuple(ids),
            positions=np.concatenate(
                [np.zeros((0, 3)), *(np.asarray(p, np.float64).reshape(-1, 3) for p in positions)]
            ),
            species=np.concatenate(
                [np.zeros(0, np.int64), *(np.asarray(s, np.int64).reshape(-1) for s in species)]
            ),
            lattice=np.asarray(lattice, np.float64).reshape(-1, 3, 3),
            offsets=np.cumsum([0, *(len(p) for p in positions)]),
            properties=dict(properties or {}),
        )

    @classmethod
    def from_structures(
        cls,
        structures: Sequence[Structure],
        ids: Sequence[str],
        properties: Mapping[str, np.ndarray] | None = None,
        *,
        check: bool = True,
    ) -> Crystals:
        """Make crystals of ordered pymatgen structures; cells and positions stay as they are.

        Raises:
            DataError: there is a `reason_against` a structure (only with `check`); the message
                names its id and the reason.
        """
        for identifier, structure in zip(ids, structures, strict=True):
            if check and (reason := reason_against(structure)):
                raise DataError(f"{identifier}: {reason}")
        return cls.from_arrays(
            ids,
            [s.cart_coords for s in structures],
            [np.array([site.specie.Z for site in s]) for s in structures],
            np.array([s.lattice.matrix for s in structures]),
            properties,
        )

    def to_structures(self) -> list[Structure]:
        """Return pymatgen structures with their ids in `properties["id"]`."""
        from pymatgen.core import Lattice, Structure

        parts = ((name, Lattice(self.lattice[i]), self.atoms(i)) for i, name in enumerate(self.ids))
        return [
            Structure(
                cell,
                self.species[a],
                self.positions[a],
                coords_are_cartesian=True,
                properties={"id": name},
            )
            for name, cell, a in parts
        ]

    def in_standard_setting(self) -> Crystals:
        """Return the crystals rotated so that each lattice is a `standard_lattice`.

        The model knows a cell by its lengths and angles, so positions must be in the orientation
        that these imply.
        """
        lattice = standard_lattice(*lattice_parameters(self.lattice))
        crystal_of_atom = np.repeat(np.arange(len(self)), self.n_atoms)
        fractional = np.einsum(
            "ni,nij->nj", self.positions, np.linalg.inv(self.lattice)[crystal_of_atom]
        )
        positions = np.einsum("ni,nij->nj", fractional, lattice[crystal_of_atom])
        return replace(self, positions=positions, lattice=lattice)

    def save(self, path: Path, metadata: Mapping[str, Any] | None = None) -> None:
        """Write a safetensors file; ids, text properties and `metadata` are JSON in its header."""
        columns = {
            k: {"text": v.tolist()}
            for k, v in self.properties.items()
            if v.dtype.kind not in "fiub"
        }
        arrays = {
            "positions": self.positions,
            "species": self.species.astype(np.uint8),
            "lattice": self.lattice,
            "offsets": self.offsets,
        }
        arrays |= {f"property:{k}": v for k, v in self.properties.items() if v.dtype.kind in "fiub"}
        header = {
            "ids": json.dumps(self.ids),
            "columns": json.dumps(columns),
            "metadata": json.dumps(dict(metadata or {})),
        }
        write_atomically(
            path,
            _in_fixed_order(
                to_safetensors({k: np.ascontiguousarray(v) for k, v in arrays.items()}, header)
            ),
        )

    def _check_values(self) -> None:
        """Raise ValueError for arrays of another type, or values that no crystal has."""
        kinds = [a.dtype.kind for a in (self.positions, self.lattice, self.offsets)]
        if kinds != ["f", "f", "i"] or any(len(v) != len(self) for v in self.properties.values()):
            raise ValueError("an array is of another type or length")
        if not (np.isfinite(self.positions).all() and np.isfinite(self.lattice).all()):
            raise ValueError("a position or lattice is not finite")
        if len(self.species) and not 1 <= self.species.min() <= self.species.max() <= 118:
            raise ValueError("a species is no atomic number")
        if len(self) and not (np.abs(np.linalg.det(self.lattice)) > 0).all():
            raise ValueError("a cell has no volume")

    @classmethod
    def load(cls, path: Path) -> Crystals:
        """Read a file of `save`; raise a `DataError` if it is missing, damaged or another one."""
        try:
            with safe_open(str(path), framework="numpy") as file:
                header = file.metadata()
                arrays = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a dict)
            # in a file that was written in parts (nesf.data.streaming)
            ids = arrays.pop("ids", None)
            properties = {
                k.removeprefix("property:"): v
                for k, v in arrays.items()
                if k.startswith("property:")
            }
            properties |= {
                k: np.array(v["text"], dtype=object)
                for k, v in parse_json(header["columns"]).items()
            }
            crystals = cls(
                tuple(ids.tobytes().decode().split("\n")[:-1])
                if ids is not None
                else tuple(map(str, parse_json(header["ids"]))),
                arrays["positions"],
                arrays["species"].astype(np.int64),
                arrays["lattice"],
                arrays["offsets"],
                properties,
            )
            crystals._check_values()
            return crystals
        except FileNotFoundError:
            raise DataError(f"{path}: no such file") from None
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error}); {remedy_for(error)}") from None
        except (
            SafetensorError,
            DataError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
        ) as error:
            raise DataError(
                f"{path}: not a packed crystal file, or damaged ({error}); write it again (nesf data fetch, import or build)"
            ) from None


def _in_fixed_order(content: bytes) -> bytes:
    """Sort the metadata of a safetensors file; the library's order changes from run to run."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the arrays start at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + content[end:]


def concatenate(parts: Sequence[Crystals]) -> Crystals:
    """Join batches in order; properties that not every part has are dropped."""
    common = set.intersection(*(set(p.properties) for p in parts))
    return Crystals(
        ids=tuple(i for p in parts for i in p.ids),
        positions=np.concatenate([p.positions for p in parts]),
        species=np.concatenate([p.species for p in parts]),
        lattice=np.concatenate([p.lattice for p in parts]),
        offsets=np.cumsum([0, *(n for p in parts for n in p.n_atoms)]),
        properties={k: np.concatenate([p.properties[k] for p in parts]) for k in sorted(common)},
    )


@dataclass(frozen=True)
class PaddedCrystals:
    """B crystals padded to N atoms, as tensors on one device, by default in float32."""

    FAR = 1e4  # Å; padding is never the nearest atom

    positions: torch.Tensor  # [B, N, 3], cartesian, Å; `FAR` where there is no atom
    species: torch.Tensor  # [B, N] int64, index into the vocabulary; 0 where there is no atom
    mask: torch.Tensor  # [B, N] bool, True where there is an atom
    lengths: torch.Tensor  # [B, 3], Å
    angles: torch.Tensor  # [B, 3], radians
    lattice: torch.Tensor  # [B, 3, 3], rows a, b, c in Å
    # of all crystals, if known; counting them on a GPU would make the program wait for it
    n_atoms: int | None = None

    def __len__(self) -> int:
        return len(self.positions)

    def select(self, indices: torch.Tensor, n_atoms: int | None = None) -> PaddedCrystals:
        """Return the crystals at the given indices [b], padded as before."""
        selected = {
            f: getattr(self, f)[indices]
            for f in ("positions", "species", "mask", "lengths", "angles", "lattice")
        }
        return PaddedCrystals(**selected, n_atoms=n_atoms)

    def atoms(self) -> torch.Tensor:
        """Return the indices [n_atoms] of the atoms in flattened positions and species [B · N]."""
        n = self.n_atoms if self.n_atoms is not None else int(self.mask.sum())
        return torch.nonzero_static(self.mask.flatten(), size=n)[:, 0]

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> PaddedCrystals:
        """Return the batch on another device, or in another floating-point type."""
        moved = {
            f: getattr(self, f).to(device, dtype)
            for f in ("positions", "lengths", "angles", "lattice")
        }
        return replace(self, species=self.species.to(device), mask=self.mask.to(device), **moved)


def vocabulary_of(*parts: Crystals) -> tuple[int, ...]:
    """Return the atomic numbers that occur, ascending: the species axis of a model."""
    return tuple(int(z) for z in np.unique(np.concatenate([p.species for p in parts])))


def pad(
    crystals: Crystals,
    vocabulary: Sequence[int],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    width: int | None = None,
) -> PaddedCrystals:
    """Return crystals as padded tensors.

    Args:
        vocabulary: atomic numbers, ascending; their order is the species axis.
        width: N, the number of atoms to pad to; None: that of the largest crystal.

    Raises:
        EntryError: an element is outside the vocabulary; the message names the crystal and the
            element.
    """
    table = np.full(256, -1, dtype=np.int64)
    table[np.asarray(vocabulary, dtype=np.int64)] = np.arange(len(vocabulary))
    index = table[crystals.species]
    if np.any(index < 0):
        atom = int(np.argmin(index))
        raise EntryError(
            f"{crystals.id_of_atom(atom)}: element with atomic number {int(crystals.species[atom])} is outside the vocabulary of {len(vocabulary)} species; "
            "train a model whose training set contains it"
        )
    b, n = len(crystals), width or int(crystals.n_atoms.max(initial=1))
    mask = np.arange(n) < crystals.n_atoms[:, None]
    positions = np.full((b, n, 3), PaddedCrystals.FAR)
    species = np.zeros((b, n), dtype=np.int64)
    positions[mask], species[mask] = crystals.positions, index
    lengths, angles = lattice_parameters(crystals.lattice)
    arrays = {
        "positions": positions,
        "species": species,
        "mask": mask,
        "lengths": lengths,
        "angles": angles,
        "lattice": crystals.lattice,
    }
    return PaddedCrystals(
        n_atoms=len(index), **{k: torch.as_tensor(v) for k, v in arrays.items()}
    ).to(device, dtype)
