"""Published studies, as they are, become a corpus; what does not belong into one is refused for the right reason."""

import os
from pathlib import Path

import numpy as np
import pytest
import yaml

from dataprep.config import BuildSettings
from dataprep.corpus import Corpus, open_corpus, read_split, verify
from dataprep.pipeline.build import build
from dataprep.runtime.command_line import UserError, read_settings
from dataprep.sources.registry import source_of

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("BULKFORMER_REAL_DATA", ROOT.parent / "shared" / "data"))
EXAMPLE = ROOT / "examples" / "real_studies.yaml"
CHOSEN = [
    "TCGA_CHOL",
    "tcga_brca_a",
    "tcga_brca_b",
    "gtex_bladder",
    "gtex_brain",
    "k562_srp009615",
    "srp029880",
    "lcl_cheung",
    "thyroid_gse63511",
    "tissues_14k_orthologues",
    "tissues_sampleclassifier",
]

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.usefixtures("ray_session"),
    pytest.mark.skipif(
        not (DATA / "studies").is_dir(), reason=f"no real studies in {DATA}: set BULKFORMER_REAL_DATA to their folder"
    ),
]


def settings(folder: Path, corpus: str, chosen: list[str], **changes: dict[str, object]) -> BuildSettings:
    """The example's settings for some of its sources; ``changes`` by source name."""
    example = yaml.safe_load(EXAMPLE.read_text())
    sources = [source | changes.get(source["name"], {}) for source in example["sources"] if source["name"] in chosen]
    held_out = {"validation": ["gtex_bladder"], "test": ["TCGA_CHOL"]} if len(chosen) > 2 else {}
    (folder / "build.yaml").write_text(yaml.safe_dump({"sources": sources, "split": held_out}))
    arguments = ["--config", str(folder / "build.yaml"), "--root", str(DATA), "--corpus", corpus]
    return read_settings(BuildSettings, arguments)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("real")
    build(settings(folder, str(folder / "corpus"), CHOSEN))
    opened = open_corpus(str(folder / "corpus"))
    verify(opened)
    return opened


def profiles(corpus: Corpus, source: str) -> np.ndarray:
    """All kept profiles of a source, float32 [n, G]."""
    samples = corpus.samples().to_pandas()
    values = np.concatenate([read_split(corpus, split)[1] for split in ("train", "validation", "test")])
    return values[samples.loc[samples["source"] == source, "row_id"]].astype(np.float32)


def column(corpus: Corpus, symbol: str) -> int:
    return corpus.vocabulary.symbols.index(symbol)


def reasons(corpus: Corpus, source: str) -> dict[str, int]:
    rejected = corpus.read_rejected().to_pandas()
    return rejected[rejected["source"] == source]["reason"].value_counts().to_dict()


def test_shallow_and_narrow_studies_are_refused_whole(corpus: Corpus) -> None:
    assert reasons(corpus, "lcl_cheung") == {"too_few_nonzero_genes": 41}
    assert reasons(corpus, "thyroid_gse63511") == {"too_few_nonzero_genes": 16}
    assert reasons(corpus, "tissues_14k_orthologues") == {"too_few_nonzero_genes": 13}


def test_samples_that_two_tables_share_are_kept_once(corpus: Corpus) -> None:
    assert reasons(corpus, "tcga_brca_b") == {"duplicate_sample_id": 5}
    assert len(profiles(corpus, "tcga_brca_a")) + len(profiles(corpus, "tcga_brca_b")) == 115


def test_genes_that_were_filtered_out_are_missing(corpus: Corpus) -> None:
    missing = np.isnan(profiles(corpus, "gtex_brain")).mean(axis=1)
    assert (missing > 0.2).all()
    assert (missing < 0.3).all()


@pytest.mark.parametrize(
    ("source", "high", "low"),
    [("gtex_brain", "GFAP", "ALB"), ("TCGA_CHOL", "KRT18", "GFAP"), ("k562_srp009615", "GATA1", "ALB")],
)
def test_tissues_express_their_markers(corpus: Corpus, source: str, high: str, low: str) -> None:
    values = profiles(corpus, source)
    assert np.nanmedian(values[:, column(corpus, high)]) > np.nanmedian(values[:, column(corpus, low)]) + 2


def test_technologies_agree_on_the_scale(corpus: Corpus) -> None:
    # the housekeeping gene ACTB is among the most expressed everywhere, whatever the units were
    for source in ("TCGA_CHOL", "gtex_bladder", "k562_srp009615", "srp029880", "tissues_sampleclassifier"):
        values = profiles(corpus, source)
        totals = np.nansum(np.expm1(values.astype(np.float64)), axis=1)
        assert (totals > 0.4e6).all()
        assert (totals < 1.02e6).all()
        assert 4 < np.median(values[:, column(corpus, "ACTB")]) < 11


def test_labels_are_kept(corpus: Corpus) -> None:
    samples = corpus.samples().to_pandas()
    tcga = samples[samples["source"] == "TCGA_CHOL"]
    assert {"os_days", "os_event", "cancer_type", "sex"} <= set(samples.columns)
    assert set(tcga["cancer_type"]) == {"CHOL"}
    assert set(tcga["split"]) == {"test"}


@pytest.mark.parametrize(
    ("source", "change", "message"),
    [
        ("TCGA_CHOL", {"units": "counts"}, "are fractional, though declared as counts"),
        ("TCGA_CHOL", {"gene_id": "ensembl"}, r"gene_id: symbol or symbol_entrez"),
        (
            "srp029880",
            {"drop_columns": [], "drop_annotation": False},
            "1 of 11 samples have no row in the sample metadata, e.g. 'width'",
        ),
        ("gtex_bladder", {"units": "tpm"}, "do not add up to a million TPM, though declared as tpm"),
    ],
)
def test_a_wrong_declaration_is_found(tmp_path: Path, source: str, change: dict[str, object], message: str) -> None:
    wrong = settings(tmp_path, str(tmp_path / "corpus"), [source], **{source: change})
    with pytest.raises(UserError, match=message):
        build(wrong)
    assert not [path for path in (tmp_path / "corpus").iterdir() if not path.name.startswith(".")]


def test_estimates_of_transcripts_add_up_to_a_million_in_each_file_of_salmon() -> None:
    further = yaml.safe_load((ROOT / "examples" / "further_studies.yaml").read_text())["sources"]
    (entry,) = [source for source in further if source.get("format") == "salmon"]
    source = source_of(entry)
    for path in sorted(DATA.glob(entry["path"]))[:3]:
        assert len(source.list_samples(str(path)).sample_ids) == 1
        (raw,) = source.read_samples(str(path), 0, 1)
        assert raw.values.shape == (1, 205_870)
        assert raw.values.sum(dtype=np.float64) == pytest.approx(1e6, rel=1e-5)
