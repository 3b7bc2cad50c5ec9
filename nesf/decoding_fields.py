"""The fields that decoding asks, of a network or of a known crystal.

A neural field here has its weights fixed: every batch normalisation is folded, every latent vector projected, once. A layer
is one matrix product whose input has the query position and a 1 as further columns (as in `nesf.field_kernel`), and a ReLU in place.
Queries go through all layers in parts that stay in a processor's cache.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from nesf.crystals import PaddedCrystals
from nesf.field_kernel import columns_of, weight_columns
from nesf.fields import Queries, nearest_atom
from nesf.hardware import has_bf16
from nesf.model import Autoencoder, Field

ROWS = {"cpu": 2048, "cuda": 1 << 18}  # queries that go through the layers together: a layer's input and output then fit in 2 MB


class FixedField:
    """A field in evaluation, without gradients.

    Args:
        field: its weights and running statistics are read now; later changes are not seen.
        half: bf16 for the matrix products (coordinates as pairs): values are then off by up to some 0.1 Å.
    """

    def __init__(self, field: Field, half: bool = False) -> None:
        with torch.no_grad():
            self.field, self.half = field, half
            first = field.layers[0]
            split = first.in_features - field.n_query  # type: ignore[operator]
            self.latent_weight, self.latent_bias = first.weight[:, :split], first.bias  # type: ignore[index]
            self.query_weight = first.weight[:, split:].T.contiguous()  # type: ignore[index, union-attr]
            self.widths: list[int] = []
            self.weights: list[Tensor] = []  # [inputs + columns, outputs]
            kind = torch.bfloat16 if half else self.query_weight.dtype
            for norm, weight, weight_query, bias in field.later_layers():
                scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)  # type: ignore[operator, arg-type]
                shift = norm.bias - norm.running_mean * scale  # type: ignore[operator]
                further = weight_columns(weight_query, bias + weight @ shift, field.n_query, half)
                self.weights.append(torch.cat([(weight * scale).to(kind), further], dim=-1).T.contiguous())
                self.widths.append(weight.shape[1])

    @torch.no_grad()
    def project(self, z: Tensor) -> Tensor:
        """The latent's part of the first layer [B, width], once per crystal; what a call takes."""
        return functional.linear(z, self.latent_weight, self.latent_bias)  # type: ignore[arg-type]

    @torch.no_grad()
    def __call__(self, queries: Tensor, projected: Tensor, crystal: Tensor) -> Tensor:
        """Field values.

        Args:
            queries: [M, 3], Å.
            projected: [B, width], of `project`.
            crystal: [M].

        Returns:
            [M, n_out].
        """
        out = queries.new_empty(len(queries), self.weights[-1].shape[1])
        rows = ROWS.get(queries.device.type, ROWS["cpu"])
        buffers: dict[tuple[int, int], Tensor] = {}
        for start in range(0, len(queries), rows):
            part = slice(start, start + rows)
            out[part] = self._layers(self.field.encode_query(queries[part]), projected, crystal[part], buffers)
        return out

    def _layers(self, query: Tensor, projected: Tensor, crystal: Tensor, buffers: dict[tuple[int, int], Tensor]) -> Tensor:
        n, columns = len(query), columns_of(query, self.half)
        ready: dict[tuple[int, int], Tensor] = {}

        def buffer(layer: int) -> Tensor:
            """[n, width + columns], the columns filled; layers take turns with two of each width."""
            key = (layer % 2, self.widths[layer])
            if key not in ready:
                if key not in buffers or len(buffers[key]) != n:
                    buffers[key] = columns.new_empty(n, key[1] + columns.shape[1])
                buffers[key][:, key[1] :] = columns
                ready[key] = buffers[key]
            return ready[key]

        x = buffer(0)
        x[:, : self.widths[0]] = torch.addmm(projected[crystal], query, self.query_weight).relu_()
        for layer, weight in enumerate(self.weights[:-1], start=1):
            following = buffer(layer)
            output = following[:, : self.widths[layer]]
            torch.mm(x, weight, out=output)
            output.relu_()
            x = following
        return (x @ self.weights[-1]).to(query.dtype)


class StructureFields(Protocol):
    """The fields and lattices of B crystals, whatever they come from."""

    def position(self, queries: Tensor, crystal: Tensor, rough: bool = False) -> Tensor:
        """Vectors to the nearest atom [M, 3], Å, at queries [M, 3] of the crystals [M]; `rough`: errors of some 0.1 Å do no harm."""
        ...

    def species(self, queries: Tensor, crystal: Tensor) -> Tensor:
        """Index of the most probable species [M] at queries [M, 3] of the crystals [M]."""
        ...

    def lattice(self) -> tuple[Tensor, Tensor]:
        """Lengths [B, 3] in Å and angles [B, 3] in radians."""
        ...


class NeuralFields:
    """The decoder's fields for latent vectors z [B, latent_size], in evaluation; the weights are read once."""

    def __init__(self, autoencoder: Autoencoder, z: Tensor) -> None:
        self.autoencoder, self.z = autoencoder, z
        self._position, self._species = FixedField(autoencoder.position_field), FixedField(autoencoder.species_field)
        self._rough = FixedField(autoencoder.position_field, half=True) if has_bf16(z.device) else self._position
        self._z_position, self._z_species = self._position.project(z), self._species.project(z)

    def of(self, start: int, stop: int) -> NeuralFields:
        """The fields of some of the crystals."""
        part = copy.copy(self)
        part.z, part._z_position, part._z_species = self.z[start:stop], self._z_position[start:stop], self._z_species[start:stop]
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
    """The structure fields of known crystals."""

    crystals: PaddedCrystals
    periodic: bool = False

    def _nearest(self, queries: Tensor, crystal: Tensor) -> tuple[Tensor, Tensor]:
        if len(self.crystals) > 1:
            return nearest_atom(Queries(queries, crystal), self.crystals, periodic=self.periodic)
        vectors, species = nearest_atom(Queries(queries[None], None), self.crystals, periodic=self.periodic)  # its atoms need not be copied per query
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
