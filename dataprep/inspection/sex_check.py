"""Whether the labels of sex agree with the genes that tell it. N profiles."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes

from dataprep.genes.gene_sets import FEMALE_BELOW, MALE_ABOVE, sex_by_genes, sex_by_label
from dataprep.inspection.page import Block, Paragraph, Picture, Pictures, Section, Table, caution, missing
from dataprep.inspection.pictures import legend, picture, style_of

_LABEL = re.compile(r"(^|[^a-z])(sex|gender)([^a-z]|$)", re.IGNORECASE)
_MOST_ROWS = 50


def sex_section(samples: pa.Table, values_N2: np.ndarray, has_xist: bool) -> Section:
    """``samples``: in the order of the values, which :meth:`SexGenes.expression` gave."""
    title = "Sex check"
    column = next((name for name in samples.column_names if _LABEL.search(name)), None)
    if column is None:
        return Section(title, [missing("no column of the samples is named sex or gender.")])
    if not np.isfinite(values_N2[:, 0]).any():
        return Section(title, [missing("the corpus measures none of the Y chromosome's genes that tell sex.")])
    labelled = np.array([sex_by_label(value) for value in samples.column(column).to_pylist()])
    told = sex_by_genes(values_N2)
    wrong = np.flatnonzero((labelled != "") & (told != "") & (labelled != told))
    known = int(((labelled != "") & (told != "")).sum())
    blocks: list[Block] = [
        Paragraph(
            f"Label {column}: of {int((labelled != '').sum()):,} profiles labelled male or female, the genes tell the "
            f"sex of {known:,}, and disagree with the label of {len(wrong):,}."
        ),
        Pictures([_picture(values_N2, labelled, has_xist)]),
    ]
    if not has_xist:
        blocks.append(caution("XIST is not among the corpus's genes, so the Y chromosome's genes stand alone."))
    if len(wrong):
        blocks += [
            _wrong(samples, labelled, told, values_N2, wrong),
            Paragraph(
                "A disagreement can be a swapped sample, a wrong label, or a tumour that has lost its Y chromosome."
            ),
        ]
    return Section(title, blocks)


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
    caption = "Profiles by expression of genes that tell sex, and by label. Dotted: below is female, above is male."
    return picture(draw, f"Scatter plot of the expression of genes that tell sex: {said}.", caption, 2.9)
