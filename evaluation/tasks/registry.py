"""All tasks by name: those of this folder and those of plugins, and the settings of ``evaluation run`` with theirs."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

from pydantic import Field, create_model, field_validator, model_validator

import evaluation.tasks
from dataprep.runtime.command_line import refuse_without_effect
from dataprep.runtime.plugins import load_named_plugins
from evaluation.config import RunSettings
from evaluation.tasks.task import SHARED_SETTINGS, Task

T = TypeVar("T", bound=type[Task[Any]])

_tasks: dict[str, type[Task[Any]]] = {}

# Names of tasks that people may look for, and why there is none.
_WITHDRAWN = dict.fromkeys(
    ("perturbation", "compound_perturbation", "lincs"),
    "the authors withdrew compound perturbation in 2025-12: LINCS measures 978 genes with beads (L1000) and infers the "
    "others, which is not RNA-seq, and a model of bulk RNA-seq must not be scored on it",
)


def register_task(task: T) -> T:
    """Make a task known by its name; a decorator of its class. Raises ValueError for a name that cannot be had."""
    if not task.__module__.startswith(f"{evaluation.tasks.__name__}."):
        # a plugin comes after our own, so that it is the plugin that is told
        tasks()
    known = _tasks.get(task.name)
    if known is not None and (known.__module__, known.__qualname__) != (task.__module__, task.__qualname__):
        raise ValueError(f"two tasks are named {task.name!r}: {known.__module__} and {task.__module__}")
    if not task.name.isidentifier() or task.name in RunSettings.model_fields:
        raise ValueError(f"{task.name!r} cannot name a task: it is not a plain word or is a setting of the command")
    _tasks[task.name] = task
    return task


def tasks() -> dict[str, type[Task[Any]]]:
    """Every task that is known, by name."""
    for module in pkgutil.iter_modules(evaluation.tasks.__path__, f"{evaluation.tasks.__name__}."):
        importlib.import_module(module.name)
    return dict(_tasks)


def run_settings(arguments: Sequence[str]) -> type[RunSettings]:
    """Settings of the command with those of every task, also of the plugins that ``arguments`` name."""
    load_named_plugins(arguments)
    known = tasks()
    groups: dict[str, Any] = {
        name: (task.settings_type, Field(task.settings_type(), description=_first_line(task.settings_type)))
        for name, task in sorted(known.items())
    }
    one: Any = Literal[tuple(sorted(known))]
    default = RunSettings.model_fields["tasks"]
    groups["tasks"] = (list[one], Field(default.default, min_length=1, description=default.description))
    checks: dict[str, Any] = {
        "refuse_withdrawn": field_validator("tasks", mode="before")(_refuse_withdrawn),
        "refuse_of_other_tasks": model_validator(mode="after")(_refuse_of_other_tasks),
    }
    return create_model(
        "RunSettings", __base__=RunSettings, __doc__=RunSettings.__doc__, __validators__=checks, **groups
    )


def _refuse_withdrawn(names: object) -> object:
    for name in names if isinstance(names, list) else []:
        if name in _WITHDRAWN and name not in _tasks:
            raise ValueError(f"there is no task {name!r}: {_WITHDRAWN[name]}")
    return names


def _refuse_of_other_tasks(settings: RunSettings) -> RunSettings:
    """Refuse settings that only tasks look at which are not asked for.

    Not so whole groups, which say by their names whose they are: one file may serve several evaluations.
    """
    used = {setting for name in settings.tasks for setting in _tasks[name].uses}
    unused = [name for name in SHARED_SETTINGS if name not in used]
    refuse_without_effect(settings, unused, f"with --tasks {','.join(settings.tasks)}")
    return settings


def _first_line(settings: type) -> str:
    return (settings.__doc__ or settings.__name__).strip().splitlines()[0].rstrip(".")
