"""Whether the labels of sex agree with the genes that tell it. N profiles."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes

from dataprep.genes.gene_sets import FEMALE_BELOW, MALE_ABOVE, sex_by_genes, sex_by_label
from dataprep.inspection.page import Block, Paragraph, Picture, Pictures, Section, Table, caution, missing
from dataprep.inspection.pictures import legend, picture, style_of

# In a few studies women seem to have Y genes, as where reads of these genes' relatives on the X chromosome were counted
# for them. There the borders are a third and two thirds of the way from the median woman to the median man.
_FEWEST_LABELLED = 5
_LEAST_DISTANCE = 0.8
_LABEL = re.compile(r"(^|[^a-z])(sex|gender)([^a-z]|$)", re.IGNORECASE)
_MOST_ROWS = 50


def sex_section(samples: pa.Table, values_N2: np.ndarray, has_xist: bool) -> Section:
    """``samples``: in the order of the values, which :meth:`SexGenes.expression` gave."""
    title = "Sex check"
    columns = [name for name in samples.column_names if _LABEL.search(name)]
    if not columns:
        return Section(title, [missing("no column of the samples is named sex or gender.")])
    if not np.isfinite(values_N2[:, 0]).any():
        return Section(title, [missing("the corpus measures none of the Y chromosome's genes that tell sex.")])
    labelled = _labels(samples, columns)
    studies = np.array([str(study) for study in samples.column("study_id").to_pylist()])
    shifted = shifted_borders(values_N2[:, 0], labelled, studies)
    told = sex_by_genes(values_N2, borders_of(studies, shifted))
    wrong = np.flatnonzero((labelled != "") & (told != "") & (labelled != told))
    known = int(((labelled != "") & (told != "")).sum())
    blocks: list[Block] = [
        Paragraph(
            f"Label {', '.join(columns)}: of {int((labelled != '').sum()):,} profiles labelled male or female, the "
            f"genes tell the sex of {known:,}, and disagree with the label of {len(wrong):,}."
        ),
        Pictures([_picture(values_N2, labelled, has_xist)]),
    ]
    if not has_xist:
        blocks.append(caution("XIST is not among the corpus's genes, so the Y chromosome's genes stand alone."))
    blocks += [caution(_said(study, borders)) for study, borders in shifted.items()]
    if len(wrong):
        blocks += [
            _wrong(samples, labelled, told, values_N2, wrong),
            Paragraph(
                "A disagreement can be a swapped sample, a wrong label, or a tumour that has lost its Y chromosome."
            ),
        ]
    return Section(title, blocks)


def shifted_borders(y_N: np.ndarray, labelled_N: np.ndarray, studies_N: np.ndarray) -> dict[str, tuple[float, float]]:
    """Borders of the studies whose labelled women have Y genes above :data:`FEMALE_BELOW`, half of them at least.

    Infinite ones, between which nothing is told, where men are too few or too near to say what is background.
    """
    found = {}
    for study in dict.fromkeys(studies_N.tolist()):
        women, men = (
            y_N[(studies_N == study) & (labelled_N == label) & np.isfinite(y_N)] for label in ("female", "male")
        )
        if len(women) < _FEWEST_LABELLED or np.median(women) <= FEMALE_BELOW:
            continue
        low, distance = float(np.median(women)), float(np.median(men) - np.median(women)) if len(men) else 0.0
        if len(men) < _FEWEST_LABELLED or distance < _LEAST_DISTANCE:
            found[study] = (-np.inf, np.inf)
        else:
            found[study] = (low + distance / 3, low + 2 * distance / 3)
    return found


def borders_of(studies_N: np.ndarray, shifted: Mapping[str, tuple[float, float]]) -> np.ndarray:
    """Float [N, 2]: for each profile below which mean of the Y genes it is female, and above which male."""
    usual = (FEMALE_BELOW, MALE_ABOVE)
    return np.array([shifted.get(study, usual) for study in studies_N.tolist()]).reshape(-1, 2)


def _said(study: str, borders: tuple[float, float]) -> str:
    said = (
        f"in {study} the Y genes of most profiles labelled female are above {FEMALE_BELOW:g}, as where reads of their "
        "relatives on the X chromosome were counted for them; "
    )
    if not np.isfinite(borders).all():
        return f"{said}profiles labelled male are too few or too near, so nothing is told of this study."
    return f"{said}there, below {borders[0]:.2f} is female and above {borders[1]:.2f} male."


def _labels(samples: pa.Table, columns: Sequence[str]) -> np.ndarray:
    """Of each profile what the first of the columns says that says male or female; else ""."""
    words = np.full(samples.num_rows, "", dtype="<U6")
    for name in columns:
        own = np.array([sex_by_label(value) for value in samples.column(name).to_pylist()], dtype="<U6")
        words = np.where(words == "", own, words)
    return words


def _wrong(
    samples: pa.Table, labelled: np.ndarray, told: np.ndarray, values_N2: np.ndarray, wrong: np.ndarray
) -> Table:
    ids, studies = samples.column("sample_id").to_pylist(), samples.column("study_id").to_pylist()
    rows: Sequence[Sequence[str]] = [
        [str(ids[row]), str(studies[row]), labelled[row], told[row], f"{values_N2[row, 0]:.2f}"]
        for row in wrong[:_MOST_ROWS]
    ]
    more = f", the first {_MOST_ROWS} of {len(wrong):,}" if len(wrong) > _MOST_ROWS else ""
    columns = ["sample", "study", "label", "genes", "mean of Y genes"]
    return Table(f"Profiles whose label and genes disagree{more}", columns, rows)


def _picture(values_N2: np.ndarray, labelled: np.ndarray, has_xist: bool) -> Picture:
    groups = [
        (name, values_N2[labelled == label])
        for name, label in (("male", "male"), ("female", "female"), ("no label", ""))
    ]

    def draw(axes: Axes) -> None:
        for position, (name, values) in enumerate(groups):
            if not len(values):
                continue
            style = style_of(position)
            if has_xist:
                axes.plot(*values.T, linestyle="", markersize=3.5, alpha=0.7, label=name, **style)
            else:
                heights = np.linspace(position - 0.3, position + 0.3, len(values))
                axes.plot(values[:, 0], heights, linestyle="", markersize=3.5, alpha=0.7, label=name, **style)
        axes.set(xlabel="mean log1p TPM of Y genes", ylabel="XIST, log1p TPM" if has_xist else "")
        if not has_xist:
            axes.set_yticks([])
        for border in (FEMALE_BELOW, MALE_ABOVE):
            axes.axvline(border, color="#4d4d4d", linestyle=":", linewidth=0.9)
        legend(axes)

    said = "; ".join(f"{name} {len(values):,}" for name, values in groups if len(values))
    caption = "Profiles by expression of genes that tell sex, and by label. Dotted: borders of most studies."
    return picture(draw, f"Scatter plot of the expression of genes that tell sex: {said}.", caption, 2.9)
