"""What a build's corpus follows from, as digests: where one has changed, nothing of an earlier start can be used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import pandas as pd

from dataprep.config import BuildSettings
from dataprep.corpus import table_bytes
from dataprep.pipeline.gene_rows import GeneTables
from dataprep.pipeline.listing import SourceFile
from dataprep.runtime.code_identity import code_fingerprint
from dataprep.runtime.storage import Folder, split_file_address

# Settings that say where the corpus goes and not what is in it.
_OF_THE_PLACE = ("corpus", "overwrite")
# Their versions can change what a build writes: numbers, and the bytes of Parquet files.
_LIBRARIES = ("numpy", "pandas", "pyarrow", "scipy", "h5py", "zarr")
_READERS = 16


def build_inputs(
    settings: BuildSettings, files: Sequence[SourceFile], samples: pd.DataFrame, genes: GeneTables
) -> dict[str, str]:
    """SHA-256 of each kind of input, by a name that can be shown.

    Sources are known by the sizes and times (or ETags) of their files and by what listing found in them: a file that
    was copied anew counts as changed.
    """
    given = {name: value for name, value in settings.resolved().items() if name not in _OF_THE_PLACE}
    addresses = sorted({address for file in files for address in file.source.files_of(file.address)})
    with ThreadPoolExecutor(max_workers=_READERS) as pool:
        revisions = list(pool.map(_revision, addresses))
    known = [genes.aliases, genes.gene_of_transcript, genes.length_bp_of]
    code = [code_fingerprint(("dataprep",)), *(f"{name} {version(name)}" for name in _LIBRARIES)]
    return {
        "settings": _sha256([json.dumps([given, settings.plugins], sort_keys=True)]),
        "sources": _sha256([json.dumps([addresses, revisions]), samples.to_csv()]),
        "genes": _sha256([table_bytes(genes.vocabulary.to_arrow()).hex(), json.dumps(known, sort_keys=True)]),
        "code": _sha256(code),
    }


def _revision(address: str) -> str:
    folder, name = split_file_address(address)
    return Folder(folder).revision(name)


def _sha256(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode())
        digest.update(b"\0")
    return digest.hexdigest()
