"""One file per sample, as programs write it, becomes the profiles of its estimates, or is refused in one line."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataprep.genes.vocabulary import default_vocabulary
from dataprep.runtime.command_line import UserError
from tests import made_program_files as written
from tests.made_sources import GENES, build_settings, counts, gene_ids, names, read_without_ray

COUNTS, SAMPLES = counts(3), names("s", 3)
VOCABULARY_LENGTHS = default_vocabulary().lengths_bp[:GENES]
LENGTHS = VOCABULARY_LENGTHS + 200
# two transcripts per gene, of which the first has a third of the reads
TRANSCRIPTS = [f"ENST{gene[4:]}{number}.{number}" for gene in gene_ids() for number in (1, 2)]
OF_TRANSCRIPTS = np.stack([COUNTS / 3, COUNTS * 2 / 3], axis=2).reshape(3, -1)
TRANSCRIPT_LENGTHS = np.repeat(LENGTHS, 2) + np.tile([0, 700], GENES)


def expected(values: np.ndarray, lengths: Any = VOCABULARY_LENGTHS) -> np.ndarray:
    """log1p(TPM) of counts [n, G]."""
    rate = values / lengths
    return np.log1p(rate / rate.sum(axis=1, keepdims=True) * 1e6)


def by_effective_length() -> np.ndarray:
    """log1p(TPM) of genes, from those of their transcripts."""
    tpm = np.stack([written.effective_tpm(sample, TRANSCRIPT_LENGTHS) for sample in OF_TRANSCRIPTS])
    return np.log1p(tpm.reshape(3, GENES, 2).sum(axis=2))


def read(folder: Path, path: str, form: str, **settings: Any) -> dict[str, np.ndarray]:
    source = {"name": "x", "path": path, "format": form, "gene_id": "ensembl", "study": "x"} | settings
    return read_without_ray(build_settings(folder, [source]))[1]


def assert_profiles(profiles: dict[str, np.ndarray], values: np.ndarray) -> None:
    assert list(profiles) == SAMPLES
    assert np.allclose(np.stack(list(profiles.values())), values, rtol=2e-3)


def write(folder: Path, path: str, content: Callable[[int], bytes]) -> None:
    """A file for each sample, whose name and number ``path`` and ``content`` are given."""
    for number, sample in enumerate(SAMPLES):
        file = folder / path.format(sample)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.compress(content(number)) if file.suffix == ".gz" else content(number))


@pytest.mark.parametrize(
    "path",
    ["{}ReadsPerGene.out.tab", "{}_ReadsPerGene.out.tab.gz", "{}.ReadsPerGene.out.tab", "{}/ReadsPerGene.out.tab"],
)
def test_star_by_strand(tmp_path: Path, path: str) -> None:
    write(tmp_path, path, lambda number: written.star(gene_ids(), COUNTS[number]))
    pattern = path.format("*")
    assert_profiles(read(tmp_path, pattern, "star"), expected(COUNTS))
    assert_profiles(read(tmp_path, pattern, "star", value_column="stranded_second"), expected(COUNTS))
    with pytest.raises(UserError, match="no_expression 3"):
        read(tmp_path, pattern, "star", value_column="stranded_first")


def test_htseq_with_and_without_attributes(tmp_path: Path) -> None:
    write(tmp_path, "{}.txt", lambda number: written.htseq(gene_ids(), COUNTS[number]))
    write(tmp_path, "{}.tsv.gz", lambda number: written.htseq(gene_ids(), COUNTS[number], gene_ids()))
    assert_profiles(read(tmp_path, "*.txt", "htseq"), expected(COUNTS))
    assert_profiles(read(tmp_path, "*.tsv.gz", "htseq"), expected(COUNTS))


def test_featurecounts_of_one_alignment_and_of_several(tmp_path: Path) -> None:
    write(
        tmp_path,
        "{}.txt",
        lambda number: written.featurecounts(gene_ids(), COUNTS[[number]].T, [f"/data/{SAMPLES[number]}.bam"]),
    )
    assert_profiles(read(tmp_path, "*.txt", "featurecounts"), expected(COUNTS))
    together = written.featurecounts(gene_ids(), COUNTS.T, [f"bam/{sample}.bam" for sample in SAMPLES], names=True)
    (tmp_path / "all.tsv").write_bytes(together)
    assert_profiles(read(tmp_path, "all.tsv", "featurecounts"), expected(COUNTS))


def test_rsem_by_its_columns(tmp_path: Path) -> None:
    write(tmp_path, "{}.genes.results", lambda number: written.rsem(gene_ids(), COUNTS[number], LENGTHS))
    effective = np.log1p(np.stack([written.effective_tpm(sample, LENGTHS) for sample in COUNTS]))
    assert_profiles(read(tmp_path, "*.genes.results", "rsem"), effective)
    assert_profiles(read(tmp_path, "*.genes.results", "rsem", value_column="FPKM"), effective)
    assert_profiles(read(tmp_path, "*.genes.results", "rsem", value_column="expected_count"), expected(COUNTS))


def test_isoforms_of_rsem_are_summed_by_the_gene_beside_them(tmp_path: Path) -> None:
    header = "transcript_id\tgene_id\tlength\teffective_length\texpected_count\tTPM\tFPKM\tIsoPct\n"

    def isoforms(number: int) -> bytes:
        rows = zip(TRANSCRIPTS, np.repeat(gene_ids(), 2), OF_TRANSCRIPTS[number], strict=True)
        return (header + "".join(f"{t}\t{g}\t900\t700\t{c:.2f}\t1\t1\t50\n" for t, g, c in rows)).encode()

    write(tmp_path, "{}.isoforms.results", isoforms)
    profiles = read(tmp_path, "*.isoforms.results", "rsem", value_column="expected_count")
    assert_profiles(profiles, expected(COUNTS))


def gtf() -> str:
    lines = ["##description: made"]
    for number, (gene, length) in enumerate(zip(gene_ids(), LENGTHS, strict=True)):
        start = 1000 * number + 1
        for transcript in TRANSCRIPTS[2 * number : 2 * number + 2]:
            about = f'gene_id "{gene}.7"; transcript_id "{transcript}"; gene_name "N";'
            for feature, first, last in (("transcript", start, start + length), ("exon", start, start + length - 1)):
                lines.append(f"chr1\tHAVANA\t{feature}\t{first:.0f}\t{last:.0f}\t.\t+\t.\t{about}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("table", ["gtf", "table", "comma"])
@pytest.mark.parametrize(
    ("form", "path", "content"),
    [
        ("salmon", "{}/quant.sf.gz", written.salmon),
        ("kallisto", "{}/abundance.tsv", written.kallisto),
        ("kallisto", "{}/abundance.h5", written.kallisto_h5),
    ],
)
def test_transcripts_are_summed_to_genes(tmp_path: Path, form: str, path: str, content: Any, table: str) -> None:
    pairs = list(zip(TRANSCRIPTS, np.repeat(gene_ids(), 2).tolist(), strict=True))
    text = {
        "gtf": gtf(),
        "table": "".join(f"{transcript}\t{gene}\tNAME\n" for transcript, gene in pairs),
        "comma": "TXNAME,GENEID\n" + "".join(f"{transcript},{gene}\n" for transcript, gene in pairs),
    }[table]
    (tmp_path / "genes.gz").write_bytes(gzip.compress(text.encode()))
    write(tmp_path, path, lambda number: content(TRANSCRIPTS, OF_TRANSCRIPTS[number], TRANSCRIPT_LENGTHS))
    pattern = path.format("*")
    assert_profiles(read(tmp_path, pattern, form, transcripts="genes.gz"), by_effective_length())
    column = {"salmon": "NumReads", "kallisto": "est_counts"}[form]
    profiles = read(tmp_path, pattern, form, transcripts="genes.gz", value_column=column)
    assert_profiles(profiles, expected(COUNTS))


def test_transcripts_need_a_table_that_knows_them(tmp_path: Path) -> None:
    write(
        tmp_path, "{}/quant.sf", lambda number: written.salmon(TRANSCRIPTS, OF_TRANSCRIPTS[number], TRANSCRIPT_LENGTHS)
    )
    with pytest.raises(UserError, match=r"these are transcripts \(ENST\).*setting transcripts"):
        read(tmp_path, "*/quant.sf", "salmon")
    (tmp_path / "genes.tsv").write_text("NM_000546.5\tENSG00000141510\n")
    with pytest.raises(UserError, match=r"80 of 80 rows are no transcripts of genes\.tsv, e\.g\. 'ENST"):
        read(tmp_path, "*/quant.sf", "salmon", transcripts="genes.tsv")
    (tmp_path / "genes.tsv").write_text("NM_000546.5\n")
    with pytest.raises(UserError, match=r"genes\.tsv: line 1 has no transcript and gene, but 'NM_000546\.5'"):
        read(tmp_path, "*/quant.sf", "salmon", transcripts="genes.tsv")


@pytest.mark.parametrize("form", ["gtf", "table"])
def test_lengths_of_genes_come_from_a_gtf_or_a_table(tmp_path: Path, form: str) -> None:
    table = "gene\tbiotype\tlength\n" + "".join(f"{g}.3\tx\t{n}\n" for g, n in zip(gene_ids(), LENGTHS, strict=True))
    (tmp_path / "lengths").write_text(gtf() if form == "gtf" else table)
    write(tmp_path, "{}.txt", lambda number: written.htseq(gene_ids(), COUNTS[number]))
    assert_profiles(read(tmp_path, "*.txt", "htseq", gene_lengths="lengths"), expected(COUNTS, LENGTHS))


@pytest.mark.parametrize("text", ["gene\tlength\nENSG00000141510\t-4\n", "a\tb\nc\td\n", "ENSG00000141510\n" * 2])
def test_lengths_that_are_none_are_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "lengths.tsv").write_text(text)
    write(tmp_path, "{}.txt", lambda number: written.htseq(gene_ids(), COUNTS[number]))
    with pytest.raises(UserError, match=r"lengths\.tsv: line 2 has no gene and positive length, but"):
        read(tmp_path, "*.txt", "htseq", gene_lengths="lengths.tsv")


@pytest.mark.parametrize(
    ("form", "settings", "message"),
    [
        ("star", {"units": "tpm"}, "unstranded of STAR .* holds counts, not tpm"),
        ("rsem", {"units": "counts"}, "TPM of RSEM .* holds tpm, not counts"),
        ("salmon", {"value_column": "Length"}, "value_column"),
        ("salmon", {"sample_from": "column"}, "a file of Salmon .* does not name its sample"),
        ("htseq", {"sample_from": "fille"}, "none of column, file, folder, path, and no regular expression with one"),
        ("htseq", {"sample_from": "(a"}, "is no regular expression: missing"),
        ("salmon", {"gene_lengths": "x"}, "gene_lengths would have no effect on tpm"),
        ("featurecounts", {"units": "tpm"}, "featureCounts writes counts, not tpm"),
    ],
)
def test_settings_that_contradict_the_file_are_refused(
    tmp_path: Path, form: str, settings: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, "*", form, **settings)


def test_a_pattern_names_the_samples(tmp_path: Path) -> None:
    write(tmp_path, "run_{}/counts.v2.txt", lambda number: written.htseq(gene_ids(), COUNTS[number]))
    assert_profiles(read(tmp_path, "*/counts.v2.txt", "htseq", sample_from="run_([^/]+)/"), expected(COUNTS))
    with pytest.raises(UserError, match=r"source x: no sample's name in .*/run_s_000/counts\.v2\.txt"):
        read(tmp_path, "*/counts.v2.txt", "htseq", sample_from="lane_([^/]+)/")
    with pytest.raises(UserError, match=r"1 samples are in several of its 3 files, e\.g\. 's_00'"):
        read(tmp_path, "*/counts.v2.txt", "htseq", sample_from="run_(s_00)")


def test_a_file_with_fewer_rows_than_the_others_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(
        tmp_path,
        "{}.txt",
        lambda number: b"".join(written.htseq(gene_ids(), COUNTS[0]).splitlines(True)[: 45 - number]),
    )
    read(tmp_path, "*.txt", "htseq")
    assert (
        "2 of 3 samples have fewer rows than the 45 of the others, e.g. s_001 44; were their" in capsys.readouterr().err
    )


WRONG: dict[str, tuple[str, bytes, str]] = {
    "star with three columns": ("star", b"ENSG00000000003\t5\t6\n" * 3, "first line has 3 columns, not 4"),
    "star with text": ("star", b"ENSG00000000003\t5\t6\tseven\n" * 3 + b"ENSG00000000005\tx\t1\t1\n", "holds text"),
    "star cut in a line": ("star", written.star(gene_ids(), COUNTS[0])[:-6], "cut off: its last line has no end"),
    "htseq with a header": ("htseq", b"gene\tcount\nENSG00000000003\t5\n", "column 'count' holds text"),
    "htseq of two samples": ("htseq", b"ENSG00000000003\t5\t6\n" * 3, "has 2 columns of counts, of several samples"),
    "htseq without tabs": ("htseq", b"ENSG00000000003 5\n" * 3, "its first line is not divided by tabs"),
    "another program": (
        "salmon",
        written.kallisto(gene_ids(), COUNTS[0], LENGTHS),
        "its columns are target_id, length",
    ),
    "featureCounts as RSEM": ("rsem", b"Geneid\tChr\n" * 3, "its columns are Geneid, Chr, not gene_id, transcript"),
    "no counts": ("featurecounts", written.featurecounts(gene_ids(), [["x"]] * GENES, ["S1.bam"]), "holds counts"),
    "a header alone": ("kallisto", b"target_id\tlength\teff_length\test_counts\ttpm\n", "has no rows"),
    "an Excel workbook": ("star", b"PK\x03\x04xl/workbook.xml", "is an Excel workbook"),
    "nothing": ("htseq", b"", "is empty"),
    "half an archive": ("htseq", gzip.compress(written.htseq(gene_ids(), COUNTS[0]))[:-30], "is cut off or damaged"),
    "half an HDF5 file": (
        "kallisto",
        written.kallisto_h5(gene_ids(), COUNTS[0], LENGTHS)[:3000],
        "not a readable HDF5",
    ),
    "HDF5 without estimates": ("kallisto", b"\x89HDF\r\n\x1a\n" + bytes(800), "not a readable HDF5 file"),
    "values of other rows": (
        "kallisto",
        written.kallisto_h5(gene_ids(), COUNTS[0], LENGTHS[:5]),
        "is not an abundance",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_one_line_that_says_what_is_wrong(tmp_path: Path, case: str) -> None:
    form, content, message = WRONG[case]
    (tmp_path / "S1ReadsPerGene.out.tab.genes.results").write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        read(tmp_path, "*.results", form, gene_id="ensembl")
    assert "\n" not in str(raised.value)
