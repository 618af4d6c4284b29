"""Which profiles a model has seen in pretraining: by name, by person, by content, or nearly the same.

What a model was trained on is known by fingerprints in its export (:mod:`dataprep.corpus.train_profiles`). Where the
corpus that it was trained on is at its recorded address, profiles that look nearly the same are compared with those of
the train split, number by number; else the fingerprints alone have to say it. N profiles, G genes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dataprep.corpus import Corpus, iterate_rows, open_corpus
from dataprep.corpus.fingerprints import EQUAL_BANDS, Fingerprinter, near_pairs
from dataprep.corpus.subjects import subjects_of
from dataprep.corpus.train_profiles import TrainProfiles
from dataprep.runtime.command_line import UserError
from pretrain.model.export_file import ModelExport

# Correlation over the genes that both measure from which on two profiles are taken for the same sample.
NEAR = 0.999
# Candidates that are compared number by number may be many: nearly all pairs with r >= NEAR share so many bands.
_CANDIDATE_BANDS = 2
# Two profiles that hardly measure the same genes say nothing about each other.
_LEAST_SHARED_GENES = 0.5
# Names that archives give: the same one is the same sample, whatever the study is called.
_ARCHIVED = re.compile(r"^(GSM|[SED]RR|[SED]RS|SAM[NED]A?|EGAN|TCGA|GTEX)[-.\w]*\d", re.IGNORECASE)


@dataclass(frozen=True)
class Shared:
    """Boolean [N] each: found in pretraining by ``name``, by ``person``, by ``content``, or ``near``: over r = 0.999.

    ``confirmed``: whether near ones were compared number by number.
    """

    name: np.ndarray
    person: np.ndarray
    content: np.ndarray
    near: np.ndarray
    confirmed: bool

    @property
    def any(self) -> np.ndarray:
        return self.name | self.person | self.content | self.near

    def counts(self, rows: np.ndarray) -> dict[str, object]:
        """Of the profiles at positions ``rows``; plain data."""
        kinds = {"name": self.name, "person": self.person, "content": self.content, "near": self.near}
        found = {f"by_{kind}": int(mask[rows].sum()) for kind, mask in kinds.items()}
        return {"profiles": len(rows), **found, "shared": int(self.any[rows].sum()), "confirmed": self.confirmed}


@dataclass(frozen=True)
class TrainedOn:
    """What a model was trained on; ``corpus`` is None where it is not at its address or has changed."""

    profiles: TrainProfiles
    corpus: Corpus | None

    @classmethod
    def of_export(cls, export: ModelExport, at_hand: Corpus) -> TrainedOn | None:
        """``at_hand``: a corpus that is open already. None where the export carries no fingerprints."""
        profiles = export.train_profiles()
        if profiles is None:
            return None
        return cls(profiles, at_hand if at_hand.fingerprint == profiles.corpus else _recorded(export, profiles))

    def shared(self, samples: pa.Table, corpus: Corpus, expression_NG: np.ndarray) -> Shared:
        """Which of the samples (rows of the table of ``corpus``, with their expression, float16) have been seen."""
        train = self.profiles
        print_of = Fingerprinter(corpus.vocabulary).of(expression_NG)
        content = _members(print_of.content, train.fingerprints.content)
        open_rows = np.flatnonzero(~content)
        least = EQUAL_BANDS if self.corpus is None else _CANDIDATE_BANDS
        mine, theirs = near_pairs(print_of.sketch[open_rows], train.fingerprints.sketch, least)
        mine = open_rows[mine]
        if self.corpus is not None:
            close = _correlations(mine, theirs, corpus, expression_NG, self.corpus) >= NEAR
            mine = mine[close]
        near = np.isin(np.arange(len(expression_NG)), mine)
        return Shared(self._by_name(samples), self._by_person(samples), content, near, self.corpus is not None)

    def _by_name(self, samples: pa.Table) -> np.ndarray:
        """The same name in the same study, or in any study where it is an archive's."""
        train = set(zip(self.profiles.study_ids, self.profiles.sample_ids, strict=True))
        archived = {name for name in self.profiles.sample_ids if _ARCHIVED.match(name)}
        named = zip(samples.column("study_id").to_pylist(), samples.column("sample_id").to_pylist(), strict=True)
        return np.array([pair in train or pair[1] in archived for pair in named], dtype=bool)

    def _by_person(self, samples: pa.Table) -> np.ndarray:
        train = {subject for subject in self.profiles.subjects if subject is not None}
        return np.array([subject in train for subject in subjects_of(samples)], dtype=bool)


def described(counts: Mapping[str, object]) -> str:
    """In a few words, as in "of 300 profiles 5 were in pretraining by content"."""
    kinds = (("by_name", "by name"), ("by_person", "by person"), ("by_content", "by content"))
    found = [f"{counts[key]:,} {how}" for key, how in kinds if counts[key]]
    if counts["by_near"]:
        how = (
            "compared with the train split" if counts["confirmed"] else "by fingerprint; the train split is not at hand"
        )
        found.append(f"{counts['by_near']:,} nearly (r over {NEAR}, {how})")
    if not found:
        return f"none of {counts['profiles']:,} profiles was in pretraining by name, person, content or r over {NEAR}"
    return f"{counts['shared']:,} of {counts['profiles']:,} profiles were in pretraining: {', '.join(found)}"


def _recorded(export: ModelExport, profiles: TrainProfiles) -> Corpus | None:
    """The corpus at the address that the export records, if it is there and still that corpus."""
    settings = export.training.get("settings")
    address = settings.get("corpus") if isinstance(settings, dict) else None
    if not isinstance(address, str):
        return None
    try:
        corpus = open_corpus(address)
    except UserError:
        return None
    return corpus if corpus.fingerprint == profiles.corpus else None


def _members(content: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Boolean [N]: which digests are among those of train."""
    known = {row.tobytes() for row in train}
    return np.array([row.tobytes() in known for row in content], dtype=bool)


def _correlations(
    mine: np.ndarray, theirs: np.ndarray, corpus: Corpus, expression_NG: np.ndarray, trained_on: Corpus
) -> np.ndarray:
    """Pearson's r of profiles at positions ``mine`` with train profiles ``theirs`` over the genes that both measure.

    Train profiles are read one row group at a time; row ids of a corpus begin with its train split.
    """
    own, other = corpus.vocabulary, trained_on.vocabulary
    pairs = [(column, other.column_of[gene]) for gene, column in own.column_of.items() if gene in other.column_of]
    own_columns, other_columns = np.array(pairs, np.int64).reshape(-1, 2).T
    found = np.full(len(mine), -1.0)
    for row_ids, values in iterate_rows(trained_on, np.unique(theirs)):
        for pair in np.flatnonzero(np.isin(theirs, row_ids)):
            seen = values[np.searchsorted(row_ids, theirs[pair])][other_columns].astype(np.float64)
            ours = expression_NG[mine[pair]][own_columns].astype(np.float64)
            both = np.isfinite(seen) & np.isfinite(ours)
            if both.sum() >= _LEAST_SHARED_GENES * corpus.genes and seen[both].std() and ours[both].std():
                found[pair] = np.corrcoef(seen[both], ours[both])[0, 1]
    return found
