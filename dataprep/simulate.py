"""A synthetic cohort of raw counts whose structure is known, so that what can be recovered is known too.

For sample s of study b and tissue t and gene g, the expected TPM is proportional to

    exp(base_g + wiring_tg * sum_k loading_kg * response_g(activity_sk) + batch_bg),

with activity_s = tissue profile + disease shift (diseased samples) + individual variation. Genes respond in three ways:
in proportion, up to saturation, or only over a threshold; and in each tissue some respond to their programs the other
way round. So a linear method recovers much of the structure, but not all of it. Counts are negative binomial
around TPM x length x library size, with library sizes that differ between studies and samples. The hazard of death
grows with the activity of one program and with the disease. The truth is written beside the data, and so is what drugs
and the loss of genes do to the samples (:mod:`dataprep.simulated_assays`).
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import yaml

from dataprep.config import SimulateSettings
from dataprep.corpus import table_bytes
from dataprep.genes.vocabulary import GeneVocabulary, default_vocabulary
from dataprep.runtime.command_line import UserError
from dataprep.runtime.ownership import mark_begun, require_own
from dataprep.runtime.storage import Folder
from dataprep.simulated_archs4 import ARCHS4_FILE, Archs4File
from dataprep.simulated_assays import Assays, draw_assays

BUILD_FILE = "build.yaml"
GENES_FILE = "vocabulary.csv.gz"
TRUTH_GENES_FILE = "truth_genes.parquet"
TRUTH_SAMPLES_FILE = "truth_samples.parquet"
DRUG_RESPONSE_FILE = "drug_response.csv"
DRUG_SMILES_FILE = "drug_smiles.csv"
GENE_EFFECT_FILE = "gene_effect.csv"
CORE_GENES_FILE = "core_genes.txt"
NONESSENTIAL_GENES_FILE = "nonessential_genes.txt"
_TABLES = (
    *(GENES_FILE, TRUTH_GENES_FILE, TRUTH_SAMPLES_FILE),
    *(DRUG_RESPONSE_FILE, DRUG_SMILES_FILE, GENE_EFFECT_FILE, CORE_GENES_FILE, NONESSENTIAL_GENES_FILE),
    ARCHS4_FILE,
)
_BEGUN_FILE = "unfinished_simulation.txt"

_TISSUES = ("blood", "brain", "breast", "colon", "heart", "kidney", "liver", "lung", "muscle", "skin", "testis")
_READS_PER_GENE = 1_000
# Share of the genes a profile must express; the simulated ones express about 0.83, as real ones do.
_MIN_NONZERO_SHARE = 0.7
_DISPERSION = 0.08
_BATCH_SD = 0.25
_INDIVIDUAL_SD = 0.6
_DISEASE_SHIFT = 1.2
_REWIRED_SHARE = 0.1
_MEDIAN_SURVIVAL_DAYS = 1_500.0
_LONGEST_FOLLOW_UP_DAYS = 4_000.0


@dataclass(frozen=True)
class Truth:
    """What the counts are drawn from. K programs, G genes, T tissues.

    ``base`` [G] and ``loading`` [K, G] are natural logarithms of TPM; ``tissue`` [T, K] are mean activities;
    ``disease`` [K] is what the disease adds to them; ``hazard`` [K] is the log hazard ratio per unit of activity.
    ``response`` [G] are indices of :data:`RESPONSES`; ``wiring`` [T, G] is 1, or -1 where a gene of a tissue responds
    the other way round.
    """

    base: np.ndarray
    loading: np.ndarray
    tissue: np.ndarray
    disease: np.ndarray
    hazard: np.ndarray
    response: np.ndarray
    wiring: np.ndarray

    def log_tpm(self, activities: np.ndarray, tissue: np.ndarray) -> np.ndarray:
        """Expected log TPM [n, G] up to a constant per sample, of ``activities`` [n, K] in tissues ``tissue`` [n]."""
        effect = np.empty((len(activities), len(self.base)))
        for number, respond in enumerate(RESPONSES.values()):
            genes = self.response == number
            effect[:, genes] = respond(activities) @ self.loading[:, genes]
        return self.base + self.wiring[tissue] * effect


# What a gene makes of a program's activity. The steepness leaves a unit of activity worth about the same in each.
RESPONSES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "proportional": lambda activity: activity,
    "saturating": lambda activity: 1.5 * np.tanh(activity),
    "threshold": lambda activity: 2.5 / (1.0 + np.exp(-5.0 * (activity - 0.5))),
}


@dataclass(frozen=True)
class Study:
    """One simulated study: counts int64 [n, G], labels, and the activities float64 [n, K] behind them."""

    name: str
    counts: np.ndarray
    labels: pd.DataFrame
    activities: np.ndarray


def simulate(settings: SimulateSettings) -> dict[str, Any]:
    """Write a cohort and the YAML that builds it into a corpus; the same settings give the same bytes."""
    folder = Folder(settings.output)
    folder.require_reachable()
    if folder.exists(BUILD_FILE):
        raise UserError(f"{folder.uri} holds a cohort already", exit_code=2)
    vocabulary = _genes(settings)
    studies = [_study_name(number) for number in range(settings.studies)]
    require_own(folder, _BEGUN_FILE, (*_TABLES, *studies), "a simulation")
    mark_begun(folder, _BEGUN_FILE, "a simulation")
    truth = draw_truth(settings, vocabulary)
    samples, activities = [], []
    archs4 = Archs4File(vocabulary, settings.samples, settings.seed) if settings.format == "archs4" else None
    for study in draw_studies(settings, vocabulary, truth):
        if archs4:
            archs4.add(study.counts, study.labels)
        else:
            _write_study(folder, study, vocabulary, measured=_measured(settings, study.name, vocabulary))
        samples.append(_with_programs(study.labels, study.activities))
        activities.append(study.activities)
    if archs4:
        folder.write_bytes(ARCHS4_FILE, archs4.content())
    folder.write_bytes(TRUTH_SAMPLES_FILE, table_bytes(pa.Table.from_pandas(pd.concat(samples), preserve_index=False)))
    genes = (
        vocabulary.to_arrow()
        .to_pandas()
        .assign(
            base=truth.base,
            response=np.array(list(RESPONSES))[truth.response],
            rewired_in=[
                "; ".join(_tissue(int(index)) for index in np.flatnonzero(column < 0)) for column in truth.wiring.T
            ],
        )
    )
    genes = _with_programs(genes, truth.loading.T)
    folder.write_bytes(TRUTH_GENES_FILE, table_bytes(pa.Table.from_pandas(genes, preserve_index=False)))
    names = [sample for study in samples for sample in study["sample"]]
    ids = vocabulary.ensembl_ids
    _write_assays(folder, draw_assays(names, np.concatenate(activities), ids, truth.base, truth.loading, settings.seed))
    folder.write_bytes(GENES_FILE, _compressed(_delimited(vocabulary.to_arrow(), ",")))
    # the last, so that a folder with it is whole
    folder.write_text(BUILD_FILE, yaml.safe_dump(_build_settings(settings, folder, vocabulary), sort_keys=False))
    folder.remove(_BEGUN_FILE)
    return {"output": folder.uri, "samples": settings.samples, "genes": vocabulary.size, "studies": settings.studies}


def draw_truth(settings: SimulateSettings, vocabulary: GeneVocabulary) -> Truth:
    """Genes of two kinds, expressed and nearly silent ones, each driven by one to three programs."""
    rng = np.random.default_rng([settings.seed, 0])
    programs, genes = settings.programs, vocabulary.size
    silent = rng.random(genes) < 0.2
    base = np.where(silent, rng.normal(-5.0, 1.5, genes), rng.normal(2.3, 1.3, genes))
    loading = np.zeros((programs, genes))
    for _ in range(3):
        loading[rng.integers(programs, size=genes), np.arange(genes)] = rng.normal(0.0, 0.45, genes)
    disease = np.zeros(programs)
    disease[rng.choice(programs, size=min(3, programs), replace=False)] = _DISEASE_SHIFT
    hazard = np.zeros(programs)
    hazard[rng.integers(programs)] = 0.9
    tissue = rng.normal(0.0, 1.0, (settings.tissues, programs))
    response = rng.choice(len(RESPONSES), size=genes, p=(0.4, 0.3, 0.3))
    wiring = np.where(rng.random((settings.tissues, genes)) < _REWIRED_SHARE, -1, 1)
    return Truth(base, loading, tissue, disease, hazard, response, wiring)


def draw_studies(settings: SimulateSettings, vocabulary: GeneVocabulary, truth: Truth) -> Iterator[Study]:
    """One study after the other, each from a random stream of its own."""
    sizes = np.full(settings.studies, settings.samples // settings.studies)
    sizes[: settings.samples % settings.studies] += 1
    for number, size in enumerate(sizes):
        yield _draw_study(settings, vocabulary, truth, number, int(size))


def _draw_study(settings: SimulateSettings, vocabulary: GeneVocabulary, truth: Truth, number: int, size: int) -> Study:
    rng = np.random.default_rng([settings.seed, 1, number])
    tissue = rng.integers(settings.tissues, size=size)
    diseased = rng.random(size) < 0.5
    activities = truth.tissue[tissue] + rng.normal(0.0, _INDIVIDUAL_SD, (size, settings.programs))
    activities += diseased[:, None] * truth.disease
    batch = rng.normal(0.0, _BATCH_SD, vocabulary.size)
    depth = vocabulary.size * _READS_PER_GENE * np.exp(rng.normal(0.0, 0.3))
    library = depth * np.exp(rng.normal(0.0, 0.3, size))
    counts = _draw_counts(rng, truth.log_tpm(activities, tissue) + batch, vocabulary.lengths_bp, library)
    name = _study_name(number)
    labels = pd.DataFrame(
        {
            "sample": [f"{name}_{sample + 1:05d}" for sample in range(size)],
            "study": name,
            "tissue": [_tissue(index) for index in tissue],
            "disease": np.where(diseased, "disease", "healthy"),
            **_survival(rng, (activities - truth.tissue[tissue]) @ truth.hazard + 0.5 * diseased),
        }
    )
    return Study(name, counts, labels, activities)


def _draw_counts(
    rng: np.random.Generator, log_tpm: np.ndarray, lengths_bp: np.ndarray, library: np.ndarray
) -> np.ndarray:
    """Negative binomial [n, G], as Poisson of a gamma: variance = mean + dispersion x mean^2."""
    share = np.exp(log_tpm) * lengths_bp
    mean = share / share.sum(axis=1, keepdims=True) * library[:, None]
    return rng.poisson(mean * rng.gamma(1.0 / _DISPERSION, _DISPERSION, mean.shape))


def _survival(rng: np.random.Generator, log_hazard: np.ndarray) -> dict[str, np.ndarray]:
    """Exponential survival, censored at the end of a follow-up of random length."""
    death = rng.exponential(_MEDIAN_SURVIVAL_DAYS / np.log(2.0), len(log_hazard)) * np.exp(-log_hazard)
    follow_up = rng.uniform(0.1, 1.0, len(log_hazard)) * _LONGEST_FOLLOW_UP_DAYS
    return {"os_days": np.minimum(death, follow_up).round(1), "os_event": (death <= follow_up).astype(int)}


def _genes(settings: SimulateSettings) -> GeneVocabulary:
    everything = default_vocabulary()
    if settings.genes is None or settings.genes == everything.size:
        return everything
    if settings.genes > everything.size:
        raise UserError(f"--genes {settings.genes} is more than the {everything.size:,} there are", exit_code=2)
    chosen = np.sort(np.random.default_rng(settings.seed).choice(everything.size, settings.genes, replace=False))
    return GeneVocabulary.from_arrow(everything.to_arrow().take(chosen))


def _measured(settings: SimulateSettings, study: str, vocabulary: GeneVocabulary) -> np.ndarray:
    """Which genes a study publishes: all, but the second study lacks a tenth, as filtered tables do."""
    if study != "simulated_02":
        return np.full(vocabulary.size, True)
    return np.random.default_rng([settings.seed, 2]).random(vocabulary.size) >= 0.1


def _write_study(folder: Folder, study: Study, vocabulary: GeneVocabulary, measured: np.ndarray) -> None:
    samples = study.labels["sample"]
    table = pa.table(
        {
            "gene": np.array(vocabulary.ensembl_ids)[measured],
            **{sample: row[measured] for sample, row in zip(samples, study.counts, strict=True)},
        }
    )
    folder.write_bytes(f"{study.name}/expression.tsv.gz", _compressed(_delimited(table, "\t")))
    labels = pa.Table.from_pandas(study.labels, preserve_index=False)
    folder.write_bytes(f"{study.name}/samples.tsv", _delimited(labels, "\t"))


def _write_assays(folder: Folder, assays: Assays) -> None:
    folder.write_text(DRUG_RESPONSE_FILE, assays.response.to_csv(lineterminator="\n"))
    folder.write_text(DRUG_SMILES_FILE, assays.smiles.to_csv(index=False, lineterminator="\n"))
    folder.write_text(GENE_EFFECT_FILE, assays.effect.to_csv(index_label="cell_line", lineterminator="\n"))
    for name, genes in ((CORE_GENES_FILE, assays.core), (NONESSENTIAL_GENES_FILE, assays.nonessential)):
        folder.write_text(name, "".join(f"{gene}\n" for gene in genes))


def _build_settings(settings: SimulateSettings, folder: Folder, vocabulary: GeneVocabulary) -> dict[str, Any]:
    names = [_study_name(number) for number in range(settings.studies)]
    tables = [
        {
            "name": name,
            "path": f"{name}/expression.tsv.gz",
            "gene_id": "ensembl",
            "units": "counts",
            "samples": f"{name}/samples.tsv",
            "study_column": "study",
        }
        for name in names
    ]
    archs4 = [{"name": "archs4", "preset": "archs4", "path": ARCHS4_FILE}]
    content: dict[str, Any] = {"min_nonzero_genes": round(_MIN_NONZERO_SHARE * vocabulary.size)}
    if not folder.is_local:
        content["root"] = folder.uri
    if vocabulary.size != default_vocabulary().size:
        content["vocabulary"] = GENES_FILE
    if settings.studies >= 3:
        content["split"] = {"validation": [names[-2]], "test": [names[-1]]}
    return content | {"sources": archs4 if settings.format == "archs4" else tables}


def _study_name(number: int) -> str:
    return f"simulated_{number + 1:02d}"


def _tissue(index: int) -> str:
    return _TISSUES[index] if index < len(_TISSUES) else f"tissue_{index + 1:02d}"


def _with_programs(rows: pd.DataFrame, values: np.ndarray) -> pd.DataFrame:
    """Rows with a column for each program, at once: pandas warns of many columns that are put in one by one."""
    names = [f"program_{number + 1:02d}" for number in range(values.shape[1])]
    return pd.concat([rows, pd.DataFrame(values, rows.index, names)], axis=1)


def _delimited(table: pa.Table, delimiter: str) -> bytes:
    stream = io.BytesIO()
    options = pa.csv.WriteOptions(delimiter=delimiter, quoting_style="none", quoting_header="none")
    pa.csv.write_csv(table, stream, options)
    return stream.getvalue()


def _compressed(content: bytes) -> bytes:
    # level 1: the text of a large cohort is written once and read once
    return gzip.compress(content, compresslevel=1, mtime=0)
