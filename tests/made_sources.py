"""Count matrices for tests of dataprep: a few real genes, small studies, written as people publish them."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from dataprep.config import BuildSettings
from dataprep.genes.vocabulary import default_vocabulary, read_vocabulary
from dataprep.pipeline.build import read_decided
from dataprep.pipeline.deciding import require_profiles
from dataprep.pipeline.source_report import report_sources
from dataprep.runtime.command_line import read_settings

GENES = 40


def gene_ids(genes: int = GENES) -> list[str]:
    return list(default_vocabulary().ensembl_ids[:genes])


def symbols(genes: int = GENES) -> list[str]:
    return list(default_vocabulary().symbols[:genes])


def counts(samples: int, genes: int = GENES, seed: int = 0) -> np.ndarray:
    """int64 [samples, genes]; every gene is expressed in every sample."""
    return np.random.default_rng(seed).poisson(200, (samples, genes)) + 1


def names(study: str, samples: int) -> list[str]:
    return [f"{study}_{number:03d}" for number in range(samples)]


def delimited(values: np.ndarray, genes: list[str], samples: list[str], delimiter: str = "\t") -> str:
    """Genes in rows."""
    lines = [["gene", *samples]] + [[gene, *map(str, row)] for gene, row in zip(genes, values.T, strict=True)]
    return "".join(delimiter.join(line) + "\n" for line in lines)


def write_source(
    root: Path,
    name: str,
    values: np.ndarray | None = None,
    genes: list[str] | None = None,
    samples: list[str] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Write ``NAME.tsv.gz`` and return its entry in a build file."""
    values = counts(6, seed=len(name)) if values is None else values
    genes = gene_ids(values.shape[1]) if genes is None else genes
    samples = names(name, len(values)) if samples is None else samples
    (root / f"{name}.tsv.gz").write_bytes(gzip.compress(delimited(values, genes, samples).encode()))
    return {"name": name, "path": f"{name}.tsv.gz", "gene_id": "ensembl", "units": "counts", "study": name} | settings


def write_vocabulary(root: Path, genes: int = GENES) -> str:
    (root / "genes.csv").write_text("\n".join(["ensg_id", *gene_ids(genes)]) + "\n")
    return "genes.csv"


def build_settings(
    folder: Path, sources: list[dict[str, Any]], corpus: str | None = None, **more: Any
) -> BuildSettings:
    """Settings as the command reads them from ``FOLDER/build.yaml``."""
    content = {
        "vocabulary": write_vocabulary(folder),
        "min_nonzero_genes": 10,
        "rows_per_row_group": 4,
        "corpus": corpus or str(folder / "corpus"),
        "sources": sources,
    }
    (folder / "build.yaml").write_text(yaml.safe_dump(content | more))
    return read_settings(BuildSettings, ["--config", str(folder / "build.yaml")])


def read_without_ray(settings: BuildSettings) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """The first three steps of a build in this process: what was decided on every sample, and the profiles kept."""
    vocabulary = default_vocabulary()
    if settings.vocabulary is not None:
        vocabulary = read_vocabulary(settings.address(settings.vocabulary))
    decided, found = read_decided(settings, vocabulary)
    report_sources(decided, settings)
    require_profiles(decided, settings)
    profiles = {
        decided.at[ordinal, "sample_id"]: np.frombuffer(expression, "<f2").astype(np.float64)
        for ordinal, expression in zip(
            found.column("ordinal").to_pylist(), found.column("expression").to_pylist(), strict=True
        )
        if expression is not None
    }
    return decided, profiles
