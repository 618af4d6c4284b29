"""ESM2 through transformers: sequences to means over residues.

transformers and torch are imported where they are used: they take seconds, and the other commands do without them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dataprep.runtime.command_line import UserError


def embedding_width(model: str) -> int:
    """The width of a model's embeddings. Raises :class:`UserError` where transformers or the model cannot be had."""
    try:
        from transformers import AutoConfig
    except ImportError:
        raise UserError(
            "dataprep proteins needs transformers: pip install 'bulkformer-ray[proteins]'", exit_code=2
        ) from None
    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{_reason_for(model)}: {_first_line(error)}") from None
    if config.model_type != "esm":
        raise UserError(f"{model} is a model of the kind {config.model_type!r}, not esm")
    if Path(model).is_dir() and not any(Path(model).glob("*.safetensors")):
        raise UserError(f"{model} has no weights as safetensors; others would have to be unpickled")
    return int(config.hidden_size)


class ProteinEmbedder:
    """An actor with a model of its own, on a GPU where it has one. Weights are read from safetensors alone."""

    def __init__(self, model: str, max_residues: int, threads: int) -> None:
        import torch
        from transformers import AutoTokenizer, EsmModel

        torch.set_num_threads(threads)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._max_residues = max_residues
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
            loaded = EsmModel.from_pretrained(model, use_safetensors=True, add_pooling_layer=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{_reason_for(model)}: {_first_line(error)}") from None
        self._model: Any = loaded.eval()
        self._model.to(self._device)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Columns ``gene`` and ``values``, float32 bytes, of the sequences of each entry."""
        genes, values = [], []
        for entry in batch.to_pylist():
            genes += entry["genes"]
            values += [row.astype("<f4").tobytes() for row in self.means(entry["sequences"])]
        return pa.table({"gene": pa.array(genes, pa.int64()), "values": pa.array(values, pa.large_binary())})

    def means(self, sequences: Sequence[str]) -> np.ndarray:
        """Mean over all residues of each sequence, float32 [n, width]; long ones go through the model in pieces."""
        import torch

        pieces = [(number, piece) for number, text in enumerate(sequences) for piece in self._pieces(text)]
        tokens = self._tokenizer([piece for _, piece in pieces], padding=True, return_tensors="pt").to(self._device)
        with torch.inference_mode():
            hidden = self._model(**tokens).last_hidden_state.float().cpu().numpy()
        sums = np.zeros((len(sequences), hidden.shape[2]), np.float64)
        for (number, piece), states in zip(pieces, hidden, strict=True):
            # after the token that begins a sequence
            sums[number] += states[1 : 1 + len(piece)].sum(axis=0, dtype=np.float64)
        return (sums / np.array([[len(text)] for text in sequences])).astype(np.float32)

    def _pieces(self, sequence: str) -> Iterator[str]:
        for start in range(0, len(sequence), self._max_residues):
            yield sequence[start : start + self._max_residues]


def _reason_for(model: str) -> str:
    return f"{model} has no model of transformers" if Path(model).is_dir() else f"{model} cannot be had"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
