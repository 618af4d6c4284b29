"""Out-of-fold predictions for pairs of a cell line and a target, method by method. N pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from dataprep.runtime.command_line import Settings
from dataprep.runtime.terminal import log
from evaluation.scores.folds import Folds
from evaluation.search.nested import Asked, FitPredict, Search

# What a search tries beside the value of a task's setting.
_TRIED: Mapping[str, Sequence[float]] = {
    "components": (10, 20, 100),
    "hidden": (32, 128),
    "decay": (0.01, 1.0, 30.0),
    "epochs": (30,),
}
NETWORK_SETTINGS = tuple(_TRIED)


class PairSettings(Settings):
    """What tasks on pairs of a cell line and a target share: tables of the lines, and what heads look at."""

    table: str | None = None
    cell_line_column: str = Field("sample_id", description="column of samples.parquet with the table's cell lines")
    features: str | None = Field(
        None, description="file of other features, cell lines x features, in place of profiles and embeddings"
    )
    components: int = Field(50, ge=1, description="principal components of features")
    hidden: int = Field(64, ge=2, description="width of the network's first layer; the second is half of it")
    epochs: int = Field(10, ge=1, description="of the network")
    decay: float = Field(10.0, ge=0, description="L2 penalty of the network")


@dataclass(frozen=True)
class Head:
    """A method, and the names of the task's settings that it looks at."""

    fit_predict: FitPredict
    looks_at: Sequence[str] = ()


def out_of_fold(
    search: Search, task: str, heads: Mapping[str, Head], folds: Folds, values: np.ndarray, settings: PairSettings
) -> dict[str, np.ndarray]:
    """Predictions of every pair, float64 [N], by methods that have not seen its fold; ``values`` [N] are the true ones.

    A search chooses what has the smallest error.
    """
    log(f"fitting {len(folds.parts)} folds of {len(heads)} methods: {', '.join(heads)}")

    def closeness(predicted: np.ndarray, rows: np.ndarray) -> float:
        return -float(np.mean((predicted - values[rows]) ** 2))

    asked = []
    for name, head in heads.items():
        space = {
            setting: list(dict.fromkeys((getattr(settings, setting), *_TRIED[setting]))) for setting in head.looks_at
        }
        asked.append(Asked(f"{task}: {name}", folds, space, head.fit_predict, closeness))
    outcomes = search.predictions_of_all(asked)
    return {name: outcome.predictions for name, outcome in zip(heads, outcomes, strict=True)}
