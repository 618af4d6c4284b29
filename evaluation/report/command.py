"""``evaluation report``: one page about runs, evaluations, scaling laws and embeddings, whichever there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dataprep.corpus import Corpus, open_corpus
from dataprep.inspection.page import (
    Facts,
    Page,
    Section,
    Table,
    failed,
    missing,
    require_replaceable_page,
    shown,
    write_page,
)
from dataprep.runtime.terminal import log, write_result
from evaluation.config import ReportSettings
from evaluation.report.card import card_section
from evaluation.report.embedding_map import embedding_section
from evaluation.report.material import (
    Evaluation,
    Material,
    corpus_of,
    merged,
    read_evaluation,
    read_run,
    read_scaling,
)
from evaluation.report.scaling import scaling_section
from evaluation.report.tasks import evaluation_section
from evaluation.report.training import training_section

# Where the audit of a task says in words what it found.
_AUDIT = "leak_audit"


def report(settings: ReportSettings) -> dict[str, Any]:
    """Write the page; returns what ``--json`` prints."""
    require_replaceable_page(settings.output)
    material = gather(settings)
    page = compose(material, settings)
    write_page(settings.output, page)
    write_result(f"report: {settings.output}")
    return {"output": settings.output, "runs": len(material.runs), "evaluations": len(material.evaluations)}


def gather(settings: ReportSettings) -> Material:
    """Read all that was named. Raises UserError for what does not exist or is something else."""
    parts = [
        Material(
            [read_run(address) for address in settings.run],
            [read_evaluation(address) for address in settings.results],
            [read_scaling(settings.scaling)] if settings.scaling else [],
        )
    ]
    if settings.experiment:
        # MLflow's client takes a second to import, and files do without it
        from evaluation.report.tracked import read_experiment

        parts += [read_experiment(name, settings.newest) for name in settings.experiment]
    return merged(parts)


def compose(material: Material, settings: ReportSettings) -> Page:
    for failure in material.failures:
        log(failure)
    corpus = _corpus(material, settings)
    sections = [
        *(
            [Section("What failed", [failed(f"{failure}.") for failure in material.failures])]
            if material.failures
            else []
        ),
        training_section(material.runs),
        evaluation_section(material.evaluations),
        audit_section(material.evaluations),
        scaling_section(material.scaling),
        embedding_section(settings.embeddings, corpus, settings.label, settings.seed),
        card_section(material.runs, material.evaluations),
    ]
    sources = [
        *(run.origin for run in material.runs),
        *(evaluation.origin for evaluation in material.evaluations),
        *(fit.origin for fit in material.scaling),
    ]
    return Page(settings.title, _summary(material), sections, sources)


def _summary(material: Material) -> list[str]:
    """What a reader should know who reads no further."""
    said = [f"Run {run.name}: {run.problem or run.status}." for run in material.runs]
    for evaluation in material.evaluations:
        said += [f"{result.title}: {result.verdict.rstrip('.')}." for result in evaluation.results if result.verdict]
    if not material.evaluations:
        said.append("Nothing here says how good a model is: no evaluation was given.")
    return [(sentence[:1].upper() + sentence[1:]).replace(" -> ", " → ") for sentence in said]


def audit_section(evaluations: Sequence[Evaluation]) -> Section:
    """Whether profiles that were scored may have been seen in training, as far as an evaluation looked for that."""
    tasks = [task for evaluation in evaluations for task in evaluation.results]
    said = {task.title: task.facts[_AUDIT] for task in tasks if _AUDIT in task.facts}
    title = "Leak audit"
    if not said:
        return Section(title, [missing("no evaluation given here looked for profiles both scored and trained on.")])
    tables = []
    for task in tasks:
        if task.audit:
            columns = list(task.audit[0])
            rows = [[shown(row.get(column)) for column in columns] for row in task.audit]
            caption = f"{task.title}: scored profiles that the model was trained on"
            tables.append(Table(caption, [column.replace("_", " ") for column in columns], rows))
    return Section(title, [Facts(said), *tables])


def _corpus(material: Material, settings: ReportSettings) -> Corpus | None:
    """Where labels and studies of embedded profiles are: the corpus named, or else that of the evaluation or run."""
    if settings.corpus is not None:
        return open_corpus(settings.corpus)
    if settings.embeddings is None:
        return None
    named = [evaluation.about.get("bulkformer.corpus") for evaluation in material.evaluations]
    named += [run.settings.get("corpus") for run in material.runs]
    return next((corpus for corpus, _ in map(corpus_of, named) if corpus is not None), None)
