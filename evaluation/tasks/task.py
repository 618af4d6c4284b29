"""What a downstream task is: a name, settings, what it needs, and how it scores.

docs/extending.md shows a whole task. Modules of this folder are imported for ``--help``, so they import torch and
scikit-learn only where they work with them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Generic, TypeVar

import numpy as np

from dataprep.runtime.command_line import Settings, UserError
from evaluation.inference.gene_embeddings import GenesOfProfiles
from evaluation.scores.results import TaskResult
from evaluation.tasks.context import TaskContext
from pretrain.config import Pooling

S = TypeVar("S", bound=Settings)

# Settings of the command that some tasks look at and others do not.
SHARED_SETTINGS = ("split", "label")


class NotApplicableError(UserError):
    """The corpus has nothing that the task could be scored on: it is left out where other tasks are asked for, too."""


@dataclass(frozen=True)
class Needs:
    """Row ids of the profiles that a task asks its context for.

    The context reads and embeds what all tasks need together, once; only what was named here can be asked for.
    ``gene_embeddings``: of single genes, which are as large as the numbers of profiles, genes and width multiplied.
    """

    expression: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    embeddings: Mapping[Pooling, np.ndarray] = field(default_factory=dict)
    gene_embeddings: GenesOfProfiles = field(default_factory=GenesOfProfiles)


class Task(ABC, Generic[S]):
    """One downstream task. An object is one evaluation: it is made, prepared once and scored once.

    ``name`` selects it (``--tasks NAME``) and stands before its settings (``--NAME.setting``); ``settings_type`` is
    their model, with a default for every setting and a first docstring line for ``--help``. ``uses`` names the settings
    of the command that it looks at, of those that not every task does: given without such a task, they are refused.
    ``files`` names those of its own settings that are addresses of files, which MLflow shows as inputs.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[Settings]]
    uses: ClassVar[Sequence[str]] = SHARED_SETTINGS
    files: ClassVar[Sequence[str]] = ()

    def __init__(self, context: TaskContext, settings: S) -> None:
        self.context = context
        self.settings = settings

    @abstractmethod
    def prepare(self) -> Needs:
        """Choose what is scored, from the table of samples and other tables alone, and say what it takes.

        All tasks are prepared before anything slow begins. Raises UserError for what the user can mend, and
        :class:`NotApplicableError` where there is nothing to score.
        """

    @abstractmethod
    def score(self) -> Sequence[TaskResult]:
        """Scores of the model and of its baselines, with ``baselines`` of each result naming the latter.

        Both go through the same steps: folds, masks and reductions are those of the task, not of the method.
        """
