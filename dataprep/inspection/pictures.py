"""Pictures for pages: small drawings of matplotlib as SVG that stands in the page itself.

They are drawn narrow, so that their letters can be read on a phone. Methods differ in shape and colour (the palette of
Okabe and Ito, which the colour-blind can tell apart). Names come from files of others: no mathematics is made of them.
"""

from __future__ import annotations

import hashlib
import io
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dataprep.inspection.page import Picture

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#A6538A", "#4D4D4D", "#A87000", "#3C8DBC", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)), (0, (7, 3)))
OTHERS = "others"
_WIDTH_INCHES = 3.8
_LONGEST_LABEL = 48
_LONGEST_WRAPPED = 96
_STYLE: Any = {
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.use_mathtext": False,
    "axes.formatter.useoffset": False,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "legend.fontsize": 8,
    # text stays text, to be searched and scaled; the same numbers give the same bytes
    "svg.fonttype": "none",
    "svg.hashsalt": "bulkformer",
    "text.parse_math": False,
}
# What XML cannot hold.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def picture(draw: Callable[[Axes], None], description: str, caption: str, height_inches: float = 2.7) -> Picture:
    """A drawing of one pair of axes, on which ``draw`` draws."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH_INCHES, height_inches), layout="constrained")
        draw(figure.add_subplot())
        content = io.BytesIO()
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return Picture(_inline(content.getvalue(), description), description, caption)


def svg_file(drawn: Picture) -> str:
    """A picture as a file of its own, which says in words what it shows."""
    caption, description = (escape(_UNPRINTABLE.sub("?", text)) for text in (drawn.caption, drawn.description))
    head, end, rest = str(drawn.svg).partition(">")
    words = f"<title>{caption}</title><desc>{description}</desc>"
    return f'{head} xmlns="http://www.w3.org/2000/svg"{end}{words}{rest}\n'


def label(name: object, longest: int = _LONGEST_LABEL) -> str:
    """A foreign name as it can stand in a picture: printable, not too long, and never hidden from a legend."""
    text = _UNPRINTABLE.sub("?", str(name)).replace("\n", " ").replace(" -> ", " → ")
    if len(text) > longest:
        # in the middle: names of methods differ in their ends
        text = f"{text[: longest // 2]}…{text[-(longest - 1 - longest // 2) :]}"
    # matplotlib leaves names that begin with an underscore out of legends
    return f" {text}" if text.startswith("_") else text


def style_of(position: int, **more: Any) -> dict[str, Any]:
    """Colour, marker and line of the series with this position."""
    kinds = len(COLOURS)
    return {"color": COLOURS[position % kinds], "marker": MARKERS[position % kinds], **more}


def legend(axes: Axes) -> None:
    """A legend below the axes, where it covers nothing."""
    entries = axes.get_legend_handles_labels()[1]
    if entries:
        columns = 2 if max(map(len, entries)) < 24 and len(entries) > 1 else 1
        axes.get_figure().legend(loc="outside lower center", ncols=columns)  # type: ignore[union-attr]


def bars(
    values: Mapping[str, float], description: str, caption: str, axis: str, shown: Callable[[float], str]
) -> Picture:
    """A bar for each name, with its value beside it."""
    names = [label(name) for name in values]

    def draw(axes: Axes) -> None:
        drawn = axes.barh(range(len(names)), list(values.values()), color=COLOURS[0], height=0.65)
        axes.bar_label(drawn, [shown(value) for value in values.values()], padding=3)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(axis)

    return picture(draw, description, caption, 0.8 + 0.24 * len(names))


def map_of_points(points_N2: np.ndarray, groups: Sequence[str], axes_names: Sequence[str], caption: str) -> Picture:
    """N points, coloured and shaped by the group they are of: the largest seven, and the others together."""
    names, counts = np.unique(np.asarray(groups, dtype=str), return_counts=True)
    largest = [str(name) for name in names[np.argsort(-counts, kind="stable")]]
    kept = largest if len(largest) <= len(COLOURS) else largest[: len(COLOURS) - 1]
    group_N = np.array([group if group in kept else OTHERS for group in map(str, groups)])

    def draw(axes: Axes) -> None:
        for position, name in enumerate([*kept, OTHERS] if OTHERS in group_N and OTHERS not in kept else kept):
            chosen = points_N2[group_N == name]
            shown_as = f"{label(name)} ({len(chosen):,})"
            axes.plot(*chosen.T, label=shown_as, linestyle="", markersize=3, alpha=0.75, **style_of(position))
        axes.set(xlabel=axes_names[0], ylabel=axes_names[1])
        legend(axes)

    said = ", ".join(f"{name} {count:,}" for name, count in sorted(zip(names, counts, strict=True), key=_by_count)[:8])
    description = f"Scatter plot of {len(points_N2):,} points, {axes_names[0]} against {axes_names[1]}: {said}."
    return picture(draw, description, caption, 3.1 + 0.13 * min(len(kept), 8))


def _by_count(pair: tuple[str, int]) -> int:
    return -pair[1]


def wrapped(name: object, width: int = 24) -> str:
    """A long name over several lines."""
    return "\n".join(textwrap.wrap(label(name, _LONGEST_WRAPPED), width, break_long_words=True) or [""])


def _inline(svg: bytes, description: str) -> Markup:
    """The drawing as a part of a page: no declaration, no namespaces, names of its own, and what it shows in words."""
    root = ElementTree.fromstring(_UNPRINTABLE.sub("?", svg.decode()))  # noqa: S314 - written by matplotlib, above
    prefix = f"p{hashlib.sha256(svg + description.encode()).hexdigest()[:10]}-"
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for name, value in list(element.attrib.items()):
            del element.attrib[name]
            element.attrib[name.rpartition("}")[2]] = _renamed(name, value, prefix)
    for name in ("version", "width", "height"):
        root.attrib.pop(name, None)
    root.attrib |= {"role": "img", "aria-label": description}
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # noqa: S704 - text is escaped by ElementTree


def _renamed(name: str, value: str, prefix: str) -> str:
    """Names inside one drawing, and references to them, made unlike those of other drawings in the page."""
    plain = name.rpartition("}")[2]
    if plain == "id":
        return prefix + value
    if plain == "href" and value.startswith("#"):
        return f"#{prefix}{value.removeprefix('#')}"
    return re.sub(r"url\(#", f"url(#{prefix}", value)
