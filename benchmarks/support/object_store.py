"""An S3 server of this machine for the time of a benchmark."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.config import DownSettings, UpSettings
from cluster.local.lifecycle import down, up
from cluster.local.object_store import ObjectStore
from cluster.local.service import BUCKET, FOREIGN_VARIABLES, Place, job_environment
from cluster.local.state import StateFolder

# Of the environment that points to services, what concerns a store.
_OF_STORE = ("AWS_", "NO_PROXY", "no_proxy")


@contextmanager
def object_store() -> Iterator[str]:
    """The address of an empty prefix in the store that ``cluster up`` starts, here with a state folder of its own.

    Ray's workers have the environment of the moment in which Ray is started: start it inside the block.
    """
    before = dict(os.environ)
    # a short path, for Unix sockets
    with tempfile.TemporaryDirectory(prefix="bench-store-") as state:
        try:
            settings = UpSettings(state=Path(state))
            up(settings, [ObjectStore()])
            folder = StateFolder.at(settings.state)
            place = Place(folder, folder.read().ports, folder.credentials(), settings)
            for name in FOREIGN_VARIABLES:
                os.environ.pop(name, None)
            os.environ.update(
                {name: value for name, value in job_environment(place).items() if name.startswith(_OF_STORE)}
            )
            yield f"s3://{BUCKET}/bench"
        finally:
            down(DownSettings(state=Path(state), grace_seconds=2.0))
            os.environ.clear()
            os.environ.update(before)
