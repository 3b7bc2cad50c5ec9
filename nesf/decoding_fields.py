"""Fields evaluated during decoding: the trained network's, or the true fields of a known crystal.

The weights of a trained network are fixed, so every batch normalisation is folded and every latent
vector projected once. A layer is one matrix product whose input has the query position and a 1 as
additional columns (as in `nesf.field_kernel`), and a ReLU in place. Queries pass all layers in
parts that stay in a processor's cache.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from nesf.crystals import PaddedCrystals
from nesf.field_kernel import columns_of, weight_columns
from nesf.fields import Queries, nearest_atom
from nesf.hardware import has_bf16
from nesf.model import Autoencoder, Field, scale_and_shift

# queries of a part; on a CPU a layer's input and output then fit in 2 MB
ROWS = {"cpu": 2048, "cuda": 1 << 18}


class FixedField:
    """A field in evaluation, without gradients.

    Args:
        field: its weights and running statistics are read once; after a training step a new
            `FixedField` is needed.
        half: bf16 for the matrix products (coordinates as pairs); the errors of the values are then
            up to some 0.1 Å.
    """

    @torch.no_grad()
    def __init__(self, field: Field, half: bool = False) -> None:
        self.field, self.half = field, half
        latent_weight, bias, query_weight = field.first_layer()
        # of the hidden layers that read the latent vector, one after another
        conditions: list[Tensor] = [c.weight for c in field.conditions]  # type: ignore[misc]
        self.latent_weight = torch.cat([latent_weight, *conditions])
        self.latent_bias = functional.pad(bias, (0, len(self.latent_weight) - len(bias)))
        self.query_weight = query_weight.T.contiguous()
        self.widths = [norm.num_features for norm, *_ in field.later_layers()]
        self.weights: list[Tensor] = []  # [inputs + columns, outputs]
        kind = torch.bfloat16 if half else self.query_weight.dtype
        for norm, weight, weight_query, bias in field.later_layers():
            scale, shift = scale_and_shift(norm)
            columns = weight_columns(weight_query, bias + weight @ shift, field.n_query, half)
            self.weights.append(
                torch.cat([(weight * scale).to(kind), columns], dim=-1).T.contiguous()
            )

    @torch.no_grad()
    def project(self, z: Tensor) -> Tensor:
        """Return the latent's parts of the layers that read it [B, widths], which a call needs."""
        return functional.linear(z, self.latent_weight, self.latent_bias)

    @torch.no_grad()
    def __call__(self, queries: Tensor, projected: Tensor, crystal: Tensor) -> Tensor:
        """Return values [M, n_out] at queries [M, 3], Å, of crystals [M]; projected: [B, widths]."""
        out = queries.new_empty(len(queries), self.weights[-1].shape[1])
        rows = ROWS.get(queries.device.type, ROWS["cpu"])
        # Inputs of the layers [rows, width + columns], used again by every part; layers alternate
        # between two buffers of each width.
        keys = [(layer % 2, width) for layer, width in enumerate(self.widths)]
        buffers = {
            k: weight.new_empty(min(rows, len(queries)), len(weight))
            for k, weight in zip(keys, self.weights, strict=True)
        }
        splits = self.widths if self.field.conditions else self.widths[:1]
        for start in range(0, len(queries), rows):
            part = slice(start, start + rows)
            query = self.field.encode_query(queries[part])
            columns = columns_of(query, self.half)
            inputs = {key: buffer[: len(query)] for key, buffer in buffers.items()}
            for (_, width), buffer in inputs.items():
                buffer[:, width:] = columns
            x = inputs[keys[0]]
            latent = projected[crystal[part]].split(splits, dim=1)
            x[:, : self.widths[0]] = torch.addmm(latent[0], query, self.query_weight).relu_()
            for layer, (key, weight) in enumerate(zip(keys[1:], self.weights, strict=False), 1):
                output = inputs[key][:, : key[1]]
                torch.mm(x, weight, out=output)
                if layer < len(latent):
                    output += latent[layer]
                output.relu_()
                x = inputs[key]
            out[part] = x @ self.weights[-1]
        return out


class StructureFields(Protocol):
    """Fields and lattices of B crystals; queries: [M, 3], Å, of the crystals [M]."""

    def position(self, queries: Tensor, crystal: Tensor, rough: bool = False) -> Tensor:
        """Return vectors to the nearest atoms [M, 3], Å; `rough` allows errors of some 0.1 Å."""

    def species(self, queries: Tensor, crystal: Tensor) -> Tensor:
        """Return the indices of the most probable species [M]."""

    def lattice(self) -> tuple[Tensor, Tensor]:
        """Return lengths [B, 3] in Å and angles [B, 3] in radians."""


class NeuralFields:
    """Fields of a trained decoder for latent vectors z [B, latent_size]; weights are read once."""

    def __init__(self, autoencoder: Autoencoder, z: Tensor) -> None:
        self.autoencoder, self.z = autoencoder, z
        self._position, self._species = (
            FixedField(autoencoder.position_field),
            FixedField(autoencoder.species_field),
        )
        self._rough = (
            FixedField(autoencoder.position_field, half=True)
            if has_bf16(z.device)
            else self._position
        )
        self._z_position, self._z_species = self._position.project(z), self._species.project(z)

    def of(self, start: int, stop: int) -> NeuralFields:
        """Return the fields of the crystals start:stop."""
        part = copy(self)
        part.z, part._z_position, part._z_species = (
            self.z[start:stop],
            self._z_position[start:stop],
            self._z_species[start:stop],
        )
        return part

    def position(self, queries: Tensor, crystal: Tensor, rough: bool = False) -> Tensor:
        """See `StructureFields`."""
        return (self._rough if rough else self._position)(queries, self._z_position, crystal)

    def species(self, queries: Tensor, crystal: Tensor) -> Tensor:
        """See `StructureFields`."""
        return self._species(queries, self._z_species, crystal).argmax(-1)

    def lattice(self) -> tuple[Tensor, Tensor]:
        """See `StructureFields`."""
        return self.autoencoder.decode_lattice(self.z)


@dataclass(frozen=True)
class GroundTruthFields:
    """The true fields of known crystals."""

    crystals: PaddedCrystals
    periodic: bool = False

    def of(self, start: int, stop: int) -> GroundTruthFields:
        """Return the fields of the crystals start:stop."""
        return GroundTruthFields(self.crystals.select(torch.arange(start, stop)), self.periodic)

    def _nearest(self, queries: Tensor, crystal: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors to the nearest atoms [M, 3] and their species [M]."""
        if len(self.crystals) > 1:
            return nearest_atom(Queries(queries, crystal), self.crystals, periodic=self.periodic)
        vectors, species = nearest_atom(
            Queries(queries[None], None), self.crystals, periodic=self.periodic
        )  # copies no atoms per query
        return vectors[0], species[0]

    def position(self, queries: Tensor, crystal: Tensor, rough: bool = False) -> Tensor:
        """See `StructureFields`."""
        return self._nearest(queries, crystal)[0]

    def species(self, queries: Tensor, crystal: Tensor) -> Tensor:
        """See `StructureFields`."""
        return self._nearest(queries, crystal)[1]

    def lattice(self) -> tuple[Tensor, Tensor]:
        """See `StructureFields`."""
        return self.crystals.lengths, self.crystals.angles
