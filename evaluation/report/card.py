"""The part of a report about what a model is for, and what it is not for."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dataprep.inspection.page import Block, Paragraph, Preformatted, Section, missing
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder
from evaluation.report.material import Evaluation, TrainingRun, read_card

# What holds of every model of this project, whatever its card says.
_USE = (
    "Research on bulk RNA-seq of human samples: embeddings of profiles and genes, values of genes that a study did not "
    "measure. Input is log1p(TPM) in the model's own gene order; other units give numbers without meaning."
)
_LIMITS = (
    "Not for diagnosis, prognosis or treatment of patients.",
    "Scores hold for profiles like those that were scored: other tissues, platforms, preparations and organisms were "
    "not tried unless a task above says so. Intervals over few studies say little about the next study.",
    "A model may be no better than the simple methods beside it: the paired differences above say where it is.",
    "Expression profiles can identify people, and embeddings are made of them: they are as confidential as the data.",
)
_HEADING = re.compile(r"^#+\s*(.+?)\s*$", re.MULTILINE)
_WANTED = re.compile(r"intended|use\b|limit|licen[cs]e", re.IGNORECASE)


def card_section(runs: Sequence[TrainingRun], evaluations: Sequence[Evaluation]) -> Section:
    """Intended use and limits: what is true of all models here, then what the models' own cards say."""
    cards = {run.name: run.card for run in runs if run.card}
    for evaluation in evaluations:
        address = evaluation.about.get("bulkformer.model")
        if isinstance(address, str) and not any(address.startswith(run.origin) for run in runs):
            cards |= {address: card} if (card := _card_at(address)) else {}
    limits = [Paragraph(limit) for limit in _LIMITS]
    own: list[Block] = []
    for name, card in cards.items():
        own += [Paragraph(text) for text in _said_of_use(card)]
        own.append(Preformatted(f"Model card of {name}", card))
    if not cards:
        own = [missing("no model card could be read: the export has none, or is out of reach.")]
    return Section(
        "Intended use and limits",
        [],
        [Section("Intended use", [Paragraph(_USE)]), Section("Limits", limits), Section("Model card", own)],
    )


def _card_at(address: str) -> str:
    try:
        return read_card(Folder(address))
    except UserError:
        return ""


def _said_of_use(card: str) -> list[str]:
    """The paragraphs of a card under headings about use, limits and licence."""
    parts = _HEADING.split(card)
    chosen = [
        text for heading, text in zip(parts[1::2], parts[2::2], strict=True) if _WANTED.search(heading) and text.strip()
    ]
    return [" ".join(paragraph.split()) for text in chosen for paragraph in re.split(r"\n\s*\n", text.strip())]
