"""The data sets that an evaluation reads, as MLflow shows them beside its run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dataprep.runtime.addresses import without_credentials
from dataprep.runtime.storage import Folder, split_file_address

# Of a digest, as many characters as MLflow takes.
_LONGEST_DIGEST = 36


@dataclass(frozen=True)
class DataSet:
    """``name``: what it is in the evaluation; ``digest``: of its content, in hexadecimal."""

    name: str
    address: str
    digest: str

    @classmethod
    def of_file(cls, name: str, address: str) -> DataSet:
        """A file, or a matrix in one (``FILE.h5ad#KEY``), by the digest of the file."""
        folder, file = split_file_address(address.partition("#")[0])
        return cls(name, address, Folder(folder).sha256(file))


def inputs_of(data_sets: Sequence[DataSet]) -> list[Any]:
    """As MLflow takes them."""
    # takes a second, and only a run with a server needs it
    from mlflow.entities import Dataset, DatasetInput, InputTag

    return [
        DatasetInput(
            Dataset(
                name=one.name,
                digest=one.digest[:_LONGEST_DIGEST],
                source_type="s3" if one.address.startswith("s3://") else "local",
                source=json.dumps({"uri": without_credentials(one.address)}),
            ),
            tags=[InputTag(key="mlflow.data.context", value="evaluation")],
        )
        for one in data_sets
    ]
