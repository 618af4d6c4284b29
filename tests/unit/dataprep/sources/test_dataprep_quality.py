"""Profiles are refused for the reasons that the settings name, and never for what a source does not say."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dataprep.genes.gene_sets import Y_GENES, is_mitochondrial, is_ribosomal
from dataprep.genes.vocabulary import gene_reference
from dataprep.pipeline.quality_control import nonzero_genes
from dataprep.runtime.command_line import UserError
from tests.made_sources import build_settings, counts, gene_ids, names, read_without_ray, write_source

MT_CO1, RPL10 = (gene_reference().ensembl_id_of[symbol] for symbol in ("MT-CO1", "RPL10"))


def refused(
    folder: Path, values: np.ndarray, genes: list[str], source: dict[str, Any] | None = None, **build: Any
) -> dict[str, tuple[str, str]]:
    """Reason and value of each sample that a build of these counts would refuse."""
    entry = write_source(folder, "x", values, genes) | (source or {})
    samples, _ = read_without_ray(build_settings(folder, [entry], **build))
    rejected = samples[samples["reason"].notna()]
    return dict(zip(rejected["sample_id"], zip(rejected["reason"], rejected["value"], strict=True), strict=True))


def with_labels(folder: Path, **labels: list[str]) -> dict[str, str]:
    samples = names("x", len(next(iter(labels.values()))))
    pd.DataFrame({"sample": samples} | labels).to_csv(folder / "samples.tsv", sep="\t", index=False)
    return {"samples": "samples.tsv"}


@pytest.mark.parametrize(
    ("setting", "gene", "reason"),
    [
        ("max_mitochondrial_share", MT_CO1, "too_much_mitochondrial"),
        ("max_ribosomal_share", RPL10, "too_much_ribosomal"),
    ],
)
def test_a_profile_with_too_much_of_a_set_of_genes_is_refused_where_that_is_asked(
    tmp_path: Path, setting: str, gene: str, reason: str
) -> None:
    values = np.column_stack([np.full((3, 40), 100), [1000, 1001, 4000]])
    genes = [*gene_ids(), gene]
    assert refused(tmp_path, values, genes, **{setting: 0.4}) == {"x_002": (reason, "0.500")}
    assert refused(tmp_path, values, genes) == {}


def test_a_source_without_such_genes_is_not_refused_for_them(tmp_path: Path) -> None:
    assert refused(tmp_path, counts(3), gene_ids(), max_mitochondrial_share=0.01, max_ribosomal_share=0.01) == {}


def test_a_small_library_is_refused_where_values_are_reads(tmp_path: Path) -> None:
    values = np.array([np.full(40, 100), np.full(40, 99) + np.arange(40) % 2])
    found = refused(tmp_path, values, gene_ids(), min_library_size=4000)
    assert found == {"x_001": ("library_too_small", "3980")}
    # TPM say nothing of reads
    tpm = counts(2) / counts(2).sum(axis=1, keepdims=True) * 1e6 + 0.0
    assert refused(tmp_path, tpm, gene_ids(), {"units": "tpm"}, min_library_size=1e9) == {}


def test_the_label_of_sex_is_compared_with_the_genes(tmp_path: Path) -> None:
    values = np.column_stack([counts(5), np.outer([0, 50, 50, 0, 50], np.ones(5, int))])
    labels = with_labels(tmp_path, gender=["F", "female", "Male", "man", "not told"])
    entry = write_source(tmp_path, "x", values, [*gene_ids(), *Y_GENES]) | labels
    settings = build_settings(tmp_path, [entry], sex_label="gender", vocabulary="all_genes.csv")
    (tmp_path / "all_genes.csv").write_text("\n".join(["ensg_id", *gene_ids(), *Y_GENES]) + "\n")
    samples, _ = read_without_ray(settings)
    rejected = samples[samples["reason"] == "sex_disagrees_with_label"]
    assert dict(zip(rejected["sample_id"], rejected["value"], strict=True)) == {
        "x_001": "label female, genes male",
        "x_003": "label male, genes female",
    }


def test_a_label_that_no_source_has_is_named(tmp_path: Path) -> None:
    labels = with_labels(tmp_path, tissue=["a", "b"])
    with pytest.raises(UserError, match="sex_label: no source has the label 'sex'; there are tissue"):
        refused(tmp_path, counts(2), gene_ids(), labels, sex_label="sex")


def test_sets_of_genes_hold_neither_kinases_nor_read_through_genes() -> None:
    assert all(map(is_ribosomal, ("RPL10", "RPS4Y1", "RPL36AL", "RPL7L1", "RPLP0", "RPSA", "RNA18SN5", "MT-RNR2")))
    assert not any(map(is_ribosomal, ("RPS6KA1", "RPL17-C18orf32", "RPL7P1", "RNASE1", "MT-CO1", "")))
    assert is_mitochondrial("MT-ND4L")
    assert not is_mitochondrial("MTOR")


def test_only_positive_values_are_expressed() -> None:
    smallest = np.nextafter(np.float16(0), np.float16(1))
    values = np.array([[smallest, 3, np.inf, -0.0, 0], [np.nan, -np.nan, -1, -np.inf, 1]], np.float16)
    assert nonzero_genes(values).tolist() == [3, 1]
