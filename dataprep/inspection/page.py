"""A page that a person reads: one HTML file with its pictures and styles inside, without scripts and without network.

A page is plain data: sections of blocks. All text of it is escaped by the template, whatever it holds; pictures are
drawn by :mod:`dataprep.inspection.pictures`. Addresses lose user and password on the way.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from typing import Any, ClassVar

from jinja2 import Environment, FunctionLoader
from markupsafe import Markup

from dataprep.runtime.addresses import without_credentials
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder, split_file_address

# By which a page of ours is known: it may be replaced, anything else may not.
GENERATOR = "bulkformer-ray report"
_MARK_WITHIN_BYTES = 4096
_LONGEST_VALUE = 400
_SECRET = re.compile(r"password|passwd|secret|token|credential|access_key|api_key", re.IGNORECASE)
_NUMBER = re.compile(r"[-+−–]?[\d.,]*( ?%| ?[kMG]?B)?( \[.*\])?")


@dataclass(frozen=True)
class Paragraph:
    kind: ClassVar[str] = "paragraph"
    text: str


@dataclass(frozen=True)
class Note:
    """What is missing, has failed, or has to be kept in mind; ``label`` says which in a word."""

    kind: ClassVar[str] = "note"
    label: str
    text: str


@dataclass(frozen=True)
class Facts:
    """Names with values of any kind, see :func:`shown`."""

    kind: ClassVar[str] = "facts"
    values: Mapping[str, Any]

    @property
    def rows(self) -> list[tuple[str, str]]:
        return [(name.replace("_", " "), shown_unless_secret(name, value)) for name, value in self.values.items()]


@dataclass(frozen=True)
class Table:
    """Rows of text; the first column names the row."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def numeric(self) -> list[bool]:
        """Of each column, whether it holds nothing but numbers: these are aligned to the right."""
        columns = zip(*self.rows, strict=True) if self.rows else [()] * len(self.columns)
        return [all(_NUMBER.fullmatch(cell) for cell in column) for column in columns]


@dataclass(frozen=True)
class Picture:
    """An SVG drawing; ``description`` says to those who do not see it what it shows."""

    svg: Markup
    description: str
    caption: str


@dataclass(frozen=True)
class Pictures:
    """Pictures that stand side by side where there is room."""

    kind: ClassVar[str] = "pictures"
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Folded:
    """Blocks behind a line that opens them; open in print."""

    kind: ClassVar[str] = "folded"
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Preformatted:
    kind: ClassVar[str] = "preformatted"
    title: str
    text: str


Block = Paragraph | Note | Facts | Table | Pictures | Folded | Preformatted


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block] = ()
    sections: Sequence[Section] = ()


@dataclass(frozen=True)
class Page:
    """``summary``: what the page says, in some sentences; ``made_from``: the addresses of what it was made from."""

    title: str
    summary: Sequence[str]
    sections: Sequence[Section]
    made_from: Sequence[str] = field(default_factory=tuple)


def missing(text: str) -> Note:
    return Note("Not here", text)


def failed(text: str) -> Note:
    return Note("Failed", text)


def caution(text: str) -> Note:
    return Note("Keep in mind", text)


def render(page: Page) -> str:
    """The page as HTML."""
    environment = Environment(autoescape=True, loader=FunctionLoader(_template), trim_blocks=True, lstrip_blocks=True)
    moment = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    html = environment.get_template("page.html.j2").render(page=page, generator=GENERATOR, moment=moment)
    return without_credentials(html)


def _template(name: str) -> str:
    return resources.files("dataprep.inspection").joinpath(name).read_text()


def require_replaceable_page(address: str) -> None:
    """Raise UserError where no file can be written, or where there is one that is no page of ours.

    To be called before anything slow, as all outputs are checked.
    """
    folder_address, name = split_file_address(address)
    folder = Folder(folder_address)
    folder.require_writable(name)
    if not folder.exists(name):
        return
    with folder.open(name) as stream:
        beginning = stream.read(_MARK_WITHIN_BYTES)
    if f'content="{GENERATOR}"'.encode() not in beginning:
        raise UserError(f"{address} exists and is no report: remove it, or name another file", exit_code=2)


def write_page(address: str, page: Page) -> None:
    """Write the page to a file or ``s3://``, whole or not at all."""
    folder, name = split_file_address(address)
    # half a character, as JSON can hold one, is a question mark
    Folder(folder).write_bytes(name, render(page).encode(errors="replace"))


def shown(value: Any) -> str:
    """A value as a reader wants it: short numbers, lists with commas, mappings as name: value."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, Mapping):
        text = ", ".join(f"{key}: {shown_unless_secret(str(key), item)}" for key, item in value.items())
    elif isinstance(value, Sequence) and not isinstance(value, str):
        text = ", ".join(map(shown, value))
    else:
        text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


def shown_unless_secret(name: str, value: Any) -> str:
    """As :func:`shown`, but for what is named as secrets are."""
    return "(hidden)" if value is not None and _SECRET.search(name) else shown(value)


def number(value: float | None, digits: int = 3) -> str:
    """``digits`` decimals, or an exponent where those would hide the number; a dash for what is not defined."""
    if value is None or not math.isfinite(value):
        return "–"
    if value and (abs(value) < 10.0**-digits or abs(value) >= 1e6):
        return f"{value:.3g}"
    return f"{value:,.{digits}f}"
