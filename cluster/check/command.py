"""``python -m cluster check``: measure, judge, print a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.config import CheckSettings
from dataprep.runtime.command_line import UserError
from dataprep.runtime.terminal import write_result

if TYPE_CHECKING:
    from cluster.check.contract import Verdict

_STYLES = {"ok": "green", "failed": "bold red", "not applicable": "dim"}


def check(settings: CheckSettings) -> list[dict[str, Any]]:
    """Print one line for each check of the cluster that ``RAY_ADDRESS`` names, else of this machine; return them.

    Raises :class:`UserError` if one failed.
    """
    # stands on Ray, which takes a second to import; the other commands need not wait for it
    from cluster.check.examination import examined

    verdicts = examined(settings)
    rows = [found.row() for found in verdicts]
    failed = [found.check for found in verdicts if found.outcome == "failed"]
    if not settings.json_line:
        Console().print(_table(verdicts))
    elif failed:
        write_result(json.dumps(rows))
    if failed:
        raise UserError(f"{len(failed)} of {len(verdicts)} checks failed: {', '.join(failed)}")
    return rows


def _table(verdicts: Sequence[Verdict]) -> Table:
    table = Table("check", "", "measured", "what to do", box=None)
    for found in verdicts:
        outcome = f"[{_STYLES[found.outcome]}]{found.outcome}[/]"
        # values are from elsewhere and may hold brackets, which rich would take for its own
        table.add_row(found.check, outcome, Text(found.value), Text(found.advice))
    return table
