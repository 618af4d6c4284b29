"""Tensors in ``.pt`` files of strangers, read without running anything that they hold."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataprep.corpus import GeneGraph
from dataprep.runtime.command_line import UserError, one_line

# nn.DataParallel and DistributedDataParallel put this before every name
_PARALLEL_PREFIX = "module."


def load_plain(path: Path) -> Any:
    """Tensors and plain values of a ``.pt`` file; ``weights_only`` refuses pickles that would run code."""
    if not path.is_file():
        raise UserError(f"no such file: {path}", exit_code=2)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # torch's own message says how to run the code that the file may hold
        raise UserError(f"{path} is not a plain tensor file: it is no pickle, or holds more than tensors") from None
    except (RuntimeError, EOFError, ValueError) as error:
        reason = one_line(error)[:200]
        raise UserError(f"{path} is not a plain tensor file: {reason}") from None


def as_state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict. Raises UserError for anything else, and for tensors that are no weights."""
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise UserError(f"{path} is not a state dict: a mapping of names to tensors")
    unfit = [name for name, tensor in content.items() if not _is_plain(tensor) or not tensor.isfinite().all()]
    if unfit:
        raise UserError(
            f"{path}: {len(unfit):,} of {len(content):,} tensors are sparse, quantised or complex, or hold NaN or "
            f"infinite numbers, e.g. {', '.join(unfit[:3])}"
        )
    return {name.removeprefix(_PARALLEL_PREFIX): tensor for name, tensor in content.items()}


def read_graph(edges: Path, weights: Path, rows: tuple[str, str], genes: int, fingerprint: str) -> GeneGraph:
    """A graph of an edge index 2 x E, whose ``rows`` are source and target in either order, and E weights."""
    index, weight = load_plain(edges), load_plain(weights)
    if not _is_plain(index) or index.ndim != 2 or index.shape[0] != 2:
        raise UserError(f"{edges} is not an edge index of shape 2 x E")
    if not _is_plain(weight) or weight.numel() != index.shape[1]:
        raise UserError(f"{weights} does not hold one weight for each of {index.shape[1]} edges")
    # NaN is not inside either
    outside = int((~((index >= 0) & (index < genes))).any(dim=0).sum())
    if outside:
        raise UserError(f"{edges}: {outside} of {index.shape[1]} edges name genes beyond the {genes} of the model")
    ends = dict(zip(rows, index.to(torch.int32).numpy(), strict=True))
    return GeneGraph(
        source=np.ascontiguousarray(ends["source"]),
        target=np.ascontiguousarray(ends["target"]),
        weight=weight.flatten().float().numpy(),
        vocabulary_sha256=fingerprint,
        origin={"imported_from": edges.name},
    )


def save_graph(graph: GeneGraph, edges: Path, weights: Path, rows: tuple[str, str]) -> None:
    """The inverse of :func:`read_graph`."""
    ends = {"source": graph.source, "target": graph.target}
    torch.save(torch.from_numpy(np.stack([ends[row] for row in rows]).astype(np.int64)), edges)
    torch.save(torch.from_numpy(graph.weight.copy()), weights)


def sharing_again(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, of which those that performer-pytorch saves under two names are one again, as in a release.

    An export holds both; torch would write both.
    """
    shared = dict(tensors)
    for name, tensor in tensors.items():
        first = tensors.get(name.replace("proj_updater.instance.", "net."))
        if first is not None and torch.equal(first, tensor):
            shared[name] = first
    return shared


def _is_plain(value: Any) -> bool:
    """Whether a value is a tensor of numbers, each of which it holds."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not value.is_quantized
        and not value.is_complex()
    )
