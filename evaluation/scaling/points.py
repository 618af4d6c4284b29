"""Points of a scaling law: for each trained model its parameters, its profiles if they differ, and its loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from dataprep.runtime.command_line import UserError, one_line
from dataprep.runtime.storage import Folder, split_file_address
from dataprep.runtime.terminal import log

COLUMNS = ("parameters", "profiles", "loss")
# No model of a transcriptome has so few parameters: its gene table alone has more.
_FEWEST_PARAMETERS = 10_000


@dataclass(frozen=True)
class Points:
    """P trained models: float64 [P] each; ``profiles`` is None where it was not recorded."""

    parameters: np.ndarray
    loss: np.ndarray
    profiles: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def sizes(self) -> int:
        """How many sizes of models there are."""
        return len(np.unique(self.parameters))

    @property
    def amounts(self) -> int:
        """How many amounts of profiles there are; 0 where they were not recorded."""
        return 0 if self.profiles is None else len(np.unique(self.profiles))

    def of_amount(self, profiles: float) -> Points:
        """The points of one amount of profiles."""
        assert self.profiles is not None
        return self.where(self.profiles == profiles)

    def where(self, chosen: np.ndarray) -> Points:
        return Points(
            self.parameters[chosen], self.loss[chosen], None if self.profiles is None else self.profiles[chosen]
        )


def read_points(address: str) -> Points:
    """Read a CSV file or ``s3://`` object with columns parameters, loss and, where it differs, profiles.

    Sizes under 10,000 are taken as millions of parameters, which is said. Raises UserError for a file that is no such
    table, with the first bad row.
    """
    folder, name = split_file_address(address)
    try:
        with Folder(folder).open(name) as stream:
            table = pd.read_csv(stream, skipinitialspace=True, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise UserError(f"no such file: {address}", exit_code=2) from None
    except (ValueError, pd.errors.ParserError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{address} is no table of points: {one_line(error)}", exit_code=2) from None
    table.columns = [str(column).strip() for column in table.columns]
    missing = [column for column in ("parameters", "loss") if column not in table.columns]
    if missing:
        raise UserError(
            f"{address} has no column {' and '.join(missing)}; its columns are {', '.join(table.columns[:8])}",
            exit_code=2,
        )
    numbers = {name: _positive(table[name], address) for name in COLUMNS if name in table.columns}
    if len(table) < 2:
        raise UserError(f"{address} holds {len(table)} points; a line takes two at least", exit_code=2)
    if numbers["parameters"].max() < _FEWEST_PARAMETERS:
        log(f"{address}: parameters up to {numbers['parameters'].max():g} are taken as millions")
        numbers["parameters"] = numbers["parameters"] * 1e6
    return Points(**numbers)


def _positive(column: pd.Series, address: str) -> np.ndarray:
    values = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
    bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if len(bad):
        raise UserError(
            f"{address}: {len(bad)} of {len(values)} values of {column.name} are no numbers over 0, "
            f"e.g. {column.iloc[bad[0]]!r} in row {bad[0] + 1}",
            exit_code=2,
        )
    return values
