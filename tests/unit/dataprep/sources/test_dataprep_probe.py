"""`probe` writes the sources that read a file, a reason for each guess, and leaves what it cannot see to a person."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import yaml

from dataprep.__main__ import COMMANDS
from dataprep.config import ProbeSettings
from dataprep.genes.vocabulary import default_vocabulary
from dataprep.probing.command import probe
from dataprep.runtime.command_line import UserError, main
from dataprep.sources.registry import PRESETS
from tests import made_program_files as written
from tests.made_sources import GENES, build_settings, counts, delimited, gene_ids, names, read_without_ray, symbols

COUNTS, SAMPLES = counts(3), names("s", 3)
LENGTHS = default_vocabulary().lengths_bp[:GENES]
TPM = COUNTS / LENGTHS / (COUNTS / LENGTHS).sum(axis=1, keepdims=True) * 1e6
WITH_VERSION = [f"{gene}.5" for gene in gene_ids()]
TRANSCRIPTS = [f"ENST{gene[4:]}.1" for gene in gene_ids()]
ENTREZ = [f"{symbol}|{number}" for number, symbol in enumerate(symbols(), start=7)]
TCGA = [f"TCGA-OR-A5J{number}-01A-11R-A29S-07" for number in range(3)]


def gct() -> bytes:
    table = delimited(COUNTS, WITH_VERSION, SAMPLES).splitlines()
    rows = [row.replace("\t", f"\t{name}\t", 1) for row, name in zip(table[1:], symbols(), strict=True)]
    header = "Name\tDescription\t" + "\t".join(SAMPLES)
    return "\n".join(["#1.2", f"{GENES}\t3", header, *rows, ""]).encode()


def xena() -> bytes:
    values = np.round(np.log2(np.column_stack([TPM, np.zeros(3)]) + 0.001), 4)
    return delimited(values, [*WITH_VERSION, "ENSG00000223972.5"], SAMPLES).replace("gene\t", "sample\t", 1).encode()


def recount3() -> bytes:
    table = delimited(100 * COUNTS, WITH_VERSION, SAMPLES).replace("gene\t", "gene_id\t", 1)
    return f"##annotation=G026\n##date.generated=2021-01-01\n{table}".encode()


Content = Callable[[int], bytes]
# Files as their programs write them, by preset: the name of that of a sample (or of all), and its content.
FILES: dict[str, tuple[str, Content]] = {
    "archs4": ("human_gene.h5", lambda _: written.archs4(gene_ids(), COUNTS)),
    "gtex_gct": ("gene_reads.gct.gz", lambda _: gzip.compress(gct())),
    "xena_log2": ("gene_tpm.gz", lambda _: gzip.compress(xena())),
    "recount3": ("sra.gene_sums.SRP1.G026.gz", lambda _: gzip.compress(recount3())),
    "star": ("{}_ReadsPerGene.out.tab", lambda number: written.star(gene_ids(), COUNTS[number])),
    "featurecounts": (
        "counts.txt", lambda _: written.featurecounts(gene_ids(), COUNTS.T, [f"{sample}.bam" for sample in SAMPLES])
    ),
    "htseq": ("htseq/{}.txt", lambda number: written.htseq(gene_ids(), COUNTS[number])),
    "salmon": ("salmon/{}/quant.sf", lambda number: written.salmon(TRANSCRIPTS, COUNTS[number], LENGTHS + 200)),
    "kallisto": ("{}/abundance.tsv", lambda number: written.kallisto(TRANSCRIPTS, COUNTS[number], LENGTHS + 200)),
    "rsem": ("{}.genes.results", lambda number: written.rsem(gene_ids(), COUNTS[number], LENGTHS + 200)),
    "tcga_rsem": ("expression.txt", lambda _: delimited(COUNTS + 0.5, ENTREZ, TCGA).encode()),
}  # fmt: skip


def write(folder: Path, name: str, content: Content) -> list[str]:
    """The addresses of the files of all samples."""
    paths = [folder / name.format(sample) for sample in (SAMPLES if "{}" in name else [""])]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(number))
    return list(map(str, paths))


def probed(files: list[str], capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    probe(ProbeSettings(files=files))
    return yaml.safe_load(capsys.readouterr().out)["sources"]


def test_there_is_a_file_for_every_preset() -> None:
    assert set(FILES) == set(PRESETS)


@pytest.mark.parametrize("preset", FILES)
def test_the_preset_of_a_programs_file_is_named_and_reads_it(
    preset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write(tmp_path, *FILES[preset])
    (source,) = probed(files, capsys)
    assert source["preset"] == preset
    # what was guessed, and nothing that the preset says
    assert set(source) <= {"name", "path", "preset", "study", "transcripts"}
    if "transcripts" in source:
        table = "".join(f"{name}\t{gene}\n" for name, gene in zip(TRANSCRIPTS, gene_ids(), strict=True))
        (tmp_path / "transcripts.tsv").write_text(table)
        source["transcripts"] = "transcripts.tsv"
    _, profiles = read_without_ray(build_settings(tmp_path, [source]))
    rate = COUNTS / LENGTHS
    if preset == "tcga_rsem":
        rate = (COUNTS + 0.5) / LENGTHS
    if preset in ("salmon", "kallisto", "rsem"):
        rate = np.stack([written.effective_tpm(row, LENGTHS + 200) for row in COUNTS])
    assert np.allclose(list(profiles.values()), np.log1p(rate / rate.sum(axis=1, keepdims=True) * 1e6), rtol=3e-3)


def test_files_of_one_form_are_one_source_where_a_pattern_has_them_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [file for preset in ("salmon", "htseq", "kallisto") for file in write(tmp_path, *FILES[preset])]
    assert [Path(source["path"]).relative_to(tmp_path).as_posix() for source in probed(files, capsys)] == [
        "salmon/*/quant.sf",
        "htseq/*.txt",
        "*/abundance.tsv",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (delimited(COUNTS, gene_ids(), SAMPLES), {"gene_id": "ensembl", "units": "counts"}),
        (delimited(COUNTS, symbols(), SAMPLES), {"gene_id": "symbol", "units": "counts"}),
        (delimited(COUNTS, ENTREZ, SAMPLES), {"gene_id": "symbol_entrez", "units": "counts"}),
        (delimited(COUNTS, gene_ids()[:20] + symbols()[20:], SAMPLES), {"gene_id": "mixed", "units": "counts"}),
        (delimited(COUNTS, gene_ids(), SAMPLES, ";"), {"delimiter": ";", "gene_id": "ensembl", "units": "counts"}),
        (delimited(TPM, gene_ids(), SAMPLES), {"gene_id": "ensembl", "units": "SAY_WHICH"}),
        (delimited(np.log2(TPM + 1), gene_ids(), SAMPLES), {"gene_id": "ensembl", "units": "SAY_WHICH"}),
        (delimited(COUNTS - 900.5, gene_ids(), SAMPLES), {"gene_id": "ensembl", "units": "SAY_WHICH"}),
    ],
)
def test_of_a_table_ids_and_scale_are_guessed_and_what_cannot_be_seen_is_not(
    text: str, expected: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.tsv").write_text(text)
    (source,) = probed([str(tmp_path / "x.tsv")], capsys)
    assert source == {"name": "x", "path": str(tmp_path / "x.tsv"), "format": "table", "study": "x"} | expected


def test_a_build_refuses_what_a_person_has_not_decided(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.tsv").write_text(delimited(TPM, gene_ids(), SAMPLES))
    (source,) = probed([str(tmp_path / "x.tsv")], capsys)
    with pytest.raises(UserError, match=r"sources\.0.*units"):
        build_settings(tmp_path, [source])


def test_every_guess_stands_beside_its_reason_and_doubts_are_comments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.tsv").write_text(delimited(COUNTS, gene_ids(), SAMPLES))
    probe(ProbeSettings(files=[str(tmp_path / "x.tsv")]))
    lines = capsys.readouterr().out.splitlines()
    assert f"    units: counts  # all of {COUNTS.size} values looked at are whole numbers" in lines
    assert any(line.startswith("  # in doubt: whole numbers can also be") for line in lines)
    guesses = [line for line in lines if line.startswith("    ") and "path:" not in line]
    assert all("  # " in line for line in guesses)


def test_an_anndata_file_is_told_by_its_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    anndata.AnnData(np.ones((2, 3), np.float32)).write_h5ad(tmp_path / "x.h5ad")
    (source,) = probed([str(tmp_path / "x.h5ad")], capsys)
    assert (source["format"], source["units"]) == ("h5ad", "SAY_WHICH")


def test_what_is_not_known_is_said_beside_what_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "good.tsv").write_text(delimited(COUNTS, gene_ids(), SAMPLES))
    (tmp_path / "book.xlsx").write_bytes(b"PK\x03\x04xl/")
    files = [str(tmp_path / "good.tsv"), str(tmp_path / "book.xlsx"), str(tmp_path / "gone.tsv")]
    assert main("dataprep", "", COMMANDS, ["probe", *files, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["presets"] == dict.fromkeys(files)
    assert "an Excel workbook" in found["unknown"][files[1]]
    assert found["unknown"][files[2]].startswith("no such file")
    with pytest.raises(UserError, match="an Excel workbook"):
        probe(ProbeSettings(files=files[1:2]))


def test_what_a_source_says_goes_before_its_preset(tmp_path: Path) -> None:
    entry = {"name": "x", "preset": "xena_log2", "path": "x.tsv"}
    (source,) = build_settings(tmp_path, [entry | {"units": "tpm", "study": "s"}]).sources
    assert (source.units, source.log_offset, source.study) == ("tpm", 1.0, "s")
    (source,) = build_settings(tmp_path, [entry]).sources
    assert (source.units, source.log_offset, source.study) == ("log2_tpm_plus_1", 0.001, "x")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"preset": "salmn"}, "unknown preset 'salmn' .did you mean 'salmon'"),
        ({"preset": "star", "format": "htseq"}, "preset star is for format star, not htseq"),
    ],
)
def test_a_preset_that_is_none_or_contradicts_is_refused(more: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        build_settings(tmp_path, [{"name": "x", "path": "x"} | more])
