"""A scored model in MLflow's registry, with its scores, and the alias ``best`` on the version that scored best."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder
from dataprep.runtime.terminal import log
from evaluation.config import MODEL
from evaluation.scores.results import TaskResult
from evaluation.tracking.mlflow_results import metric_values
from pretrain.monitoring.mlflow_run import reason_of

BEST = "best"
_CODE = "evaluation.inference.registered_model"
_MAIN, _VALUE, _CORPUS = "main_score", "main_value", "bulkformer.corpus_sha256"


def register(name: str, run_id: str, export: Folder, tags: Mapping[str, str], results: Sequence[TaskResult]) -> str:
    """Register the export as a new version of ``name``, from the run that scored it; returns its number.

    Its tags are ``tags`` and all scores. The alias ``best`` moves to it if there is none yet, or its main score is
    better than that of the version that has it: that which decides the first task that has one, on the same corpus.
    """
    # MLflow takes a second to import
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ParamSchema, ParamSpec

    spec = importlib.util.find_spec(_CODE)
    assert spec is not None
    assert spec.origin is not None
    signature = ModelSignature(
        params=ParamSchema([ParamSpec("output", "string", "embedding"), ParamSpec("pooling", "string", "mean")])
    )
    with tempfile.TemporaryDirectory(prefix="registered-") as scratch:
        place = _local(export, Path(scratch))
        with mlflow.start_run(run_id=run_id):
            made = mlflow.pyfunc.log_model(
                name="model",
                python_model=spec.origin,
                artifacts={"export": str(place)},
                registered_model_name=name,
                signature=signature,
                # else MLflow loads the model once more to guess them
                pip_requirements=["bulkformer-ray"],
            )
    version, client = str(made.registered_model_version), mlflow.MlflowClient()
    main = _main_score(results)
    values = {**tags, **{f"score/{key}": f"{value:.6g}" for key, value in metric_values(results).items()}}
    if main is not None:
        values |= {_MAIN: main[0], _VALUE: repr(main[1])}
    for key, value in values.items():
        client.set_model_version_tag(name, version, key, value)
    _move_best(client, name, version, values, main)
    return version


def try_to_register(
    name: str, run_id: str, export: Folder, tags: Mapping[str, str], results: Sequence[TaskResult]
) -> None:
    """As :func:`register`; a server that does not take the model costs a line, not the results."""
    from mlflow.exceptions import MlflowException  # takes a second

    try:
        version = register(name, run_id, export, tags, results)
        log(f"MLflow: registered as {name}, version {version}")
    except (MlflowException, OSError, UserError) as error:
        log(f"MLflow did not take the model ({reason_of(error)}); its scores are kept")


def _move_best(
    client: Any, name: str, version: str, tags: Mapping[str, str], main: tuple[str, float, bool] | None
) -> None:
    held = client.get_registered_model(name).aliases.get(BEST)
    if held is not None:
        best = client.get_model_version(name, held).tags
        if main is None or best.get(_MAIN) != main[0] or best.get(_CORPUS) != tags.get(_CORPUS):
            log(f"{name}: version {held} stays {BEST}: it was scored on another task or corpus")
            return
        theirs = float(best[_VALUE])
        better = main[1] > theirs if main[2] else main[1] < theirs
        if not better:
            log(f"{name}: version {held} stays {BEST}: {main[0]} {theirs:.4g}; version {version} has {main[1]:.4g}")
            return
    client.set_registered_model_alias(name, BEST, version)
    said = f", by {main[0]}, {main[1]:.4g}" if main is not None else ""
    log(f"{name}: version {version} is {BEST}{said}")


def _main_score(results: Sequence[TaskResult]) -> tuple[str, float, bool] | None:
    """Name and value of the score that decides, and whether higher is better."""
    for result in results:
        for score in result.scores:
            if score.metric == result.judged_by and score.method.startswith(MODEL):
                parts = (result.task, result.subject, score.method, score.metric)
                return "/".join(part for part in parts if part), score.interval.value, result.higher_is_better
    return None


def _local(export: Folder, scratch: Path) -> Path:
    """The export on this machine: MLflow uploads files."""
    if export.is_local:
        return Path(export.path)
    for name in export.children():
        (scratch / name).write_bytes(export.read_bytes(name))
    return scratch
