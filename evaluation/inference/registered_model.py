"""The code of a registered model, which MLflow runs when it loads one: no pickle, the weights are those of the export.

``mlflow.pyfunc.load_model("models:/NAME@best").predict(frame)`` takes log1p(TPM), samples in rows, genes in columns by
Ensembl id or symbol, and returns a frame with the same rows: embeddings, or with ``params={"output": "expression"}``
expression of every gene. This package has to be installed where it is loaded.
"""

from __future__ import annotations

from typing import Any

import mlflow
import mlflow.pyfunc
import numpy as np
import pandas as pd

from dataprep.genes.identifiers import strip_version
from dataprep.runtime.command_line import UserError
from evaluation.inference.embedder import Embedder

# Of the model's genes: with fewer of them a frame cannot be what the model was trained on.
_LEAST_SHARE_OF_GENES = 0.5
# ln(10^6 + 1), all of a profile in one gene, and what rounding adds: larger values are no log1p(TPM).
_LARGEST = 13.9


class ExpressionModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined]
    """An export as MLflow calls it."""

    def load_context(self, context: Any) -> None:
        """Open the export among the files of the registered version."""
        self.embedder = Embedder.open(context.artifacts["export"], "reference", "fp32").load()

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Raises UserError where names of genes, values or parameters are not what they should be."""
        chosen = {"output": "embedding", "pooling": "mean", **(params or {})}
        if chosen["output"] not in ("embedding", "expression"):
            raise UserError(f"output is embedding or expression, not {chosen['output']!r}")
        expression = aligned(model_input, self.embedder)
        size = self.embedder.batch_size
        parts = [
            self.embedder.embed_samples(expression[start : start + size], chosen["pooling"])
            if chosen["output"] == "embedding"
            else self.embedder.reconstruct(expression[start : start + size])
            for start in range(0, len(expression), size)
        ]
        names = self.embedder.vocabulary.ensembl_ids if chosen["output"] == "expression" else None
        return pd.DataFrame(np.concatenate(parts), index=model_input.index, columns=names)


def aligned(frame: pd.DataFrame, embedder: Embedder) -> np.ndarray:
    """float32 N x G over the model's genes, NaN for those that the frame has not. Columns of no gene are left out."""
    vocabulary = embedder.vocabulary
    if not len(frame):
        raise UserError("the frame has no rows")
    ids = [strip_version(str(name)) if str(name).startswith("ENSG") else str(name) for name in frame.columns]
    columns = np.array([vocabulary.column_of.get(vocabulary.gene_of_symbol.get(name, name), -1) for name in ids])
    known = columns >= 0
    if len(np.unique(columns[known])) < known.sum():
        raise UserError(f"the frame names {known.sum() - len(np.unique(columns[known])):,} genes twice")
    if known.sum() < _LEAST_SHARE_OF_GENES * vocabulary.size:
        raise UserError(
            f"the frame has {known.sum():,} of the model's {vocabulary.size:,} genes among its {len(ids):,} columns, "
            f"e.g. {', '.join(ids[:3])}: genes are columns, by Ensembl id or symbol, and half are needed"
        )
    values = np.full((len(frame), vocabulary.size), np.nan, np.float32)
    values[:, columns[known]] = frame.to_numpy(np.float32)[:, known]
    wrong = np.isinf(values) | (values < 0) | (values > _LARGEST)
    if wrong.any():
        raise UserError(f"{wrong.sum():,} values are no log1p(TPM) (0 to {_LARGEST}), e.g. {values[wrong][0]:g}")
    return values


mlflow.models.set_model(ExpressionModel())
