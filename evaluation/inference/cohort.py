"""Profiles with labels that are a corpus, or become one for as long as a command lasts.

An ``.h5ad`` and the sources of a build file go through the same steps as in ``dataprep build``: units, genes, TPM,
quality control, labels. They are aligned to the genes of the model, and lie in a temporary folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import PurePosixPath

from dataprep.config import BuildSettings
from dataprep.corpus import Corpus, open_corpus
from dataprep.genes.vocabulary import read_vocabulary
from dataprep.runtime.command_line import read_settings
from dataprep.runtime.storage import Folder
from dataprep.runtime.terminal import log
from dataprep.sources import H5adSource
from evaluation.config import CohortSettings, ReadingSettings, origin_of
from pretrain.model.export_file import ModelExport


@contextmanager
def opened_profiles(address: str, reading: ReadingSettings, export: ModelExport) -> Iterator[Corpus]:
    """The corpus at an address, or one made of what is there, over the genes of the model and as its TPM are.

    A build file that names a vocabulary or ``tpm_over`` is followed in that. Raises UserError as `dataprep build` does.
    """
    if origin_of(address) == "corpus":
        yield open_corpus(address)
        return
    # Ray Data takes a second to import, and a corpus does without it
    from dataprep.pipeline.build import build_here

    settings = _build_settings(address, reading)
    vocabulary = export.vocabulary
    if settings.vocabulary is not None:
        vocabulary = read_vocabulary(settings.address(settings.vocabulary))
    if "tpm_over" not in settings.model_fields_set:
        settings = settings.model_copy(update={"tpm_over": export.tpm_over})
    with tempfile.TemporaryDirectory(prefix="bulkformer-profiles-") as folder:
        samples = build_here(settings, Folder(folder), vocabulary).samples
        refused = ", ".join(f"{reason} {count:,}" for reason, count in samples.rejected.items())
        log(f"{address}: {samples.kept:,} of {samples.read:,} samples are used" + (f" ({refused})" if refused else ""))
        yield replace(open_corpus(folder), origin=address)


def h5ad_source(
    address: str, reading: ReadingSettings, study: str | None, study_column: str | None = None
) -> H5adSource:
    """An ``.h5ad`` as a source of a build, as the settings say; ``study``: of all samples, where no column says it."""
    assert reading.units is not None  # the settings ask for it
    return H5adSource(
        name=PurePosixPath(address).stem,
        path=address,
        gene_id=reading.gene_id,
        repeated_genes=reading.repeated_genes,
        log_offset=reading.log_offset,
        units=reading.units,
        layer=reading.layer,
        gene_column=reading.gene_column,
        study=study,
        study_column=study_column,
    )


def _build_settings(address: str, reading: ReadingSettings) -> BuildSettings:
    """Of the build file at an address, or of a build of the ``.h5ad`` there."""
    given: dict[str, object] = {"root": reading.root, "gene_aliases": reading.gene_aliases}
    study_column = None
    if isinstance(reading, CohortSettings):
        given["min_nonzero_genes"] = reading.min_nonzero_genes
        study_column = reading.study_column
    given = {"corpus": address} | {name: value for name, value in given.items() if value is not None}
    if origin_of(address) == "sources":
        options = [option for name, value in given.items() for option in (f"--{name}", str(value))]
        return read_settings(BuildSettings, ["--config", address, *options])
    study = None if study_column else PurePosixPath(address).stem
    return BuildSettings.model_validate({**given, "sources": [h5ad_source(address, reading, study, study_column)]})
