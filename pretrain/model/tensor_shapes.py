"""What the names and shapes of a model's tensors say about it, before anything is built."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dataprep.runtime.command_line import UserError
from pretrain.shape import ModelShape

_FEATURES = "layers.0.0.fn.fast_attention.projection_matrix"


def infer_shape(tensors: Mapping[str, Tensor], heads: int | None = None) -> ModelShape:
    """Sizes of a released checkpoint of any family from its tensors' shapes.

    Raises UserError for other tensors, and where ``heads`` is given and not what the random features say.
    """
    return _latest(tensors, heads) if "gene_embedding.weight" in tensors else _original(tensors, heads)


def _original(tensors: Mapping[str, Tensor], heads: int | None) -> ModelShape:
    learned = "gene_emb_onehot_layer.weight" in tensors
    table = _tensor(tensors, "gene_emb_onehot_layer.weight" if learned else "gene_emb.weight")
    norm = _tensor(tensors, "layernorm.weight")
    features = _tensor(tensors, f"gb_formers.0.f.0.net.{_FEATURES}")
    _require_dimensions({"gene table": (table, 2), "norm": (norm, 1), "random features": (features, 2)})
    return ModelShape(
        genes=table.shape[0],
        dim=len(norm),
        performer_layers=_count(tensors, "gb_formers.0.f."),
        heads=_heads(len(norm), features, heads),
        blocks=_count(tensors, "gb_formers."),
        gene_identity="learned" if learned else "esm2",
        **({} if learned else {"identity_width": table.shape[1]}),
    )


def _latest(tensors: Mapping[str, Tensor], heads: int | None) -> ModelShape:
    table = _tensor(tensors, "gene_embedding.weight")
    bottleneck = _tensor(tensors, "graph_block.input_projection.weight")
    features = _tensor(tensors, f"performer.net.{_FEATURES}")
    _require_dimensions({"gene table": (table, 2), "bottleneck": (bottleneck, 2), "random features": (features, 2)})
    genes, dim = table.shape
    return ModelShape(
        family="latest",
        genes=genes,
        dim=dim,
        performer_layers=_count(tensors, "performer.net.layers."),
        heads=_heads(dim, features, heads),
        features_per_head=features.shape[0],
        graph_width=bottleneck.shape[0],
    )


def _tensor(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise UserError(f"not a BulkFormer checkpoint: it has no tensor {name!r}")
    return tensors[name]


def _require_dimensions(tensors: Mapping[str, tuple[Tensor, int]]) -> None:
    if any(tensor.ndim != dimensions or 0 in tensor.shape for tensor, dimensions in tensors.values()):
        *names, last = tensors
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor, _ in tensors.values())
        raise UserError(f"not a BulkFormer checkpoint: {', '.join(names)} and {last} have shapes {shapes}")


def _heads(dim: int, features: Tensor, wanted: int | None) -> int:
    found, rest = divmod(dim, features.shape[1])
    if rest:
        raise UserError(
            f"not a BulkFormer checkpoint: its width {dim} is not a multiple of its heads' {features.shape[1]}"
        )
    if wanted not in (None, found):
        raise UserError(
            f"width {dim} is not {wanted} heads of {features.shape[1]}: give --heads {found}, or leave it out"
        )
    return found


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).partition(".")[0] for name in tensors if name.startswith(prefix)})
