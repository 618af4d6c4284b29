"""Profiles to feed a model, in batches, from a corpus or an ``.h5ad`` file; a part of it is in memory at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dataprep.corpus import SPLITS, Corpus, TpmOver, iterate_row_groups
from dataprep.genes.identifiers import GeneMapping, map_genes
from dataprep.genes.vocabulary import GeneVocabulary
from dataprep.pipeline.normalization import NormalisedProfiles, normalise
from dataprep.runtime.command_line import UserError
from dataprep.runtime.terminal import log
from dataprep.sources import H5adSource

# Samples of an .h5ad that are read and normalised together: its metadata is read anew each time.
_H5AD_ROWS = 128
# A file that measures fewer of the model's genes cannot be what the model was trained on.
_LEAST_SHARE_OF_GENES = 0.5
# Of a profile's values or reads: less changes no embedding by much.
_WORTH_SAYING = 0.01


@dataclass(frozen=True)
class ProfileStream:
    """Named profiles and a way to read them: ``parts()`` yields float16 [n, G] pieces in the order of the names."""

    sample_ids: tuple[str, ...]
    parts: Callable[[], Iterator[np.ndarray]]

    def batches(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """Number of profiles and expression, float32 [n, G] with n <= ``size``; batches do not span parts."""
        for part in self.parts():
            for start in range(0, len(part), size):
                batch = part[start : start + size].astype(np.float32)
                yield len(batch), batch


def corpus_stream(corpus: Corpus, splits: Sequence[str]) -> ProfileStream:
    """The profiles of some splits of a corpus, in order of row id."""
    samples = corpus.samples()
    samples = samples.filter(pa.array(np.isin(samples.column("split").to_pylist(), splits))).sort_by("row_id")
    shards = corpus.shards(*splits)
    return ProfileStream(
        tuple(samples.column("sample_id").to_pylist()),
        lambda: (expression for _, expression in iterate_row_groups(corpus, shards)),
    )


def splits_named(name: str) -> tuple[str, ...]:
    """``all`` is every split."""
    return SPLITS if name == "all" else (name,)


def h5ad_stream(
    address: str,
    source: H5adSource,
    vocabulary: GeneVocabulary,
    aliases: Mapping[str, str],
    tpm_over: TpmOver = "source",
) -> ProfileStream:
    """The samples of an ``.h5ad``, its units checked, normalised, its genes aligned by name as ``source`` says.

    ``tpm_over`` is what TPM are shares of in the profiles that the model was trained on.

    Raises UserError for values that are not what they are declared as, and for a file whose genes are not the model's.
    """
    sample_ids = source.list_samples(address).sample_ids
    if not sample_ids:
        raise UserError(f"{address} holds no samples")
    repeated = [name for name, times in Counter(sample_ids).items() if times > 1]
    if repeated:
        raise UserError(
            f"{address}: {len(repeated):,} names in obs belong to several samples, e.g. {', '.join(repeated[:3])}"
        )

    def parts() -> Iterator[np.ndarray]:
        genes: GeneMapping | None = None
        for start in range(0, len(sample_ids), _H5AD_ROWS):
            for raw in source.read_samples(address, start, min(start + _H5AD_ROWS, len(sample_ids))):
                genes = genes or _mapped(address, raw.gene_ids, source, vocabulary, aliases)
                profiles = normalise(address, raw, source, genes, vocabulary.size, tpm_over)
                _require_expressed(address, raw.sample_ids, profiles.expression)
                _report(address, raw.sample_ids, profiles)
                yield profiles.expression

    return ProfileStream(sample_ids, parts)


def _require_expressed(address: str, sample_ids: Sequence[str], expression_NG: np.ndarray) -> None:
    silent = np.flatnonzero(~(expression_NG > 0).any(axis=1))
    if len(silent):
        names = ", ".join(sample_ids[number] for number in silent[:3])
        raise UserError(
            f"{address}: {len(silent):,} of the {len(sample_ids):,} samples from {sample_ids[0]} to {sample_ids[-1]} "
            f"express none of the model's genes, e.g. {names}; an embedding would say nothing about them"
        )


def _report(address: str, sample_ids: Sequence[str], profiles: NormalisedProfiles) -> None:
    """Say what is unusual about these profiles, and who is the worst."""
    for share, what in (
        (profiles.missing_share, "of their values are missing"),
        (profiles.unrecognised_share, "of their reads are in names of unknown genes"),
        (
            profiles.left_out_share,
            "of their values are in rows that name no gene, which TPM leaves out",
        ),
    ):
        worst = int(share.argmax())
        if share[worst] >= _WORTH_SAYING:
            log(
                f"{address}: samples {sample_ids[0]} to {sample_ids[-1]}: up to {100 * share[worst]:.1f} % {what} "
                f"(sample {sample_ids[worst]})"
            )


def _mapped(
    address: str,
    gene_ids: Sequence[str],
    source: H5adSource,
    vocabulary: GeneVocabulary,
    aliases: Mapping[str, str],
) -> GeneMapping:
    genes = map_genes(address, gene_ids, source.gene_id, vocabulary, aliases, source.repeats)
    if genes.left_out:
        log(
            f"{address}: {genes.left_out:,} rows that name no gene are left out of the sum of TPM, "
            f"e.g. {', '.join(genes.left_out_examples)}"
        )
    absent = vocabulary.size - genes.measured
    if genes.measured < _LEAST_SHARE_OF_GENES * vocabulary.size:
        named = set(genes.columns.tolist())
        examples = [gene for column, gene in enumerate(vocabulary.ensembl_ids) if column not in named][:3]
        raise UserError(
            f"{address} measures {genes.measured:,} of the model's {vocabulary.size:,} genes, too few to embed it; "
            f"not in it: {', '.join(examples)}"
        )
    if absent:
        log(f"{address}: {absent:,} of the model's {vocabulary.size:,} genes are not measured and count as missing")
    return genes
