"""What an evaluation is given to search with, and its MLflow run, for as long as it lasts."""

from __future__ import annotations

import importlib.util
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from dataprep.runtime.command_line import UserError
from dataprep.runtime.terminal import log
from evaluation.config import RunSettings
from evaluation.search.mlflow_trials import EvaluationRun
from evaluation.search.nested import FixedSettings, Search
from evaluation.search.search_state import default_storage, evaluation_folder, evaluation_uid
from evaluation.tracking.mlflow_results import failing_with


@contextmanager
def searched(
    settings: RunSettings, name: str, tags: Mapping[str, str], inputs: Callable[[], Mapping[str, str]]
) -> Iterator[tuple[Search, EvaluationRun]]:
    """The search that the settings ask for, and the run ``name``, which ends as failed if the evaluation does.

    ``tags``: addresses and digests of what is scored; ``inputs``: makes further digests, which only a search needs.
    Raises UserError where the search's state cannot be kept.
    """
    if not settings.search.trials:
        tracked = _tracked(settings, name, tags, uuid.uuid4().hex)
        with failing_with(tracked):
            yield FixedSettings(), tracked
        return
    if importlib.util.find_spec("optuna") is None:
        raise UserError("--search.trials needs Optuna: pip install 'bulkformer-ray[evaluation]'")
    # takes seconds, and fixed settings do without Ray
    from evaluation.search.tune_search import Rules, TuneSearch

    rules = Rules(
        settings.search.trials,
        settings.search.inner_folds,
        settings.seed,
        settings.search.concurrency,
        settings.plugins,
    )
    storage = settings.search.storage or default_storage(settings.output)
    folder = evaluation_folder(storage, settings.resolved(), {**tags, **inputs()})
    tracked = _tracked(settings, name, tags, evaluation_uid(folder))
    log(f"searching settings, {rules.trials} trials for each method; the same command goes on from {folder.uri}")
    with failing_with(tracked), TuneSearch(rules, folder, tracked) as search:
        yield search, tracked


def _tracked(settings: RunSettings, name: str, tags: Mapping[str, str], uid: str) -> EvaluationRun:
    return EvaluationRun(settings.tracking.experiment, name, settings.resolved(), tags, uid)
