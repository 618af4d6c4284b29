"""Tables in the forms that people publish give the profiles of their counts, or are refused for the right reason."""

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from dataprep.genes.vocabulary import default_vocabulary
from dataprep.runtime.command_line import UserError
from tests.made_sources import GENES, build_settings, counts, delimited, gene_ids, names, read_without_ray, symbols

COUNTS, SAMPLES = counts(4), names("s", 4)
TABLE = delimited(COUNTS, gene_ids(), SAMPLES)


def expected(values: np.ndarray = COUNTS) -> np.ndarray:
    rate = values / default_vocabulary().lengths_bp[:GENES]
    return np.log1p(rate / rate.sum(axis=1, keepdims=True) * 1e6)


def read(
    folder: Path, text: str | bytes, name: str = "x.tsv", build: dict[str, Any] | None = None, **settings: Any
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """A source of one file, or of those that are there already, read as a build reads it."""
    if text:
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    source = {"name": "x", "path": name, "gene_id": "ensembl", "units": "counts", "study": "x"} | settings
    return read_without_ray(build_settings(folder, [source], **(build or {})))


def assert_right(profiles: dict[str, np.ndarray], samples: list[str] = SAMPLES) -> None:
    assert list(profiles) == samples
    assert np.allclose(np.stack(list(profiles.values())), expected(), rtol=2e-3)


def with_columns(**added: Any) -> str:
    """The table with more columns, after the gene ids."""
    table = pd.DataFrame(COUNTS.T, index=pd.Index(gene_ids(), name="gene"), columns=SAMPLES)
    for number, (name, values) in enumerate(added.items()):
        table.insert(number, name, values)
    return table.to_csv(sep="\t")


def with_rows(*rows: str) -> str:
    """The table with rows of large numbers at its end."""
    return TABLE + "".join(f"{row}\t" + "\t".join(["99999"] * 4) + "\n" for row in rows)


@pytest.mark.parametrize(
    "rows",
    [
        ["__no_feature", "__ambiguous", "__too_low_aQual", "__not_aligned", "__alignment_not_unique"],
        ["no_feature", "ambiguous", "alignment_not_unique"],
        ["N_unmapped", "N_multimapping", "N_noFeature", "N_ambiguous"],
        ["Unassigned_NoFeatures", "Unassigned_Unmapped"],
        ["Total"],
        ["total counts", "Sum"],
        ["ERCC-00002", "ERCC-00171"],
        [""],
        ["NA"],
    ],
)
@pytest.mark.parametrize("gene_id", ["ensembl", "symbol", "mixed"])
def test_rows_that_name_no_gene_do_not_enter_the_sum(
    rows: list[str], gene_id: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = with_rows(*rows)
    if gene_id == "symbol":
        for gene, symbol in zip(gene_ids(), symbols(), strict=True):
            text = text.replace(f"{gene}\t", f"{symbol}\t")
    samples, profiles = read(tmp_path, text, gene_id=gene_id)
    assert_right(profiles)
    said = capsys.readouterr().err
    assert f"x: {len(rows)} rows name no gene and are left out of every sum" in said
    assert repr(rows[0]) in said
    assert (samples["left_out_share"] > 0.9).all()


def test_a_gene_that_no_table_knows_counts_in_the_sum(tmp_path: Path) -> None:
    text = TABLE + "ENSG00000999999\t" + "\t".join(map(str, COUNTS.sum(axis=1) // 10)) + "\n"
    samples, profiles = read(tmp_path, text)
    assert (np.stack(list(profiles.values())) < expected()).all()
    assert samples["unrecognised_share"].between(0.08, 0.1).all()


def test_a_source_that_is_mostly_unknown_ids_stops_the_build(tmp_path: Path) -> None:
    text = with_rows("ENSG00000999999")
    message = r"source x: 9\d\.\d% of what is counted is in 1 ids that no table of genes has, e\.g\. 'ENSG00000999999'"
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)
    _, profiles = read(tmp_path, text, build={"max_unrecognised_share": 1.0, "max_outside_share": 1.0})
    assert len(profiles) == 4


def test_a_source_that_is_mostly_outside_the_vocabulary_stops_the_build(tmp_path: Path) -> None:
    other = default_vocabulary().ensembl_ids[GENES]
    with pytest.raises(UserError, match=r"source x: 9\d\.\d% of what is counted is in genes outside the vocabulary"):
        read(tmp_path, with_rows(other))


@pytest.mark.parametrize(
    "text",
    [
        TABLE.split("\n", 1)[1],
        "__no_feature\t5\t6\t7\t8\n" + TABLE.split("\n", 1)[1],
        "N_unmapped\t5\t6\t7\n" + "".join(f"{gene}\t5\t6\t7\n" for gene in gene_ids()),
        "".join(f"{number}\t5\t6\n" for number in range(GENES)),
    ],
)
def test_a_table_without_header_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.tsv has no header.*first line is '.*put the names of the samples above"):
        read(tmp_path, text)


def test_samples_may_have_numbers_for_names(tmp_path: Path) -> None:
    _, profiles = read(tmp_path, delimited(COUNTS, gene_ids(), ["1", "2", "03", "4"]))
    assert_right(profiles, ["1", "2", "03", "4"])


@pytest.mark.parametrize(
    "added",
    [
        {"Length": 1000},
        {"EffectiveLength": 900.5, "entrez_id": range(GENES)},
        {"Chr": "chr1;chr1", "Start": 5, "End": 9, "Strand": "+;+", "width": 4},
        {"NCBI Gene ID": range(GENES)},
        {"gene_name": symbols(), "anything": "some text"},
        {"remark": ["", "NA", "x"] + [""] * (GENES - 3)},
    ],
)
def test_annotation_is_no_sample_and_is_named(
    added: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, profiles = read(tmp_path, with_columns(**added))
    assert_right(profiles)
    assert f"x: {len(added)} columns hold annotation and are no samples: {', '.join(map(repr, added))}" in (
        capsys.readouterr().err
    )


def test_annotation_that_the_sample_metadata_names_is_refused_or_read(tmp_path: Path) -> None:
    text = with_columns(Start=COUNTS[0] + 1)
    rows = "".join(f"{sample}\tx\n" for sample in ["Start", *SAMPLES])
    (tmp_path / "s.tsv").write_text("sample\ttissue\n" + rows)
    with pytest.raises(UserError, match=r"'Start' is a sample in s\.tsv, but .*drop_annotation: false reads it"):
        read(tmp_path, text, samples="s.tsv")
    _, profiles = read(tmp_path, text, samples="s.tsv", drop_annotation=False)
    assert list(profiles) == ["Start", *SAMPLES]


def test_a_table_whose_columns_are_genes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"40 of its 40 columns are genes, e\.g\. .*\(orientation: samples_x_genes\)"):
        read(tmp_path, delimited(COUNTS.T, SAMPLES, gene_ids()))


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_empty_lines_are_no_rows(ending: str, tmp_path: Path) -> None:
    assert_right(read(tmp_path, f"\n\n{TABLE}\n\n".replace("\n", ending))[1])


def test_ids_may_be_joined_with_symbols(tmp_path: Path) -> None:
    text = TABLE
    for gene, symbol in zip(gene_ids(), symbols(), strict=True):
        text = text.replace(f"{gene}\t", f"{gene}.3|{symbol}\t")
    assert_right(read(tmp_path, text)[1])


def test_numbers_with_divided_thousands_are_refused(tmp_path: Path) -> None:
    lines = [line.split("\t") for line in delimited(COUNTS * 100, gene_ids(), SAMPLES).splitlines()]
    rows = [line if number == 0 else [line[0], *(f"{int(n):,}" for n in line[1:])] for number, line in enumerate(lines)]
    with pytest.raises(UserError, match=r"no column holds numbers, e\.g\. '\d+,\d00' \(thousands must not be divided"):
        read(tmp_path, "\n".join("\t".join(row) for row in rows) + "\n")


def test_a_comment_of_featurecounts_is_skipped(tmp_path: Path) -> None:
    comment = '# Program:featureCounts v2.0.1; Command:"featureCounts" "-a" "x.gtf"\n'
    assert_right(read(tmp_path, comment + with_columns(Chr="1", Start=5, End=9, Strand="+", Length=3))[1])


def test_a_header_that_begins_with_a_hash_is_a_header(tmp_path: Path) -> None:
    assert_right(read(tmp_path, TABLE.replace("gene\t", "#gene\t", 1))[1])


def test_gct_is_read_and_its_rows_are_counted(tmp_path: Path) -> None:
    text = f"#1.2\n{GENES}\t4\n" + with_columns(Description=symbols())
    assert_right(read(tmp_path, text)[1])
    with pytest.raises(UserError, match=r"x\.tsv is cut off or damaged: 39 of its 40 rows are there"):
        read(tmp_path, text[: text[:-1].rindex("\n") + 1])


def test_gct_with_rows_about_samples_and_columns_about_genes(tmp_path: Path) -> None:
    header, rows = with_columns(score=range(GENES), note=symbols()).split("\n", 1)
    about = "age\tna\tna\t31\t45\t60\t22\nsite\tna\tna\ta\tb\tc\td\n"
    assert_right(read(tmp_path, f"#1.3\n{GENES}\t4\t2\t2\n{header}\n{about}{rows}")[1])


@pytest.mark.parametrize("where", ["rows", "header", "both"])
def test_a_delimiter_at_the_end_of_lines_shifts_nothing(where: str, tmp_path: Path) -> None:
    header, *rows = TABLE.splitlines()
    header += "\t" if where != "rows" else ""
    rows = [row + ("\t" if where != "header" else "") for row in rows]
    assert_right(read(tmp_path, "\n".join([header, *rows]) + "\n")[1])


@pytest.mark.parametrize("mark", ["NA", "-", "#N/A", "<NA>"])
def test_a_value_that_is_missing_is_not_measured_and_refuses_nothing(
    mark: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, profiles = read(tmp_path, TABLE.replace(f"\t{COUNTS[1, 5]}\t", f"\t{mark}\t", 1))
    assert np.isnan(np.stack(list(profiles.values()))).sum() == 1
    assert "x: 1 values are missing and count as not measured" in capsys.readouterr().err


def test_a_profile_with_many_missing_values_is_refused(tmp_path: Path) -> None:
    lines = [line.split("\t") for line in TABLE.splitlines()]
    for line in lines[1:10]:
        line[2] = "NA"
    samples, profiles = read(tmp_path, "\n".join("\t".join(line) for line in lines) + "\n")
    assert samples["reason"].tolist() == [None, "too_many_missing_values", None, None]
    assert samples["value"].tolist()[1] == "0.225"
    assert list(profiles) == [SAMPLES[0], *SAMPLES[2:]]


def test_a_profile_that_one_gene_holds_is_refused(tmp_path: Path) -> None:
    values = COUNTS.copy()
    values[0, 3] = 5_000_000_000
    samples, _ = read(tmp_path, delimited(values, gene_ids(), SAMPLES))
    assert samples["reason"].tolist() == ["one_gene_dominates", None, None, None]
    assert samples["value"].tolist()[0] == f"{gene_ids()[3]}: 1.000"


def test_a_repeated_gene_is_summed_refused_or_taken_once(tmp_path: Path) -> None:
    text = TABLE + f"{gene_ids()[2]}\t" + "\t".join(map(str, COUNTS[:, 2])) + "\n"
    with pytest.raises(UserError, match=r"1 of 41 gene ids occur more than once.*setting repeated_genes: sum or first"):
        read(tmp_path, text, repeated_genes="refuse")
    assert_right(read(tmp_path, text, repeated_genes="first")[1])
    doubled = COUNTS.copy()
    doubled[:, 2] *= 2
    _, profiles = read(tmp_path, text)
    assert np.allclose(np.stack(list(profiles.values())), expected(doubled), rtol=2e-3)


def test_a_repeated_gene_in_logarithms_is_refused_unless_told_what_to_do(tmp_path: Path) -> None:
    tpm = np.full((4, GENES), 1e6 / (GENES + 1))
    text = delimited(np.log2(tpm + 1), gene_ids(), SAMPLES)
    text += text.splitlines()[3] + "\n"
    with pytest.raises(UserError, match=r"1 of 41 gene ids occur more than once.*setting repeated_genes: sum or first"):
        read(tmp_path, text, units="log2_tpm_plus_1")
    _, profiles = read(tmp_path, text, units="log2_tpm_plus_1", repeated_genes="sum")
    assert profiles["s_000"][2] == pytest.approx(np.log1p(2e6 / (GENES + 1)), rel=2e-3)


def test_blanks_around_names_are_no_part_of_them(tmp_path: Path) -> None:
    lines = [line.split("\t") for line in TABLE.splitlines()]
    text = "\n".join("\t".join([f"{line[0]} ", *line[1:-1], f"{line[-1]} "]) for line in lines) + "\n"
    assert_right(read(tmp_path, text)[1])


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_an_encoding_is_declared_and_nothing_is_altered(encoding: str, tmp_path: Path) -> None:
    samples = ["Tumör 1", "Tumor 1", "é", "d"]
    content = delimited(COUNTS, gene_ids(), samples).encode(encoding)
    with pytest.raises(UserError, match=r"setting encoding, e\.g\. latin-1|UTF-16 \(encoding: utf-16\)"):
        read(tmp_path, content)
    assert_right(read(tmp_path, content, encoding=encoding)[1], samples)


def test_a_decimal_comma_is_a_setting_that_the_message_names(tmp_path: Path) -> None:
    text = TABLE.replace("\t", ";")
    for value in sorted(set(COUNTS.ravel().tolist()), reverse=True):
        text = text.replace(f";{value}", f";{value},0")
    with pytest.raises(UserError, match=r"no column holds numbers, e\.g\. '\d+,0' \(setting decimal: ','\)"):
        read(tmp_path, text, delimiter=";")
    assert_right(read(tmp_path, text, delimiter=";", decimal=",")[1])


def test_the_delimiter_that_would_divide_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no columns in its first line.*; ';' does \(setting delimiter\)"):
        read(tmp_path, TABLE.replace("\t", ";"))


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("x.tsv.bz2", bz2.compress),
        ("x.tsv.xz", lzma.compress),
        ("x.tsv.zst", lambda content: pa.Codec("zstd").compress(content, asbytes=True)),
        ("x.TSV.GZ", gzip.compress),
        ("x.txt", gzip.compress),
        ("x.tsv.gz", bytes),
    ],
)
def test_the_first_bytes_say_how_a_file_is_compressed(
    name: str, pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    assert_right(read(tmp_path, pack(TABLE.encode()), name)[1])


def test_csv_in_capitals_is_divided_by_commas(tmp_path: Path) -> None:
    assert_right(read(tmp_path, TABLE.replace("\t", ","), "X.CSV")[1])


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"PK\x03\x04" + b"\x00" * 30 + b"xl/workbook.xml" + b"\x00" * 99, "an Excel workbook"),
        (b"PK\x03\x04" + b"\x00" * 99, "a zip archive; unpack it first"),
        (b"PAR1" + b"\x00" * 99, "a Parquet file"),
        (b"\x89HDF\r\n\x1a\n" + b"\x00" * 99, r"an HDF5 file \(format: h5ad"),
        (b"\xd0\xcf\x11\xe0" + b"\x00" * 99, r"an Excel workbook \(xls\)"),
        (gzip.compress(b"RDX3\nX\n" + b"\x00" * 99), "an R data file"),
        (gzip.compress(b"x.tsv" + b"\x00" * 252 + b"ustar  "), "a tar archive"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"!Series_title\t1\n", "a GEO series matrix"),
        (b"\x01\x02\x00\x04" * 20, "a binary file"),
    ],
)
def test_what_is_no_table_is_named_for_what_it_is(content: bytes, kind: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"x\.tsv is {kind}"):
        read(tmp_path, content)


def write_per_sample(folder: Path, header: str = "Gene\tNCBI Gene ID\tcounts\tTPM\texpressed\n") -> None:
    for sample, row in zip(SAMPLES, COUNTS, strict=True):
        (folder / sample).mkdir()
        rows = [
            f"{gene}\t{n}\t{value}\t{value / 7}\tyes\n"
            for n, (gene, value) in enumerate(zip(gene_ids(), row, strict=True))
        ]
        for name in (f"{sample}.tsv", "quant.tsv"):
            (folder / sample / name).write_text(header + "".join(rows))


@pytest.mark.parametrize(
    ("path", "sample_from", "ids"),
    [
        ("*/s_*.tsv", "file", SAMPLES),
        ("*/quant.tsv", "folder", SAMPLES),
        ("*/quant.tsv", "path", [f"{sample}/quant" for sample in SAMPLES]),
    ],
)
def test_one_file_per_sample_is_named_by_its_file(path: str, sample_from: str, ids: list[str], tmp_path: Path) -> None:
    write_per_sample(tmp_path)
    _, profiles = read(tmp_path, "", path, value_column="counts", sample_from=sample_from)
    assert_right(profiles, ids)


def test_the_same_sample_in_two_files_is_one_line(tmp_path: Path) -> None:
    write_per_sample(tmp_path)
    message = (
        r"source x: 1 samples are in several of its 4 files, e\.g\. 'counts' in .*/s_000/quant\.tsv and "
        r".*/s_001/quant\.tsv; sample_from: file, folder, path or a regular expression names samples by "
        r"their file"
    )
    with pytest.raises(UserError, match=message):
        read(tmp_path, "", "*/quant.tsv", value_column="counts")


def test_files_with_several_samples_can_be_told_apart(tmp_path: Path) -> None:
    for name, rows in (("a.tsv", COUNTS[:2]), ("b.tsv", COUNTS[2:])):
        (tmp_path / name).write_text(delimited(rows, gene_ids(), ["1", "2"]))
    _, profiles = read(tmp_path, "", "*.tsv", sample_from="file")
    assert_right(profiles, ["a/1", "a/2", "b/1", "b/2"])


def test_words_for_missing_are_no_labels(tmp_path: Path) -> None:
    values = ["NA", "[Not Available]", "not reported", "liver"]
    rows = "".join(f"{sample}\t{value}\tS{n}\n" for n, (sample, value) in enumerate(zip(SAMPLES, values, strict=True)))
    (tmp_path / "s.tsv").write_text("sample\ttissue\tstudy\n" + rows)
    samples, _ = read(tmp_path, TABLE, samples="s.tsv")
    assert samples["label:tissue"].tolist() == [None, None, None, "liver"]
    samples, _ = read(tmp_path, TABLE, samples="s.tsv", missing_labels=["liver"])
    assert samples["label:tissue"].tolist() == [*values[:3], None]


def test_labels_may_have_any_name(tmp_path: Path) -> None:
    header = ["sample", "reason", "genes", "profile", "value", "dates"]
    rows = "".join("\t".join([sample, *"abcde"]) + "\n" for sample in SAMPLES)
    (tmp_path / "s.tsv").write_text("\t".join(header) + "\n" + rows)
    samples, profiles = read(tmp_path, TABLE, samples="s.tsv")
    assert_right(profiles)
    assert samples[[f"label:{name}" for name in header[1:]]].to_numpy().tolist() == [list("abcde")] * 4


def test_samples_that_two_sources_share_are_said_to_be_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = []
    for name, values in (("one", COUNTS), ("two", COUNTS[::-1])):
        (tmp_path / f"{name}.tsv").write_text(delimited(values, gene_ids(), [SAMPLES[0], *names(name, 3)]))
        sources.append({"name": name, "path": f"{name}.tsv", "gene_id": "ensembl", "units": "counts", "study": "x"})
    samples, _ = read_without_ray(build_settings(tmp_path, sources))
    said = capsys.readouterr().err
    assert "two: 1 of 4 samples are refused as duplicate_sample_id, e.g. of one: s_000" in said
    assert "two: 3 of 4 samples are refused as duplicate_profile, e.g. of one: one_001" in said
    assert samples["reason"].notna().sum() == 4


def test_sums_of_base_coverage_are_reads_of_one_length(tmp_path: Path) -> None:
    text = "##annotation=G026\n##date.generated=2020-10-20\n" + delimited(COUNTS * 36, gene_ids(), SAMPLES)
    assert_right(read(tmp_path, text, units="base_coverage")[1])
    reads = int(COUNTS.sum(axis=1)[0])
    bounds = {"min_library_size": reads + 1}
    with pytest.raises(UserError, match="library"):
        read(
            tmp_path,
            delimited(COUNTS[:1] * 36, gene_ids(), SAMPLES[:1]),
            build=bounds,
            units="base_coverage",
            read_length=36,
        )
    _, profiles = read(tmp_path, text, build={"min_library_size": reads}, units="base_coverage", read_length=36)
    assert SAMPLES[0] in profiles
    with pytest.raises(UserError, match="read_length would have no effect on counts"):
        read(tmp_path, text, read_length=36)


def test_counts_that_tximport_made_of_tpm_go_by_their_names(tmp_path: Path) -> None:
    per_length = COUNTS / default_vocabulary().lengths_bp[:GENES]
    scaled = per_length / per_length.sum(axis=1, keepdims=True) * COUNTS.sum(axis=1, keepdims=True)
    assert_right(read(tmp_path, delimited(scaled, gene_ids(), SAMPLES), units="scaled_tpm")[1])
    by_length = scaled * default_vocabulary().lengths_bp[:GENES] / 1000
    assert_right(read(tmp_path, delimited(by_length, gene_ids(), SAMPLES), units="length_scaled_tpm")[1])
