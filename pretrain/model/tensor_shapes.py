"""What the names and shapes of a model's tensors say about it, before anything is built."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dataprep.runtime.command_line import UserError
from pretrain.shape import ModelShape


def infer_shape(tensors: Mapping[str, Tensor], heads: int | None = None) -> ModelShape:
    """Sizes of a released checkpoint from its tensors' shapes.

    Raises UserError for other tensors, and where ``heads`` is given and not what the random features say.
    """
    learned = "gene_emb_onehot_layer.weight" in tensors
    try:
        table = tensors["gene_emb_onehot_layer.weight" if learned else "gene_emb.weight"]
        norm = tensors["layernorm.weight"]
        features = tensors["gb_formers.0.f.0.net.layers.0.0.fn.fast_attention.projection_matrix"]
    except KeyError as error:
        raise UserError(f"not a BulkFormer checkpoint: it has no tensor {error}") from None
    shapes = [tuple(tensor.shape) for tensor in (table, norm, features)]
    if [len(shape) for shape in shapes] != [2, 1, 2] or 0 in features.shape:
        raise UserError(
            "not a BulkFormer checkpoint: gene table, norm and random features have shapes "
            f"{', '.join(map(str, shapes))}"
        )
    dim = len(norm)
    found, rest = divmod(dim, features.shape[1])
    if rest:
        raise UserError(
            f"not a BulkFormer checkpoint: its width {dim} is not a multiple of its heads' {features.shape[1]}"
        )
    if heads not in (None, found):
        raise UserError(
            f"width {dim} is not {heads} heads of {features.shape[1]}: give --heads {found}, or leave it out"
        )
    return ModelShape(
        genes=table.shape[0],
        dim=dim,
        performer_layers=_count(tensors, "gb_formers.0.f."),
        heads=found,
        blocks=_count(tensors, "gb_formers."),
        gene_identity="learned" if learned else "esm2",
        **({} if learned else {"identity_width": table.shape[1]}),
    )


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    numbers = {name.removeprefix(prefix).partition(".")[0] for name in tensors if name.startswith(prefix)}
    return len(numbers)
