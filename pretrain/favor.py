"""FAVOR+ attention (softmax kernel, not causal) in chunks of genes, recomputed in its backward pass.

Choromanski et al. 2021, Rethinking attention with Performers; stabilised exactly as performer-pytorch does it:
features are ``exp(x P' - |x|^2 / (2 sqrt(d)) - maximum) + eps`` with ``P' = P / d^(1/4)``, where the maximum is taken
per row for queries, and over all genes and features of a (sample, head) for keys, and carries no gradient. The factor
``1 / sqrt(m)`` of both feature maps cancels between numerator and denominator, so it is never applied.

Shapes in names: B samples, G genes (C of them in a chunk), H heads, K = width of a head, M random features.

With ``S = sum_g (feature(k_g) + eps) (x) v_g`` (H x M x K per sample) and ``s`` the same sum without values (H x M),
the output of gene g is ``(feature(q_g) + eps) S / (feature(q_g) + eps) s``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pretrain.device import chunk_rows, sum_dtype

EPSILON = 1e-4
# Products over rows that begin at a whole cache line run up to twice as fast: features are padded to multiples of 16.
_FEATURE_MULTIPLE = 16


def favor_attention(query_BGHK: Tensor, key_BGHK: Tensor, value_BGHK: Tensor, projection_MK: Tensor) -> Tensor:
    """Attention over the genes of each sample and head: B x G x H x K, like the queries.

    Forward: 4 products of 2 M FLOPs per entry of a query; the features of one chunk are all that is ever held.
    Backward: 8 such products, of which 2 recompute features; holds q, k, v, the output, its denominators (1/K of a
    query) and S. The published code instead holds several tensors of M/K times the size of a query.
    """
    return torch.ops.bulkformer.favor_attention(query_BGHK, key_BGHK, value_BGHK, projection_MK)[0]


@torch.library.custom_op("bulkformer::favor_attention", mutates_args=())
def _attention(
    query: Tensor, key: Tensor, value: Tensor, projection: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Output, and for the backward: denominators (B x G x H), S (B x H x M x K), s (B x H x M), key maxima (B x H)."""
    samples, genes, heads, width = query.shape
    wide = sum_dtype(query)
    scaled = _scaled(projection, wide)
    output = torch.empty((samples, genes, heads, width), dtype=query.dtype, device=query.device)
    denominator = torch.empty((samples, genes, heads), dtype=wide, device=query.device)
    sums = torch.empty((samples, heads, len(scaled), width), dtype=wide, device=query.device)
    totals = torch.empty((samples, heads, len(scaled)), dtype=wide, device=query.device)
    maxima = torch.empty((samples, heads), dtype=wide, device=query.device)
    for sample in range(samples):
        sums[sample], totals[sample], maxima[sample] = _sum_keys(key[sample], value[sample], scaled)
        # padded features repeat real ones, and must count nowhere
        sums[sample, :, len(projection) :] = totals[sample, :, len(projection) :] = 0
        _answer_queries(
            query[sample], scaled, sums[sample], totals[sample], output[sample], denominator[sample]
        )  # fmt: skip
    return output, denominator, sums, totals, maxima


def _sum_keys(key_GHK: Tensor, value_GHK: Tensor, scaled_MK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """S, s and the key maxima (H) in one pass: sums are rescaled whenever the maximum rises."""
    genes, heads, width = key_GHK.shape
    sums_HMK = scaled_MK.new_zeros(heads, len(scaled_MK), width)
    totals_HM = scaled_MK.new_zeros(heads, len(scaled_MK))
    maximum_H = scaled_MK.new_full((heads,), -torch.inf)
    for chunk in _chunks(key_GHK, len(scaled_MK)):
        dash_CHM, half_norm_CH = _dash(key_GHK[chunk], scaled_MK)
        raised_H = torch.maximum(maximum_H, dash_CHM.amax(dim=-1).amax(dim=0))
        shrink_H = (maximum_H - raised_H).exp()
        maximum_H = raised_H
        feature_CHM = dash_CHM.sub_((half_norm_CH + maximum_H).unsqueeze(-1)).exp_()
        totals_HM = totals_HM.mul_(shrink_H[:, None]).add_(feature_CHM.sum(dim=0))
        _add_product(sums_HMK.mul_(shrink_H[:, None, None]), feature_CHM.permute(1, 2, 0), value_GHK[chunk])
    sums_HMK += EPSILON * value_GHK.sum(dim=0, dtype=sums_HMK.dtype).unsqueeze(1)
    return sums_HMK, totals_HM + EPSILON * genes, maximum_H


def _answer_queries(
    query_GHK: Tensor,
    scaled_MK: Tensor,
    sums_HMK: Tensor,
    totals_HM: Tensor,
    output_GHK: Tensor,
    denominator_GH: Tensor,
) -> None:
    """Fill ``output`` and ``denominator``."""
    narrow_HMK = sums_HMK.to(query_GHK.dtype)
    from_epsilon_H1K = EPSILON * sums_HMK.sum(dim=1, keepdim=True)
    from_epsilon_H11 = EPSILON * totals_HM.sum(dim=1)[:, None, None]
    for chunk in _chunks(query_GHK, len(scaled_MK)):
        feature_HCM = _query_features(query_GHK[chunk], scaled_MK).transpose(0, 1)
        denominator_HC1 = torch.bmm(feature_HCM, totals_HM.unsqueeze(-1)) + from_epsilon_H11
        numerator_HCK = torch.bmm(feature_HCM.to(narrow_HMK.dtype), narrow_HMK) + from_epsilon_H1K
        denominator_GH[chunk] = denominator_HC1.squeeze(-1).T
        output_GHK[chunk] = (numerator_HCK / denominator_HC1).transpose(0, 1)


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
    totals: Tensor,
    maxima: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values."""
    scaled = _scaled(projection, sums.dtype)
    contiguous = torch.contiguous_format
    grad_query = torch.empty_like(query, memory_format=contiguous)
    grad_key = torch.empty_like(key, memory_format=contiguous)
    grad_value = torch.empty_like(value, memory_format=contiguous)
    for sample in range(len(query)):
        grad_sums_HMK, grad_totals_HM = _query_gradients(
            gradient[sample], query[sample], output[sample], denominator[sample], scaled, sums[sample], totals[sample],
            grad_query[sample],
        )  # fmt: skip
        grad_sums_HMK[:, len(projection) :] = grad_totals_HM[:, len(projection) :] = 0
        _key_gradients(
            grad_sums_HMK, grad_totals_HM, key[sample], value[sample], scaled, maxima[sample], grad_key[sample],
            grad_value[sample],
        )  # fmt: skip
    return grad_query, grad_key, grad_value


def _query_gradients(
    gradient_GHK: Tensor,
    query_GHK: Tensor,
    output_GHK: Tensor,
    denominator_GH: Tensor,
    scaled_MK: Tensor,
    sums_HMK: Tensor,
    totals_HM: Tensor,
    grad_query_GHK: Tensor,
) -> tuple[Tensor, Tensor]:
    """Fill the queries' gradient; returns the gradients of S and s."""
    narrow = query_GHK.dtype
    grad_sums_HMK, grad_totals_HM1 = torch.zeros_like(sums_HMK), torch.zeros_like(totals_HM).unsqueeze(-1)
    from_epsilon_HL = sums_HMK.new_zeros(sums_HMK.shape[0], sums_HMK.shape[2] + 1)
    both_HLM = torch.cat([sums_HMK, totals_HM.unsqueeze(-1)], dim=-1).to(narrow).transpose(1, 2)
    for chunk in _chunks(query_GHK, len(scaled_MK)):
        feature_CHM = _query_features(query_GHK[chunk], scaled_MK)
        # gradient of [numerator, denominator] of output = numerator / denominator; L = K + 1
        wide_CHK = gradient_GHK[chunk].to(sums_HMK.dtype)
        inner_CH1 = (wide_CHK * output_GHK[chunk]).sum(dim=-1, keepdim=True)
        answer_CHL = torch.cat([wide_CHK, inner_CH1.neg_()], dim=-1).div_(denominator_GH[chunk].unsqueeze(-1))
        from_epsilon_HL += answer_CHL.sum(dim=0)
        feature_HMC, answer_HCL = feature_CHM.permute(1, 2, 0), answer_CHL.transpose(0, 1)
        grad_totals_HM1.baddbmm_(feature_HMC, answer_HCL[..., -1:])
        _add_product(grad_sums_HMK, feature_HMC, answer_CHL[..., :-1].to(narrow))
        grad_feature_HCM = torch.bmm(answer_HCL.to(narrow), both_HLM)
        _through_features(feature_CHM, grad_feature_HCM, query_GHK[chunk], scaled_MK, grad_query_GHK[chunk])
    from_epsilon_HL *= EPSILON
    grad_sums_HMK += from_epsilon_HL[:, None, :-1]
    return grad_sums_HMK, grad_totals_HM1.squeeze(-1) + from_epsilon_HL[:, -1:]


def _key_gradients(
    grad_sums_HMK: Tensor,
    grad_totals_HM: Tensor,
    key_GHK: Tensor,
    value_GHK: Tensor,
    scaled_MK: Tensor,
    maximum_H: Tensor,
    grad_key_GHK: Tensor,
    grad_value_GHK: Tensor,
) -> None:
    """Fill the gradients of keys and values."""
    narrow_HMK = grad_sums_HMK.to(key_GHK.dtype)
    narrow_H1M = grad_totals_HM.to(key_GHK.dtype).unsqueeze(1)
    from_epsilon_HK = EPSILON * grad_sums_HMK.sum(dim=1)
    for chunk in _chunks(key_GHK, len(scaled_MK)):
        dash_CHM, half_norm_CH = _dash(key_GHK[chunk], scaled_MK)
        feature_CHM = dash_CHM.sub_((half_norm_CH + maximum_H).unsqueeze(-1)).exp_()
        value_HCK = torch.bmm(feature_CHM.to(key_GHK.dtype).transpose(0, 1), narrow_HMK)
        grad_value_GHK[chunk] = value_HCK.transpose(0, 1) + from_epsilon_HK
        grad_feature_HCM = torch.baddbmm(narrow_H1M, value_GHK[chunk].transpose(0, 1), narrow_HMK.transpose(1, 2))
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
    """P', padded with copies of its first row: those change no maximum, and their sums are cleared."""
    padding = -len(projection_MK) % _FEATURE_MULTIPLE
    padded = torch.cat([projection_MK, projection_MK[:1].expand(padding, -1)])
    return padded.to(dtype) * projection_MK.shape[1] ** -0.25


def _add_product(total_HMK: Tensor, left_HMC: Tensor, right_CHK: Tensor) -> None:
    """``total += left @ right``, in the type of ``total`` across chunks whatever the products run in."""
    right_HCK = right_CHK.transpose(0, 1)
    if total_HMK.dtype == right_HCK.dtype:
        total_HMK.baddbmm_(left_HMC, right_HCK)
    else:
        total_HMK += torch.bmm(left_HMC.to(right_HCK.dtype), right_HCK)


def _chunks(input_GHK: Tensor, features: int) -> Iterator[slice]:
    genes, heads = input_GHK.shape[:2]
    step = chunk_rows(genes, heads * features, input_GHK.device)
    return (slice(start, min(start + step, genes)) for start in range(0, genes, step))


@_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, projection: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    samples, genes, heads, width = query.shape
    wide = sum_dtype(query)
    features = projection.shape[0] + -projection.shape[0] % _FEATURE_MULTIPLE
    return (
        query.new_empty(samples, genes, heads, width),
        query.new_empty((samples, genes, heads), dtype=wide),
        query.new_empty((samples, heads, features, width), dtype=wide),
        query.new_empty((samples, heads, features), dtype=wide),
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
