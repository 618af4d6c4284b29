"""The version of a corpus that a growth adds to: what it holds, and what it must have in common with what is added."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dataprep.config import BuildSettings
from dataprep.corpus import MANIFEST_FILE, SAMPLE_COLUMNS, SPLITS, Corpus, Shard, iterate_row_groups, open_corpus
from dataprep.genes.vocabulary import GeneVocabulary
from dataprep.pipeline.listing import LABEL
from dataprep.pipeline.near_duplicates import DIRECTIONS, sketch
from dataprep.pipeline.restart.profile_parts import profile_digest
from dataprep.runtime.command_line import UserError
from dataprep.runtime.ray_session import results_of
from dataprep.runtime.storage import Folder

# Settings of a build that say where things are and how the work is cut; the vocabulary is compared by its content.
_MAY_DIFFER = (
    *("corpus", "root", "sources", "vocabulary", "tpm_over", "split", "overwrite", "grow"),
    *("shard_bytes", "samples_per_task"),
)
_OF_A_SOURCE_MAY_DIFFER = ("path", "samples", "exclude_samples")
_OF_SPLITS_MAY_DIFFER = ("validation", "test")


@dataclass(frozen=True)
class Earlier:
    """A version of a corpus with N profiles. ``samples``: a row for each, by the number row_id - N, so that all of them
    come before the ordinals of new samples; columns as those of a build's samples, with the split that each is in."""

    corpus: Corpus
    content: bytes
    samples: pd.DataFrame

    @classmethod
    def in_folder(cls, folder: Folder) -> Earlier:
        """The newest version. Raises :class:`UserError` where there is no corpus."""
        corpus = open_corpus(folder)
        frame = corpus.samples().to_pandas().sort_values("row_id")
        labels = {name: LABEL + name for name in frame.columns if name not in SAMPLE_COLUMNS}
        frame = frame.rename(columns=labels).drop(columns="row_id")
        frame.index = pd.RangeIndex(-len(frame), 0)
        return cls(corpus, folder.read_bytes(MANIFEST_FILE), frame.assign(reason=None, value=None))

    def require_same(self, settings: BuildSettings, vocabulary: GeneVocabulary) -> None:
        """Raise :class:`UserError` where new profiles would be other than those that are there."""
        manifest, own = self.corpus.manifest, self.corpus.vocabulary
        recorded = manifest.settings
        if "sources" not in recorded:
            raise UserError(f"{self._where}: its settings are not those of a build, so that it cannot grow")
        if vocabulary.fingerprint != own.fingerprint or not np.array_equal(
            vocabulary.lengths_bp, own.lengths_bp, equal_nan=True
        ):
            raise UserError(f"{self._where}: vocabulary: its {own.size:,} genes are other ones than those given")
        now = settings.resolved()
        self._require_equal("", {"tpm_over": manifest.tpm_over}, {"tpm_over": now["tpm_over"]})
        self._require_equal("", _without(recorded, _MAY_DIFFER), now)
        self._require_equal("split.", _without(recorded.get("split", {}), _OF_SPLITS_MAY_DIFFER), now["split"])
        sources = {source["name"]: source for source in now["sources"]}
        for source in recorded["sources"]:
            if source["name"] in sources:
                before = _without(source, _OF_A_SOURCE_MAY_DIFFER)
                self._require_equal(f"source {source['name']}: ", before, sources[source["name"]])

    def _require_equal(self, of: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        for name, value in before.items():
            # settings that are gone by now changed nothing
            if name in now and now[name] != value:
                raise UserError(
                    f"{self._where}: {of}{name} was {value!r} when it was built and is {now[name]!r}: what is "
                    "added has to be made in the same way"
                )

    @property
    def _where(self) -> str:
        return f"{self.corpus.folder.uri} cannot grow"

    def lacks(self, samples: pd.DataFrame) -> np.ndarray:
        """Boolean [N]: which samples of the sources it has neither kept nor refused, by source and name.

        Raises :class:`UserError` for a replicate of a sample that it has.
        """
        refused = self.corpus.read_rejected().select(["source", "sample_id"]).to_pandas()
        known = pd.concat([self.samples[["source", "sample_id"]], refused])
        there = pd.MultiIndex.from_frame(known)
        lacking = ~pd.MultiIndex.from_frame(samples[["source", "sample_id"]]).isin(there)
        divided = np.flatnonzero(lacking != lacking[samples["summed_into"].to_numpy()])
        if len(divided):
            one = samples.iloc[divided[0]]
            raise UserError(
                f"{self._where}: source {one['source']}: {one['sample_id']!r} is a replicate of "
                f"{samples.at[one['summed_into'], 'sample_id']!r}, which it has without it"
            )
        return lacking

    def with_digests(self, sketches: bool) -> tuple[pd.DataFrame, np.ndarray | None]:
        """``samples`` with the digests of their profiles in ``profile``, and their sketches [N, D] if asked for.

        Reads every profile once, in Ray tasks of a shard each.
        """
        digests: list[bytes] = [b""] * len(self.samples)
        drawn = np.empty((len(self.samples), DIRECTIONS), np.float16) if sketches else None
        calls = ((self.corpus, shard, sketches) for shard in self.corpus.shards(*SPLITS))
        for first, of_shard, drawn_of_shard in results_of(_digests, calls, "the growth"):
            rows = slice(first, first + len(of_shard))
            digests[rows] = of_shard
            if drawn is not None:
                drawn[rows] = drawn_of_shard
        return self.samples.assign(profile=digests), drawn


def _digests(corpus: Corpus, shard: Shard, sketches: bool) -> tuple[int, list[bytes], np.ndarray | None]:
    """The first row id of a shard, and of its profiles digests and, if asked for, sketches."""
    digests, drawn = [], []
    for _, expression in iterate_row_groups(corpus, [shard]):
        digests += [profile_digest(row.tobytes()) for row in expression]
        drawn += [sketch(expression)] if sketches else []
    return shard.first_row_id, digests, np.concatenate(drawn) if sketches else None


def _without(settings: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}
