"""FAVOR+ attention (softmax kernel, not causal) in chunks of genes, recomputed in its backward pass.

Choromanski et al. 2021, Rethinking attention with Performers; stabilised exactly as performer-pytorch does it:
features are ``exp(x P' - |x|^2 / (2 sqrt(d)) - maximum) + eps`` with ``P' = P / d^(1/4)``, where the maximum is taken
per row for queries, and over all genes and features of a (sample, head) for keys, and carries no gradient. The factor
``1 / sqrt(m)`` of both feature maps cancels between numerator and denominator, so it is never applied.

Shapes in names: B samples, G genes (C of them in a chunk), H heads, K = width of a head, M random features, J = K + 1.
Values carry a column of ones as their last, so that one product gives numerator and denominator: V is ... x J.

With ``S = sum_g (feature(k_g) + eps) (x) [v_g, 1]`` (H x M x J per sample) the output of gene g is
``(feature(q_g) + eps) S``, its first K columns divided by its last.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pretrain.device import chunk_rows, peak_dtype

EPSILON = 1e-4


def favor_attention(query_BGHK: Tensor, key_BGHK: Tensor, value_BGHK: Tensor, projection_MK: Tensor) -> Tensor:
    """Attention over the genes of each sample and head: B x G x H x K, like the queries.

    Forward: 4 products of 2 M FLOPs per entry of a query; the features of one chunk are all that is ever held.
    Backward: 8 such products, of which 2 recompute features; holds q, k, v, the output, its denominators (1/K of a
    query) and S (B x H x M x J). The published code instead holds several tensors of M/K times the size of a query.
    """
    return torch.ops.bulkformer.favor_attention(query_BGHK, key_BGHK, value_BGHK, projection_MK)[0]


@torch.library.custom_op("bulkformer::favor_attention", mutates_args=())
def _attention(query: Tensor, key: Tensor, value: Tensor, projection: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output, denominators (B x G x H), S (B x H x M x J) and key maxima (B x H), the last three for the backward."""
    samples, genes, heads, width = query.shape
    wide = peak_dtype(query)
    scaled = _scaled(projection, wide)
    output = torch.empty((samples, genes, heads, width), dtype=query.dtype, device=query.device)
    denominator = torch.empty((samples, genes, heads), dtype=wide, device=query.device)
    sums = torch.empty((samples, heads, len(scaled), width + 1), dtype=wide, device=query.device)
    maxima = torch.empty((samples, heads), dtype=wide, device=query.device)
    for sample in range(samples):
        sums[sample], maxima[sample] = _sum_keys(key[sample], value[sample], scaled)
        _answer_queries(query[sample], scaled, sums[sample], output[sample], denominator[sample])
    return output, denominator, sums, maxima


def _sum_keys(key_GHK: Tensor, value_GHK: Tensor, scaled_MK: Tensor) -> tuple[Tensor, Tensor]:
    """S (H x M x J) and the key maxima (H) in one pass: sums are rescaled whenever the maximum rises."""
    heads, width = key_GHK.shape[1:]
    sums_HMJ = scaled_MK.new_zeros(heads, len(scaled_MK), width + 1)
    value_sum_HJ = scaled_MK.new_zeros(heads, width + 1)
    maximum_H = scaled_MK.new_full((heads,), -torch.inf)
    for chunk in _chunks(key_GHK, len(scaled_MK)):
        dash_CHM, half_norm_CH = _dash(key_GHK[chunk], scaled_MK)
        value_CHJ = _with_ones(value_GHK[chunk])
        raised_H = torch.maximum(maximum_H, dash_CHM.amax(dim=-1).amax(dim=0))
        sums_HMJ *= (maximum_H - raised_H).exp()[:, None, None]
        maximum_H = raised_H
        feature_CHM = dash_CHM.sub_((half_norm_CH + maximum_H).unsqueeze(-1)).exp_()
        _add_product(sums_HMJ, feature_CHM.permute(1, 2, 0), value_CHJ.transpose(0, 1))
        value_sum_HJ += value_CHJ.sum(dim=0, dtype=value_sum_HJ.dtype)
    return sums_HMJ + EPSILON * value_sum_HJ.unsqueeze(1), maximum_H


def _answer_queries(
    query_GHK: Tensor, scaled_MK: Tensor, sums_HMJ: Tensor, output_GHK: Tensor, denominator_GH: Tensor
) -> None:
    """Fill ``output`` and ``denominator``."""
    sums = sums_HMJ.to(query_GHK.dtype)
    for chunk in _chunks(query_GHK, len(scaled_MK)):
        feature_CHM = _query_features(query_GHK[chunk], scaled_MK).add_(EPSILON).to(query_GHK.dtype)
        answer_HCJ = torch.bmm(feature_CHM.transpose(0, 1), sums)
        denominator_HC1 = answer_HCJ[..., -1:].to(denominator_GH.dtype)
        denominator_GH[chunk] = denominator_HC1.squeeze(-1).T
        output_GHK[chunk] = (answer_HCJ[..., :-1] / denominator_HC1).transpose(0, 1)


@torch.library.custom_op("bulkformer::favor_attention_backward", mutates_args=())
def _attention_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    projection: Tensor,
    output: Tensor,
    denominator: Tensor,
    sums: Tensor,
    maxima: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values."""
    scaled = _scaled(projection, sums.dtype)
    contiguous = torch.contiguous_format
    grad_query = torch.empty_like(query, memory_format=contiguous)
    grad_key = torch.empty_like(key, memory_format=contiguous)
    grad_value = torch.empty_like(value, memory_format=contiguous)
    for sample in range(len(query)):
        grad_sums_HMJ = _query_gradients(
            gradient[sample], query[sample], output[sample], denominator[sample], scaled, sums[sample],
            grad_query[sample],
        )  # fmt: skip
        _key_gradients(
            grad_sums_HMJ, key[sample], value[sample], scaled, maxima[sample], grad_key[sample], grad_value[sample]
        )
    return grad_query, grad_key, grad_value


def _query_gradients(
    gradient_GHK: Tensor,
    query_GHK: Tensor,
    output_GHK: Tensor,
    denominator_GH: Tensor,
    scaled_MK: Tensor,
    sums_HMJ: Tensor,
    grad_query_GHK: Tensor,
) -> Tensor:
    """Fill the queries' gradient; returns the gradient of S."""
    grad_sums_HMJ = torch.zeros_like(sums_HMJ)
    answer_sum_HJ = sums_HMJ.new_zeros(sums_HMJ.shape[0], sums_HMJ.shape[2])
    sums_HJM = sums_HMJ.to(query_GHK.dtype).transpose(1, 2)
    for chunk in _chunks(query_GHK, len(scaled_MK)):
        feature_CHM = _query_features(query_GHK[chunk], scaled_MK)
        # gradient of [numerator, denominator] of output = numerator / denominator
        wide_CHK = gradient_GHK[chunk].to(sums_HMJ.dtype)
        inner_CH1 = (wide_CHK * output_GHK[chunk]).sum(dim=-1, keepdim=True)
        answer_CHJ = torch.cat([wide_CHK, -inner_CH1], dim=-1) / denominator_GH[chunk].unsqueeze(-1)
        answer_HCJ = answer_CHJ.to(query_GHK.dtype).transpose(0, 1)
        _add_product(grad_sums_HMJ, feature_CHM.permute(1, 2, 0), answer_HCJ)
        answer_sum_HJ += answer_CHJ.sum(dim=0)
        grad_feature_HCM = torch.bmm(answer_HCJ, sums_HJM)
        _through_features(feature_CHM, grad_feature_HCM, query_GHK[chunk], scaled_MK, grad_query_GHK[chunk])
    return grad_sums_HMJ + EPSILON * answer_sum_HJ.unsqueeze(1)


def _key_gradients(
    grad_sums_HMJ: Tensor,
    key_GHK: Tensor,
    value_GHK: Tensor,
    scaled_MK: Tensor,
    maximum_H: Tensor,
    grad_key_GHK: Tensor,
    grad_value_GHK: Tensor,
) -> None:
    """Fill the gradients of keys and values."""
    narrow_HMJ = grad_sums_HMJ.to(key_GHK.dtype)
    from_epsilon_HK = EPSILON * grad_sums_HMJ[..., :-1].sum(dim=1)
    for chunk in _chunks(key_GHK, len(scaled_MK)):
        dash_CHM, half_norm_CH = _dash(key_GHK[chunk], scaled_MK)
        feature_CHM = dash_CHM.sub_((half_norm_CH + maximum_H).unsqueeze(-1)).exp_()
        narrow_HCM = feature_CHM.to(key_GHK.dtype).transpose(0, 1)
        value_HCK = torch.bmm(narrow_HCM, narrow_HMJ[..., :-1])
        grad_value_GHK[chunk] = value_HCK.transpose(0, 1) + from_epsilon_HK
        grad_feature_HCM = torch.bmm(_with_ones(value_GHK[chunk]).transpose(0, 1), narrow_HMJ.transpose(1, 2))
        _through_features(feature_CHM, grad_feature_HCM, key_GHK[chunk], scaled_MK, grad_key_GHK[chunk])


def _through_features(
    feature_CHM: Tensor, grad_feature_HCM: Tensor, input_CHK: Tensor, scaled_MK: Tensor, grad_input_CHK: Tensor
) -> None:
    """Chain rule through ``exp(x P' - |x|^2 / (2 sqrt(d)) - constant)``: fills the gradient of x."""
    width = input_CHK.shape[-1]
    grad_dash_CHM = feature_CHM.mul_(grad_feature_HCM.transpose(0, 1))
    total_CH1 = grad_dash_CHM.sum(dim=-1, keepdim=True)
    through_dash_CHK = (grad_dash_CHM.flatten(0, 1) @ scaled_MK).view(input_CHK.shape)
    grad_input_CHK.copy_(through_dash_CHK.addcmul_(total_CH1, input_CHK.to(total_CH1.dtype), value=-(width**-0.5)))


def _query_features(query_CHK: Tensor, scaled_MK: Tensor) -> Tensor:
    """``exp(q P' - |q|^2 / (2 sqrt(d)) - row maximum)``, C x H x M, without eps."""
    dash_CHM, half_norm_CH = _dash(query_CHK, scaled_MK)
    return dash_CHM.sub_((half_norm_CH + dash_CHM.amax(dim=-1)).unsqueeze(-1)).exp_()


def _dash(input_CHK: Tensor, scaled_MK: Tensor) -> tuple[Tensor, Tensor]:
    """``x P'`` (C x H x M) and ``|x|^2 / (2 sqrt(d))`` (C x H), both wide: an error here enters an exponent."""
    wide = input_CHK.to(scaled_MK.dtype)
    dash_CHM = (wide.flatten(0, 1) @ scaled_MK.T).view(*wide.shape[:2], -1)
    return dash_CHM, wide.square().sum(dim=-1) * (0.5 * wide.shape[-1] ** -0.5)


def _scaled(projection_MK: Tensor, dtype: torch.dtype) -> Tensor:
    return projection_MK.to(dtype) * projection_MK.shape[1] ** -0.25


def _with_ones(value_CHK: Tensor) -> Tensor:
    return torch.cat([value_CHK, value_CHK.new_ones(*value_CHK.shape[:2], 1)], dim=-1)


def _add_product(total_HMJ: Tensor, left_HMC: Tensor, right_HCJ: Tensor) -> None:
    """``total += left @ right``, in the type of ``total`` across chunks whatever the products run in."""
    if total_HMJ.dtype == right_HCJ.dtype:
        total_HMJ.baddbmm_(left_HMC, right_HCJ)
    else:
        total_HMJ += torch.bmm(left_HMC.to(right_HCJ.dtype), right_HCJ)


def _chunks(input_GHK: Tensor, features: int) -> Iterator[slice]:
    genes, heads = input_GHK.shape[:2]
    step = chunk_rows(genes, heads * features, input_GHK.device)
    return (slice(start, min(start + step, genes)) for start in range(0, genes, step))


@_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, projection: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    samples, genes, heads, width = query.shape
    wide = peak_dtype(query)
    return (
        query.new_empty(samples, genes, heads, width),
        query.new_empty((samples, genes, heads), dtype=wide),
        query.new_empty((samples, heads, projection.shape[0], width + 1), dtype=wide),
        query.new_empty((samples, heads), dtype=wide),
    )


@_attention_backward.register_fake
def _(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _setup(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs, *output)
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, gradient: Tensor, *_unused: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    return *torch.ops.bulkformer.favor_attention_backward(gradient, *ctx.saved_tensors), None


_attention.register_autograd(_backward, setup_context=_setup)
