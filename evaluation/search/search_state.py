"""What a search has done, a file for each trial, so that the same command repeated goes on from there."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dataprep.runtime.storage import Folder
from evaluation.scores.folds import Folds
from evaluation.search.nested import Choice, FitPredict, RowScore, Space

_PACKAGE = Path(__file__).parents[1]

# Outer and inner fold.
Place = tuple[int, int]


@dataclass
class TrialRecord:
    """One choice, and its inner scores by outer and inner fold, as far as they are known; NaN: not defined."""

    choice: Choice
    scores: dict[Place, float] = field(default_factory=dict)
    seconds: float = 0.0

    def to_json(self) -> str:
        scores = [[*place, score if math.isfinite(score) else None] for place, score in sorted(self.scores.items())]
        return json.dumps({"choice": dict(self.choice), "scores": scores, "seconds": self.seconds}) + "\n"

    def mean_score(self) -> float:
        """Of the scores that are defined; NaN without any."""
        defined = [score for score in self.scores.values() if math.isfinite(score)]
        return float(np.mean(defined)) if defined else float("nan")

    @classmethod
    def from_json(cls, text: str) -> TrialRecord:
        content = json.loads(text)
        scores = {(k, i): float("nan") if score is None else score for k, i, score in content["scores"]}
        return cls(content["choice"], scores, content["seconds"])


class SearchState:
    """The records of one search in its folder. Whole files are replaced, so a kill leaves none half-written."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._names = set(folder.files())

    def read(self, number: int, choice: Choice) -> TrialRecord:
        """What is known of a trial; nothing, where none of this choice was stored."""
        name = _file(number)
        if name in self._names:
            record = TrialRecord.from_json(self._folder.read_text(name))
            if json.dumps(record.choice) == json.dumps(dict(choice)):
                return record
        return TrialRecord(choice)

    def store(self, number: int, record: TrialRecord) -> None:
        self._folder.write_text(_file(number), record.to_json())


def evaluation_folder(storage: str, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> Folder:
    """Where the searches of one evaluation are kept: named by its settings, its inputs' digests and this code.

    Left out is what changes no score: where results and states go, and how many trials run at a time.
    """
    decisive = {key: value for key, value in settings.items() if key not in ("output", "tracking")}
    decisive["search"] = {
        key: value for key, value in settings.get("search", {}).items() if key not in ("storage", "concurrency")
    }
    digest = _digest(json.dumps([decisive, dict(inputs)], sort_keys=True, default=str), _code())
    return Folder(storage) / digest


def default_storage(output: str | None) -> str:
    """Beside the results, or in the folder that the user's programs keep their state in."""
    if output:
        return f"{output.rpartition('.')[0]}.search"
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return f"{state}/bulkformer/search"


def evaluation_uid(folder: Folder) -> str:
    """What an evaluation is known by in MLflow, the same for as long as its folder exists."""
    name = "evaluation.json"
    folder.create(name, (json.dumps({"uid": uuid.uuid4().hex}) + "\n").encode())
    return str(json.loads(folder.read_text(name))["uid"])


def search_name(subject: str, folds: Folds, space: Space, fit_predict: FitPredict, score: RowScore) -> str:
    """The name of a search's folder: its subject, and a digest of all that its scores follow from.

    That is the space, the rows of the folds, the truth (arrays that ``score`` holds) and the file of the method.
    Features follow from settings and inputs of the evaluation; their last bits may differ between machines.
    """
    rows = [array for part in folds.parts for array in part]
    source = getattr(sys.modules[fit_predict.__module__], "__file__", None)
    code = Path(source).read_bytes() if source else b""
    text = json.dumps([subject, {name: list(values) for name, values in space.items()}], default=str)
    digest = _digest(text, code, *(np.ascontiguousarray(array) for array in rows), *_buffers(score))
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', subject)[:60].strip('-')}-{digest}"


def _buffers(function: Any) -> list[Any]:
    """The bytes of the arrays that a function holds."""
    # comes with Ray, and fixed settings do without it
    from ray import cloudpickle

    buffers: list[Any] = []
    cloudpickle.dumps(function, protocol=5, buffer_callback=buffers.append)
    return [buffer.raw() for buffer in buffers]


def _digest(text: str, *more: Any) -> str:
    digest = hashlib.sha256(text.encode())
    for content in more:
        digest.update(content)
    return digest.hexdigest()[:16]


def _code() -> bytes:
    """All Python files of the evaluation: a score of other code is not continued."""
    return b"".join(path.read_bytes() for path in sorted(_PACKAGE.rglob("*.py")))


def _file(number: int) -> str:
    return f"trial-{number:04d}.json"
