"""kallisto's ``abundance.tsv`` and ``abundance.h5``, which hold the same estimates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import h5py
import numpy as np
from pydantic import Field

from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder, split_file_address
from dataprep.sources.hdf5.files import opened_hdf5, texts
from dataprep.sources.quantification.program_file import ProgramFile
from dataprep.sources.registry import register_source
from dataprep.sources.source import RawProfiles, SampleList, Units

_HDF5 = b"\x89HDF"


@register_source
class KallistoSource(ProgramFile):
    """Estimates per transcript, which ``transcripts`` sums to genes."""

    PROGRAM = "kallisto (abundance.tsv)"
    COLUMNS = ("target_id", "length", "eff_length", "est_counts", "tpm")
    NAMES = "target_id"
    UNITS: ClassVar[Mapping[str, Units]] = {"tpm": "tpm", "est_counts": "estimated_counts"}

    format: Literal["kallisto"] = "kallisto"
    value_column: Literal["tpm", "est_counts"] = Field(
        default="tpm", description="tpm, by effective lengths; or est_counts, divided by the lengths of genes"
    )
    sample_from: str = Field(default="folder", description="what names a sample; default: its folder")

    def list_samples(self, address: str) -> SampleList:
        """As for text; an HDF5 file is looked at when it is read."""
        return SampleList((self.value_column,)) if _is_hdf5(address) else super().list_samples(address)

    def read_samples(self, address: str, start: int, stop: int) -> Iterator[RawProfiles]:
        """As for text; the TPM of an HDF5 file are computed from counts and effective lengths, as kallisto does."""
        if not _is_hdf5(address):
            yield from super().read_samples(address, start, stop)
            return
        with opened_hdf5(address, "an abundance.h5 of kallisto", ("aux", "est_counts")) as file:
            names, values = texts(file["aux/ids"]), self._values(file)
        if values.shape != (len(names),):
            raise UserError(f"{address} has {len(names):,} transcripts and {values.size:,} values")
        yield RawProfiles(0, (self.value_column,), names, values.astype(np.float32).reshape(1, -1))

    def _values(self, file: h5py.File) -> np.ndarray:
        counts = file["est_counts"][()].astype(np.float64)
        if self.value_column == "est_counts":
            return counts
        lengths = file["aux/eff_lengths"][()]
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise ValueError("effective lengths that are not positive")
        rates = counts / lengths
        return rates / max(rates.sum(), np.finfo(np.float64).tiny) * 1e6


def _is_hdf5(address: str) -> bool:
    folder, name = split_file_address(address)
    try:
        with Folder(folder).open(name) as stream:
            return stream.read(4) == _HDF5
    except FileNotFoundError:
        raise UserError(f"no such file: {address}") from None
