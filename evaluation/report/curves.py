"""Curves of tasks in a report: pictures where their names are known, and tables in any case."""

from __future__ import annotations

from collections.abc import Sequence

from dataprep.inspection.page import Block, Folded, Picture, Pictures, Table, shown
from evaluation.report.material import ScoredTask
from evaluation.scores.curve_pictures import Row, curve_pictures

# In a table; the file of results has all of them.
_MOST_ROWS = 200


def curve_blocks(task: ScoredTask) -> list[Block]:
    """A picture for each curve that can be drawn, and its numbers as a table."""
    pictures: list[Picture] = []
    tables: list[Block] = []
    for name, rows in task.curves.items():
        if not rows:
            continue
        pictures += curve_pictures(task.title, name, rows)
        tables.append(Folded(f"{_spaced(name)}: the numbers", [_table(f"{task.title}: {_spaced(name)}", rows)]))
    return [*([Pictures(pictures)] if pictures else []), *tables]


def _table(caption: str, rows: Sequence[Row]) -> Table:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    more = f" (the first {_MOST_ROWS:,} of {len(rows):,} rows)" if len(rows) > _MOST_ROWS else ""
    cells = [[shown(row.get(column)) for column in columns] for row in rows[:_MOST_ROWS]]
    return Table(f"{caption}{more}", [_spaced(column) for column in columns], cells)


def _spaced(name: str) -> str:
    return name.replace("_", " ")
