"""FAVOR+ attention (softmax kernel, not causal) in chunks of genes, recomputed in its backward pass.

Choromanski et al. 2021, Rethinking attention with Performers; stabilised exactly as performer-pytorch does it:
features are ``exp(x P' - |x|^2 / (2 sqrt(d)) - maximum) + eps`` with ``P' = P / d^(1/4)``, where the maximum is taken
per row for queries, and over all genes and features of a (sample, head) for keys, and carries no gradient. The factor
``1 / sqrt(m)`` of both feature maps cancels between numerator and denominator, so it is never applied.

Shapes in names: B samples (S of them worked on together), G genes (C of them in a chunk), H heads, K = width of a
head, M random features; 3 stands for query, key and value, which come and whose gradients go as one tensor: they are
one linear layer's.

With ``S = sum_g (feature(k_g) + eps) (x) v_g`` (H x M x K per sample) and ``s`` the same sum without values (H x M),
the output of gene g is ``(feature(q_g) + eps) S / (feature(q_g) + eps) s``.

Inside a chunk the heads come first, those of all S samples as one dimension H, so that each product reads rows that
lie side by side. What happens between two products is one function of the chunk, compiled where that is asked for:
exponents, their maxima and sums in fp32 (an error there enters an exponential), everything that is multiplied further
in the type of the queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pretrain.kernels.device import chunks, maybe_compiled, product_into_wide, samples_together, sum_dtype
from pretrain.kernels.operator import operator

EPSILON = 1e-4
# Products over rows that begin at a whole cache line run up to twice as fast: features are padded to multiples of 16.
_FEATURE_MULTIPLE = 16


def favor_attention(query_key_value_BG3HK: Tensor, projection_MK: Tensor, compile: bool = False) -> Tensor:
    """Attention over the genes of each sample and head: B x G x H x K.

    Forward: 4 products of 2 M FLOPs per entry of a query; the features of one chunk are all that is ever held.
    Backward: 8 such products, of which 2 recompute features; holds q, k, v, the output, its denominators (1/K of a
    query) and S. The published code instead holds several tensors of M/K times the size of a query.
    """
    return torch.ops.bulkformer.favor_attention(query_key_value_BG3HK, projection_MK, compile)[0]


@operator("favor_attention")
def _attention(
    query_key_value: Tensor, projection: Tensor, compile: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Output, and for the backward: denominators (B x H x G), S (B x H x M x K), s (B x H x M), key maxima (B x H)."""
    query, key, value = query_key_value.unbind(2)
    samples, genes, heads, width = query.shape
    wide = sum_dtype(query)
    scaled = _scaled(projection, wide)
    output = torch.empty((samples, genes, heads, width), dtype=query.dtype, device=query.device)
    denominator = torch.empty((samples, heads, genes), dtype=wide, device=query.device)
    sums = torch.empty((samples, heads, len(scaled), width), dtype=wide, device=query.device)
    totals = torch.empty((samples, heads, len(scaled)), dtype=wide, device=query.device)
    maxima = torch.empty((samples, heads), dtype=wide, device=query.device)
    for part in samples_together(samples, query.device):
        sums_HMK, totals_HM, maxima_H = _sum_keys(key[part], value[part], scaled, compile)
        # padded features repeat real ones, and must count nowhere
        sums_HMK[:, len(projection) :] = totals_HM[:, len(projection) :] = 0
        _answer_queries(query[part], scaled, sums_HMK, totals_HM, output[part], _joined(denominator[part]), compile)
        for kept, computed in ((sums, sums_HMK), (totals, totals_HM), (maxima, maxima_H)):
            _joined(kept[part]).copy_(computed)
    return output, denominator, sums, totals, maxima


def _sum_keys(key_SGHK: Tensor, value_SGHK: Tensor, scaled_MK: Tensor, compile: bool) -> tuple[Tensor, Tensor, Tensor]:
    """S, s and the key maxima (H) in one pass: sums are rescaled whenever the maximum rises."""
    samples, genes, heads_each, width = key_SGHK.shape
    heads = samples * heads_each
    sums_HMK = scaled_MK.new_zeros(heads, len(scaled_MK), width)
    totals_HM = scaled_MK.new_zeros(heads, len(scaled_MK))
    maximum_H = scaled_MK.new_full((heads,), -torch.inf)
    key_features = maybe_compiled(_key_features, compile, varying="C")
    for chunk in _chunks(key_SGHK, len(scaled_MK)):
        key_HCK, value_HCK = _heads_first(key_SGHK[:, chunk]), _heads_first(value_SGHK[:, chunk])
        dash_HCM = product_into_wide(key_HCK, scaled_MK.T)
        raised_H = torch.maximum(maximum_H, dash_HCM.amax(dim=(1, 2)))
        shrink_H = (maximum_H - raised_H).exp()
        maximum_H = raised_H
        feature_HCM, total_HM = key_features(dash_HCM, key_HCK, maximum_H)
        totals_HM = totals_HM.mul_(shrink_H[:, None]).add_(total_HM)
        _add_product(sums_HMK.mul_(shrink_H[:, None, None]), feature_HCM.transpose(1, 2), value_HCK)
    sums_HMK += EPSILON * _joined(value_SGHK.sum(dim=1, dtype=sums_HMK.dtype)).unsqueeze(1)
    return sums_HMK, totals_HM + EPSILON * genes, maximum_H


def _answer_queries(
    query_SGHK: Tensor,
    scaled_MK: Tensor,
    sums_HMK: Tensor,
    totals_HM: Tensor,
    output_SGHK: Tensor,
    denominator_HG: Tensor,
    compile: bool,
) -> None:
    """Fill ``output`` and ``denominator``."""
    narrow_HMK = sums_HMK.to(query_SGHK.dtype)
    from_epsilon_H1K = EPSILON * sums_HMK.sum(dim=1, keepdim=True)
    from_epsilon_H1 = EPSILON * totals_HM.sum(dim=1, keepdim=True)
    query_features = maybe_compiled(_query_features_and_denominators, compile, varying="C")
    for chunk in _chunks(query_SGHK, len(scaled_MK)):
        query_HCK = _heads_first(query_SGHK[:, chunk])
        dash_HCM = product_into_wide(query_HCK, scaled_MK.T)
        feature_HCM, denominator_HC = query_features(dash_HCM, query_HCK, totals_HM, from_epsilon_H1)
        numerator_HCK = torch.bmm(feature_HCM, narrow_HMK) + from_epsilon_H1K
        denominator_HG[:, chunk] = denominator_HC
        _put(output_SGHK[:, chunk], numerator_HCK / denominator_HC.unsqueeze(-1))


@operator("favor_attention_backward")
def _attention_backward(
    gradient: Tensor,
    query_key_value: Tensor,
    projection: Tensor,
    output: Tensor,
    denominator: Tensor,
    sums: Tensor,
    totals: Tensor,
    maxima: Tensor,
    compile: bool,
) -> Tensor:
    """Gradient of queries, keys and values."""
    scaled = _scaled(projection, sums.dtype)
    grad_query_key_value = torch.empty_like(query_key_value, memory_format=torch.contiguous_format)
    query, key, value = query_key_value.unbind(2)
    grad_query, grad_key, grad_value = grad_query_key_value.unbind(2)
    for part in samples_together(len(query), query.device):
        grad_sums_HMK, grad_totals_HM = _query_gradients(
            gradient[part], query[part], output[part], _joined(denominator[part]), scaled, _joined(sums[part]),
            _joined(totals[part]).clone(), grad_query[part], compile,
        )  # fmt: skip
        grad_sums_HMK[:, len(projection) :] = grad_totals_HM[:, len(projection) :] = 0
        _key_gradients(
            grad_sums_HMK, grad_totals_HM, key[part], value[part], scaled, _joined(maxima[part]).clone(),
            grad_key[part], grad_value[part], compile,
        )  # fmt: skip
    return grad_query_key_value


def _query_gradients(
    gradient_SGHK: Tensor,
    query_SGHK: Tensor,
    output_SGHK: Tensor,
    denominator_HG: Tensor,
    scaled_MK: Tensor,
    sums_HMK: Tensor,
    totals_HM: Tensor,
    grad_query_SGHK: Tensor,
    compile: bool,
) -> tuple[Tensor, Tensor]:
    """Fill the queries' gradient; returns the gradients of S and s."""
    narrow_MK, narrow_HKM = scaled_MK.to(query_SGHK.dtype), sums_HMK.to(query_SGHK.dtype).transpose(1, 2)
    grad_sums_HMK, grad_totals_HM = torch.zeros_like(sums_HMK), torch.zeros_like(totals_HM)
    answer_gradients = maybe_compiled(_answer_gradients, compile, varying="C")
    through_queries = maybe_compiled(_through_query_features, compile, varying="C")
    through_norm = maybe_compiled(_through_norm, compile, varying="C")
    for chunk in _chunks(query_SGHK, len(scaled_MK)):
        query_HCK, output_HCK = _heads_first(query_SGHK[:, chunk]), _heads_first(output_SGHK[:, chunk])
        answer_HCK, answer_HC, from_epsilon_HK = answer_gradients(
            _heads_first(gradient_SGHK[:, chunk]), output_HCK, denominator_HG[:, chunk].clone()
        )
        dash_HCM = product_into_wide(query_HCK, scaled_MK.T)
        feature_HCM, grad_dash_HCM, total_HC, grad_total_HM = through_queries(
            dash_HCM, query_HCK, torch.bmm(answer_HCK, narrow_HKM), answer_HC, totals_HM
        )
        _add_product(grad_sums_HMK, feature_HCM.transpose(1, 2), answer_HCK)
        grad_sums_HMK += EPSILON * from_epsilon_HK.unsqueeze(1)
        grad_totals_HM += grad_total_HM
        through_dash_HCK = grad_dash_HCM @ narrow_MK
        _put(grad_query_SGHK[:, chunk], through_norm(through_dash_HCK, total_HC, query_HCK))
    return grad_sums_HMK, grad_totals_HM


def _key_gradients(
    grad_sums_HMK: Tensor,
    grad_totals_HM: Tensor,
    key_SGHK: Tensor,
    value_SGHK: Tensor,
    scaled_MK: Tensor,
    maximum_H: Tensor,
    grad_key_SGHK: Tensor,
    grad_value_SGHK: Tensor,
    compile: bool,
) -> None:
    """Fill the gradients of keys and values."""
    narrow_MK, narrow_HMK = scaled_MK.to(key_SGHK.dtype), grad_sums_HMK.to(key_SGHK.dtype)
    narrow_HKM = narrow_HMK.transpose(1, 2)
    from_epsilon_H1K = EPSILON * grad_sums_HMK.sum(dim=1, keepdim=True)
    through_keys = maybe_compiled(_through_key_features, compile, varying="C")
    through_norm = maybe_compiled(_through_norm, compile, varying="C")
    for chunk in _chunks(key_SGHK, len(scaled_MK)):
        key_HCK, value_HCK = _heads_first(key_SGHK[:, chunk]), _heads_first(value_SGHK[:, chunk])
        dash_HCM = product_into_wide(key_HCK, scaled_MK.T)
        feature_HCM, grad_dash_HCM, total_HC = through_keys(
            dash_HCM, key_HCK, maximum_H, torch.bmm(value_HCK, narrow_HKM), grad_totals_HM
        )
        _put(grad_value_SGHK[:, chunk], torch.bmm(feature_HCM, narrow_HMK) + from_epsilon_H1K)
        through_dash_HCK = grad_dash_HCM @ narrow_MK
        _put(grad_key_SGHK[:, chunk], through_norm(through_dash_HCK, total_HC, key_HCK))


# ---- between two products ------------------------------------------------------------------------------------------


def _key_features(dash_HCM: Tensor, key_HCK: Tensor, maximum_H: Tensor) -> tuple[Tensor, Tensor]:
    """Features without eps, and their sum over the chunk (H x M)."""
    feature_HCM = _exponential(dash_HCM, key_HCK, maximum_H[:, None, None])
    return feature_HCM.to(key_HCK.dtype), feature_HCM.sum(dim=1)


def _query_features_and_denominators(
    dash_HCM: Tensor, query_HCK: Tensor, totals_HM: Tensor, from_epsilon_H1: Tensor
) -> tuple[Tensor, Tensor]:
    feature_HCM = _exponential(dash_HCM, query_HCK, dash_HCM.amax(dim=-1, keepdim=True))
    denominator_HC = (feature_HCM * totals_HM.unsqueeze(1)).sum(dim=-1) + from_epsilon_H1
    return feature_HCM.to(query_HCK.dtype), denominator_HC


def _answer_gradients(
    gradient_HCK: Tensor, output_HCK: Tensor, denominator_HC: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of numerator and denominator of ``output = numerator / denominator``; the former's sum (H x K)."""
    wide_HCK = gradient_HCK.to(denominator_HC.dtype) / denominator_HC.unsqueeze(-1)
    return wide_HCK.to(output_HCK.dtype), -(wide_HCK * output_HCK).sum(dim=-1), wide_HCK.sum(dim=1)


def _through_query_features(
    dash_HCM: Tensor, query_HCK: Tensor, grad_feature_HCM: Tensor, answer_HC: Tensor, totals_HM: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features, gradient of ``q P'``, its sum over features (H x C), gradient of s from this chunk (H x M)."""
    feature_HCM = _exponential(dash_HCM, query_HCK, dash_HCM.amax(dim=-1, keepdim=True))
    grad_dash_HCM = feature_HCM * (grad_feature_HCM + answer_HC.unsqueeze(-1) * totals_HM.unsqueeze(1))
    grad_totals_HM = ((feature_HCM + EPSILON) * answer_HC.unsqueeze(-1)).sum(dim=1)
    narrow = query_HCK.dtype
    return feature_HCM.to(narrow), grad_dash_HCM.to(narrow), grad_dash_HCM.sum(dim=-1), grad_totals_HM


def _through_key_features(
    dash_HCM: Tensor, key_HCK: Tensor, maximum_H: Tensor, grad_feature_HCM: Tensor, grad_totals_HM: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Features, gradient of ``k P'``, its sum over features (H x C)."""
    feature_HCM = _exponential(dash_HCM, key_HCK, maximum_H[:, None, None])
    grad_dash_HCM = feature_HCM * (grad_feature_HCM + grad_totals_HM.unsqueeze(1))
    return feature_HCM.to(key_HCK.dtype), grad_dash_HCM.to(key_HCK.dtype), grad_dash_HCM.sum(dim=-1)


def _exponential(dash_HCM: Tensor, input_HCK: Tensor, maximum: Tensor) -> Tensor:
    """``exp(x P' - |x|^2 / (2 sqrt(d)) - maximum)``."""
    half_norm_HC1 = input_HCK.to(dash_HCM.dtype).square().sum(dim=-1, keepdim=True) * (
        0.5 * input_HCK.shape[-1] ** -0.5
    )
    return (dash_HCM - (half_norm_HC1 + maximum)).exp()


def _through_norm(through_dash_HCK: Tensor, total_HC: Tensor, input_HCK: Tensor) -> Tensor:
    """Gradient of x: what came through ``x P'``, and what comes through ``-|x|^2 / (2 sqrt(d))``."""
    return through_dash_HCK - total_HC.unsqueeze(-1) * input_HCK * (input_HCK.shape[-1] ** -0.5)


# --------------------------------------------------------------------------------------------------------------------


def _scaled(projection_MK: Tensor, dtype: torch.dtype) -> Tensor:
    """P', padded with copies of its first row: those change no maximum, and their sums are cleared."""
    padding = -len(projection_MK) % _FEATURE_MULTIPLE
    padded = torch.cat([projection_MK, projection_MK[:1].expand(padding, -1)])
    return padded.to(dtype) * projection_MK.shape[1] ** -0.25


def _heads_first(chunk_SCHK: Tensor) -> Tensor:
    """Copy to a contiguous H x C x K: rows are adjacent, and compiled code would be compiled anew for a view."""
    samples, genes, heads, width = chunk_SCHK.shape
    chunk_HCK = chunk_SCHK.new_empty(samples * heads, genes, width)
    chunk_HCK.view(samples, heads, genes, width).copy_(chunk_SCHK.transpose(1, 2))
    return chunk_HCK


def _put(out_SCHK: Tensor, chunk_HCK: Tensor) -> None:
    """Write a chunk to its place; undoes :func:`_heads_first`."""
    out_SCHK.copy_(chunk_HCK.unflatten(0, (len(out_SCHK), -1)).transpose(1, 2))


def _joined(of_samples: Tensor) -> Tensor:
    """A view of S x H x ... whose first dimension is the heads of all samples."""
    return of_samples.flatten(0, 1)


def _add_product(total_HMK: Tensor, left_HMC: Tensor, right_HCK: Tensor) -> None:
    """``total += left @ right``, in the type of ``total`` across chunks whatever the products run in."""
    if total_HMK.dtype == right_HCK.dtype:
        total_HMK.baddbmm_(left_HMC, right_HCK)
    else:
        total_HMK += torch.bmm(left_HMC, right_HCK)


def _chunks(input_SGHK: Tensor, features: int) -> Iterator[slice]:
    samples, genes, heads, _ = input_SGHK.shape
    return chunks(genes, samples * heads * features, input_SGHK.device)


@_attention.register_fake
def _(query_key_value: Tensor, projection: Tensor, compile: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    samples, genes, _, heads, width = query_key_value.shape
    wide = sum_dtype(query_key_value)
    features = projection.shape[0] + -projection.shape[0] % _FEATURE_MULTIPLE
    return (
        query_key_value.new_empty(samples, genes, heads, width),
        query_key_value.new_empty((samples, heads, genes), dtype=wide),
        query_key_value.new_empty((samples, heads, features, width), dtype=wide),
        query_key_value.new_empty((samples, heads, features), dtype=wide),
        query_key_value.new_empty((samples, heads), dtype=wide),
    )


@_attention_backward.register_fake
def _(gradient: Tensor, query_key_value: Tensor, *_rest: Any) -> Tensor:
    return query_key_value.new_empty(query_key_value.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.compile = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, gradient: Tensor, *_unused: Tensor) -> tuple[Tensor | None, ...]:
    of_inputs = torch.ops.bulkformer.favor_attention_backward(gradient, *ctx.saved_tensors, ctx.compile)
    return of_inputs, None, None


_attention.register_autograd(_backward, setup_context=_setup)
