"""``settings.json`` in the folder of a run: its settings, and what tells it from all other runs."""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass
from typing import Any

from dataprep.corpus.versions import version_in
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder
from pretrain.config import RunSettings

SETTINGS_FILE = "settings.json"
LEASE_FILE = "lease.json"
# Beside the settings, in the same file.
_IDENTITY = "run"


@dataclass(frozen=True)
class RunIdentity:
    """What tells a run from others of its name and in its place, before and after it.

    ``begun_without_uid``: by the first version, whose runs have none until they are resumed.
    """

    uid: str
    begun_without_uid: bool = False


def require_run_folder(folder: Folder) -> bool:
    """Return whether there is no run in the folder yet.

    Raises UserError where it holds something that is not a run: nothing of that may be written over.
    """
    names = [name for name in folder.children() if not name.startswith(".") and name != LEASE_FILE]
    if names and SETTINGS_FILE not in names:
        raise UserError(
            f"{folder.uri} is not empty and is not a run: it has {', '.join(names[:3])}, and no {SETTINGS_FILE}; "
            "choose another --name or --storage",
            exit_code=2,
        )
    if names:
        _read(folder)
    return not names


def store_settings(folder: Folder, settings: RunSettings) -> RunIdentity:
    """Store the settings of this start of the run, and return the run's identity, made at its first start.

    Raises UserError where the run has other settings that must not change. To be called by who holds the run's lease.
    """
    before = _read(folder) if folder.exists(SETTINGS_FILE) else None
    now = settings.model_copy(update={"corpus": _versioned(settings.corpus)})
    if before is not None and (changed := now.changed_since(before | {"corpus": _versioned(before["corpus"])})):
        differences = "; ".join(f"{name}: {then} -> {now}" for name, (then, now) in changed.items())
        raise UserError(f"run {settings.name} exists with other settings ({differences}); choose another --name", 2)
    known = (before or {}).get(_IDENTITY)
    identity = RunIdentity(**known) if known else RunIdentity(uuid.uuid4().hex, begun_without_uid=before is not None)
    content = settings.resolved() | {_IDENTITY: asdict(identity)}
    folder.write_text(SETTINGS_FILE, json.dumps(content, indent=1) + "\n")
    return identity


def corpus_of_run(folder: Folder, given: str) -> str:
    """The address of a corpus that a run is given, in the version that the run was begun on if it says none."""
    address = Folder(given).uri
    if not folder.exists(SETTINGS_FILE):
        return address
    begun_on = _versioned(_read(folder)["corpus"])
    return begun_on if begun_on.rpartition("@")[0] == address else address


def _versioned(recorded: str) -> str:
    """An address that a run has recorded, with a version: earlier runs recorded none, when corpora did not grow, and
    the first ones relative addresses as they were given."""
    folder, version = version_in(Folder(recorded))
    return f"{folder.uri}@{version or 1}"


def _read(folder: Folder) -> dict[str, Any]:
    try:
        content = json.loads(folder.read_bytes(SETTINGS_FILE))
    except UserError:
        raise
    except ValueError:
        content = None
    if not isinstance(content, dict) or not {"corpus", "storage", "name"} <= content.keys():
        raise UserError(
            f"{folder.uri}/{SETTINGS_FILE} is damaged, or not the settings of a run: choose another --name or --storage"
        )
    return content
