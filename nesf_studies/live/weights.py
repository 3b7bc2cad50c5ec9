"""A trained model as numbers for the engine in JavaScript: every batch normalisation folded in."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nesf.model import Field, scale_and_shift
from nesf.polishing import FixedEncoder, Layer, layers_of
from nesf.saved import TrainedModel
from nesf_io.errors import ConfigError

DOUBLE = torch.float64


def packed(model: TrainedModel) -> tuple[dict[str, Any], np.ndarray]:
    """Return what the engine needs of a model: a description, and its numbers [n] in fp32.

    `tensors` of the description has the shape and the place of each tensor among the numbers:
    NAME.w [in, out] and NAME.b [1, out] of a layer. Between the layers of one MLP stands a ReLU.

    Raises:
        ConfigError: the engine lacks a part of the architecture.
    """
    check(model)
    tensors = {**_encoder(model), **_decoders(model)}
    places, offset = {}, 0
    for name, tensor in tensors.items():
        places[name] = [*tensor.shape, offset]
        offset += tensor.numel()
    about = {
        "config": dataclasses.asdict(model.config.model),
        "decoding": dataclasses.asdict(model.config.decoding),
        "vocabulary": list(model.vocabulary),
        "box": [list(corner) for corner in model.box],
        "latent_scale": list(model.latent_scale),
        "domain": dict(model.domain),
        "tensors": places,
    }
    numbers = torch.cat([t.flatten() for t in tensors.values()]).float().numpy()
    return about, numbers


def check(model: TrainedModel) -> None:
    """Raise a `ConfigError` for what the engine in JavaScript does not know."""
    config = model.config
    unknown = {
        "model.n_frequencies": config.model.n_frequencies != 0,
        "model.query_in_last_layer": config.model.query_in_last_layer,
        "model.encoder_mix": len(config.model.encoder_mix) != 1,
        "decoding.atom_position": config.decoding.atom_position != "lowest_score",
        "latent_scale": not model.latent_scale,
        "domain": not model.domain,
    }
    if found := [name for name, is_so in unknown.items() if is_so]:
        raise ConfigError(
            f"{found[0]} of this model is not one that the page with the live model knows; choose the model of preset cpu or plus"
        )


def _folded(layers: list[Layer]) -> list[tuple[Tensor, Tensor]]:
    """Return layers as weight [in, out] and bias, each affine map folded into the next layer."""
    folded, before = [], None
    for weight, bias, after in layers:
        if before is not None:
            scale, shift = before
            weight, bias = weight * scale, bias + weight @ shift
        folded.append((weight.T, bias))
        before = after
    return folded


def _named(prefix: str, layers: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Return layers as tensors by name."""
    return {
        f"{prefix}.{i}.{part}": tensor.reshape(-1, tensor.shape[-1])
        for i, layer in enumerate(layers)
        for part, tensor in zip("wb", layer, strict=True)
    }


def _encoder(model: TrainedModel) -> dict[str, Tensor]:
    """Return the encoder: an atom's features are a part of its position and one of its species."""
    encoder = model.autoencoder.encoder
    fixed = FixedEncoder(encoder)
    *first, last = fixed.position
    joined = Layer(fixed.position_weight @ last.weight, fixed.position_weight @ last.bias, None)
    tensors = _named("encoder.position", _folded([*first, joined]))
    tensors["encoder.species"] = fixed.of_species
    tensors |= _named("encoder.latent", _folded(fixed.latent))
    if fixed.lattice:
        tensors |= _named("encoder.lattice", _folded(fixed.lattice))
    return tensors


def _decoders(model: TrainedModel) -> dict[str, Tensor]:
    """Return both fields and both decoders of the lattice."""
    tensors: dict[str, Tensor] = {}
    auto = model.autoencoder
    fields = {"position_field": auto.position_field, "species_field": auto.species_field}
    for name, field in fields.items():
        tensors |= _field(name, field)
    mlps: dict[str, nn.Sequential] = {
        "length_decoder": auto.length_decoder,
        "angle_decoder": auto.angle_decoder,
    }
    for name, mlp in mlps.items():
        tensors |= _named(name, _folded(layers_of(mlp, DOUBLE)))
    return tensors


@torch.no_grad()
def _field(name: str, field: Field) -> dict[str, Tensor]:
    """Return a field: its layers, and the latent vector's part of their biases.

    The last rows of a layer's weight are those of the query, which every layer reads.
    """
    latent, bias, query = (t.detach().to("cpu", DOUBLE) for t in field.first_layer())
    layers = [(query.T, torch.zeros_like(bias))]
    for norm, weight, again, own in field.later_layers():
        scale, shift = (t.to("cpu", DOUBLE) for t in scale_and_shift(norm))
        w, b = weight.to("cpu", DOUBLE), own.to("cpu", DOUBLE)
        rows = [(w * scale).T] if again is None else [(w * scale).T, again.to("cpu", DOUBLE).T]
        layers.append((torch.cat(rows), b + w @ shift))
    conditions: list[Tensor] = [c.weight for c in field.conditions]  # type: ignore[misc]
    of_latent = torch.cat([latent, *(c.detach().to("cpu", DOUBLE) for c in conditions)]).T
    biases = nn.functional.pad(bias, (0, of_latent.shape[1] - len(bias)))
    return {
        **_named(name, layers),
        f"{name}.latent.w": of_latent.contiguous(),
        f"{name}.latent.b": biases[None],
    }
