"""Folders are marked by what fills them before anything is written, so that only own files are ever replaced."""

from __future__ import annotations

from collections.abc import Iterable

from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder


def mark_begun(folder: Folder, marker: str, maker: str) -> None:
    """Write ``marker`` into a folder that ``maker``, such as "a build", is about to fill, until it has finished."""
    folder.write_text(marker, f"{maker} of bulkformer-ray began here and has not finished\n")


def require_own(folder: Folder, marker: str, names: Iterable[str], maker: str) -> None:
    """Raise :class:`UserError` where one of ``names``, which ``maker`` writes, is in the folder and is not its own.

    It is where an earlier, interrupted ``maker`` has left its ``marker``.
    """
    folder.require_reachable()
    if folder.exists(marker):
        return
    present = set(folder.children())
    foreign = [name for name in names if name in present]
    if foreign:
        names_found = ", ".join(foreign[:3]) + (" and more" if len(foreign) > 3 else "")
        raise UserError(
            f"{folder.uri} holds {names_found}, which {maker} would replace and which no "
            "earlier one has marked as its own: choose another folder, or remove them"
        )
