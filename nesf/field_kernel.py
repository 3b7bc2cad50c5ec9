"""Forward and backward pass of a neural field in training, written out for speed.

The function is Linear -> ReLU -> BatchNorm, layer after layer, with the statistics of the batch.
Automatic differentiation of it reads and writes every activation many times; here each layer takes
one matrix product and one pass over its result forward, two products and one pass backward:

- A batch normalisation is affine once its statistics are known, so it scales the weights of the
  next layer: W' = W s, b' = b + W t with s = γ / sqrt(v + ε), t = β - m s.
- Query position and bias enter through additional columns of the same product: [a | p | 1] [W' |
W_p | b']ᵀ.
- Backward through mean and variance adds c₀ + c₁ (a - m) to the gradient of a, in the pass that
applies the ReLU's mask.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nesf.distributed import n_processes, sum_over_ranks


def columns_of(query: Tensor, half: bool) -> Tensor:
    """Return the additional columns of a layer's input [M, c]: query position and 1.

    In bf16 a coordinate, its weights and the bias each enter as a pair of numbers, high and low
    part, because the spacing of bf16 numbers is 0.06 Å at 12 Å. Padded to a multiple of 32, where
    matrix units are fastest.
    """
    one = torch.ones_like(query[:, :1])
    if not half:
        return torch.cat([query, one], dim=-1)
    high, one = query.bfloat16(), one.bfloat16()
    low = (query - high.float()).bfloat16()
    return torch.cat(
        [high, low, high, one, one, high.new_zeros(len(query), -(3 * query.shape[1] + 2) % 32)],
        dim=-1,
    )


def weight_columns(weight_query: Tensor | None, bias: Tensor, n_query: int, half: bool) -> Tensor:
    """Return the weights [n_out, c] of `columns_of`."""
    w, b = (
        bias.new_zeros(len(bias), n_query) if weight_query is None else weight_query,
        bias[:, None],
    )
    if not half:
        return torch.cat([w, b], dim=-1)
    w_high, b_high = w.bfloat16(), b.bfloat16()
    w_low, b_low = (w - w_high.float()).bfloat16(), (b - b_high.float()).bfloat16()
    return torch.cat(
        [
            w_high,
            w_high,
            w_low,
            b_high,
            b_low,
            w_high.new_zeros(len(bias), -(3 * n_query + 2) % 32),
        ],
        dim=-1,
    )


def _gradients_of_columns(gradient: Tensor, n_query: int, half: bool) -> tuple[Tensor, Tensor]:
    """Return the gradients of weight_query [n_out, n_query] and bias [n_out]."""
    if not half:
        return gradient[:, :n_query], gradient[:, n_query]
    return gradient[:, :n_query] + gradient[:, n_query : 2 * n_query], gradient[:, 3 * n_query]


def _add_to_queries(y: Tensor, per_crystal: Tensor, crystal: Tensor | None) -> Tensor:
    """Add rows [B, width] to those of the crystals' queries [M, width]; crystal as in `forward`."""
    if crystal is not None:
        return y + per_crystal[crystal]
    return (y.view(len(per_crystal), -1, y.shape[1]) + per_crystal[:, None]).view(len(y), -1)


def _sum_over_queries(
    g: Tensor, n_crystals: int, dtype: torch.dtype, crystal: Tensor | None
) -> Tensor:
    """Sum the rows [M, width] of each crystal's queries [B, width], the gradient of the above."""
    if crystal is None:
        return g.view(n_crystals, len(g) // n_crystals, -1).sum(1, dtype=dtype)
    sums = torch.zeros(n_crystals, g.shape[1], dtype=dtype, device=g.device)
    return sums.index_add_(0, crystal, g.to(dtype))


class FieldKernel(torch.autograd.Function):
    """A field with the statistics of the batch, see the docstring of the module."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        query: Tensor,
        per_crystal: Tensor,
        crystal: Tensor | None,
        half: bool,
        eps: float,
        first_query: Tensor,
        *layers: Any,
    ) -> tuple[Tensor, ...]:
        """Return field values at queries [M, n_query], and statistics for the running averages.

        Args:
            per_crystal: the latent's part of the first layer [B, width], bias included.
            crystal: [M], the crystal of each query; None: every crystal has M / B queries, in
                order.
            half: bf16 for activations and matrix products; sums and statistics stay fp32.
            first_query: the query's weights in the first layer [width, n_query].
            layers: six tensors for each layer after the first: γ and β of the norm before it, W,
                W_p (None: no query is read), b, and the latent's part [B, width] (None: not read).

        Returns:
            [M, n_out], then for each norm its mean and its unbiased variance [width].
        """
        m, n_query = query.shape
        # queries in all processes
        count = sum_over_ranks(query.new_full((), m)) if n_processes() > 1 else None
        share = m / count if count is not None else 1.0
        columns = columns_of(query, half)
        y = _add_to_queries(query @ first_query.T, per_crystal, crystal)
        kind = torch.bfloat16 if half else query.dtype
        inputs, weights, statistics, saved = [], [], [], []
        for k in range(0, len(layers), 6):
            gamma, beta, weight, weight_query, bias, latent = layers[k : k + 6]
            a = torch.relu(y).to(kind)
            wide = a.float() if half else a
            mean, square = wide.sum(0) / m, (wide * wide).sum(0) / m
            if count is not None:
                mean, square = sum_over_ranks(torch.stack([mean, square]) * share)
            variance = (square - mean * mean).clamp(min=0)
            scale = gamma * torch.rsqrt(variance + eps)
            shift = beta - mean * scale
            w = torch.cat(
                [
                    (weight * scale).to(kind),
                    weight_columns(weight_query, bias + (weight * shift).sum(1), n_query, half),
                ],
                dim=-1,
            )
            x = torch.cat([a, columns], dim=-1)
            y = x @ w.T
            if latent is not None:
                y = _add_to_queries(y, latent.to(kind), crystal)
            inputs.append(x)
            weights.append(w)
            saved += [mean, variance]
            statistics += [
                mean,
                variance
                * (m / max(m - 1, 1) if count is None else count / (count - 1).clamp(min=1)),
            ]
        ctx.save_for_backward(
            columns, crystal, count, first_query, *layers, *inputs, *weights, *saved
        )
        ctx.n, ctx.half, ctx.eps, ctx.n_query, ctx.n_crystals = (
            len(layers) // 6,
            half,
            eps,
            n_query,
            len(per_crystal),
        )
        ctx.mark_non_differentiable(*statistics)
        return (y.to(query.dtype), *statistics)

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Return gradients in the order of `forward`'s arguments."""
        n, half, n_query = ctx.n, ctx.half, ctx.n_query
        columns, crystal, count, first_query, *rest = ctx.saved_tensors
        layers, inputs, weights, saved = (
            rest[: 6 * n],
            rest[6 * n : 7 * n],
            rest[7 * n : 8 * n],
            rest[8 * n :],
        )
        m, kind = len(columns), columns.dtype
        n_all = m if count is None else count
        g = g.to(kind)
        gradients: list[Tensor | None] = []
        d_queries = (
            torch.zeros(m, n_query, dtype=layers[0].dtype, device=g.device)
            if ctx.needs_input_grad[0]
            else None
        )  # in training: no
        for k in range(n - 1, -1, -1):
            gamma, beta, weight, weight_query, _bias, latent = layers[6 * k : 6 * k + 6]
            mean, variance = saved[2 * k : 2 * k + 2]
            x, w, width = inputs[k], weights[k], len(gamma)
            product = (g.T @ x).to(gamma.dtype)
            d_folded, (d_query, d_bias) = (
                product[:, :width],
                _gradients_of_columns(product[:, width:], n_query, half),
            )
            inverse = torch.rsqrt(variance + ctx.eps)
            scale = gamma * inverse
            shift = beta - mean * scale
            d_weight = d_folded * scale + d_bias[:, None] * shift
            # summed over the outputs: the gradient of s
            centred = weight * (d_folded - d_bias[:, None] * mean)
            d_gamma, d_beta = (centred * inverse).sum(0), (weight * d_bias[:, None]).sum(0)
            # The factors stand inside the sums: otherwise a compiler would compute them again for
            # every query.
            c1 = (centred * (-gamma * inverse * inverse * inverse / n_all)).sum(0)
            c0 = (weight * d_bias[:, None] * (-scale / n_all)).sum(0)
            if count is not None:
                c0, c1 = sum_over_ranks(torch.stack([c0, c1]))
            gradients = [
                d_gamma,
                d_beta,
                d_weight,
                d_query if weight_query is not None else None,
                d_bias,
                _sum_over_queries(g, ctx.n_crystals, gamma.dtype, crystal)
                if latent is not None
                else None,
                *gradients,
            ]
            if d_queries is not None:
                d_queries = d_queries + g @ w[:, width : width + n_query]
            a = x[:, :width]
            g = g @ w[:, :width]
            g = torch.where(a > 0, g + (c1 * (a - mean) + c0), 0.0).to(kind)
        d_first, _unused = _gradients_of_columns((g.T @ columns).to(gamma.dtype), n_query, half)
        d_latent = _sum_over_queries(g, ctx.n_crystals, gamma.dtype, crystal)
        if d_queries is not None:
            d_queries = d_queries + g.to(gamma.dtype) @ first_query
        return (d_queries, d_latent, None, None, None, d_first, *gradients)
