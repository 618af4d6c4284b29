"""What a file may be, from its first bytes or lines."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence

from dataprep.probing.guess import (
    Guess,
    are_transcripts,
    by_preset,
    gene_id_setting,
    kinds_of,
    units_settings,
    with_settings,
)
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder, split_file_address
from dataprep.sources.anndata_forms.elements import require_obs_and_var
from dataprep.sources.anndata_forms.zarr_folder import is_zarr, opened_zarr
from dataprep.sources.hdf5.files import opened_hdf5
from dataprep.sources.table_layout import MISSING, find_layout
from dataprep.sources.text_columns import TextForm, first_lines
from dataprep.sources.text_files import delimiter_of

_ROWS = 500
_GTF = {"transcripts": ("GTF_OR_TABLE", "rows are transcripts: name the annotation that sums them to genes")}
# Headers that only one program writes, by preset.
_HEADERS = {
    ("Name", "Length", "EffectiveLength", "TPM", "NumReads"): ("salmon", "Salmon's quant.sf"),
    ("target_id", "length", "eff_length", "est_counts", "tpm"): ("kallisto", "kallisto's abundance.tsv"),
    ("gene_id", "transcript_id(s)", "length", "effective_length", "expected_count"): ("rsem", "RSEM's genes.results"),
    ("transcript_id", "gene_id", "length", "effective_length", "expected_count"): ("rsem", "RSEM's isoforms.results"),
    ("Geneid", "Chr", "Start", "End", "Strand", "Length"): ("featurecounts", "featureCounts"),
}


def recognise(address: str) -> Guess:
    """The settings that fit a file. Raises :class:`UserError` for what no reader is for, or cannot be read."""
    if is_zarr(address):
        return _zarr(address)
    place, name = split_file_address(address)
    try:
        with Folder(place).open(name) as stream:
            first = stream.read(16)
    except FileNotFoundError:
        raise UserError(f"no such file: {address}") from None
    if first.startswith(b"\x89HDF"):
        return _hdf5(address)
    if first.startswith(b"%%MatrixMarket"):
        files = {key: ("FILE", f"the file of {what}, in the same folder") for key, what in _LISTS.items()}
        return with_settings(
            Guess("a Matrix Market matrix", [("format", "matrix_market", "by its first line")]), files | _UNKNOWN
        )
    if first.startswith((b"PAR1", b"ARROW1")):
        form = "parquet" if first.startswith(b"PAR1") else "feather"
        return with_settings(Guess(f"a {form} file", [("format", form, "by its first bytes")]), _UNKNOWN)
    lines = first_lines(address, TextForm())
    return _program(address, lines) or _table(address, lines)


_LISTS = {"gene_names": "gene ids", "sample_names": "samples"}
_UNKNOWN: dict[str, tuple[str | float, str]] = {
    "gene_id": ("SAY_WHICH", "not looked at in such a file"),
    "units": ("SAY_WHICH", "not looked at in such a file"),
}


def _hdf5(address: str) -> Guess:
    with opened_hdf5(address, "HDF5", (), in_blocks=True) as file:
        names = set(file)
        if {"data", "meta"} <= names:
            return by_preset("ARCHS4's HDF5", "archs4", "it has data and meta")
        if {"aux", "est_counts"} <= names:
            return with_settings(
                by_preset("kallisto's abundance.h5", "kallisto", "it has aux and est_counts", one_sample=True), _GTF
            )
        if {"obs", "var"} <= names:
            return with_settings(Guess("AnnData", [("format", "h5ad", "it has obs and var")]), _UNKNOWN)
    raise UserError(f"{address} is HDF5 of none of the forms that are known: it has {', '.join(sorted(names)[:8])}")


def _zarr(address: str) -> Guess:
    with opened_zarr(address, zeros_left_out=False) as group:
        require_obs_and_var(address, group)
    return with_settings(Guess("AnnData in Zarr", [("format", "zarr", "a Zarr folder with obs and var")]), _UNKNOWN)


def _program(address: str, lines: Sequence[str]) -> Guess | None:
    """What a program wrote, where its first lines say so."""
    comments = [line for line in lines[:20] if line.startswith("#")]
    header, *rows = list(csv.reader(lines[len(comments) : len(comments) + _ROWS], delimiter="\t")) or [[]]
    names = [row[0] for row in rows if row]
    if comments and comments[0].startswith("##annotation=") and header[0] == "gene_id":
        return with_settings(
            by_preset("recount3's sums of base coverage", "recount3", "its first line is ##annotation="),
            {},
            ["base coverage is reads times read length: TPM are the same, but min_library_size would count bases"],
        )
    if comments and comments[0].startswith(("#1.2", "#1.3")):
        return None
    for columns, (preset, form) in _HEADERS.items():
        if tuple(header[: len(columns)]) == columns:
            guess = by_preset(form, preset, f"its columns are {', '.join(columns[:4])}, ...", one_sample=True)
            return with_settings(guess, _GTF if are_transcripts(names) and preset != "rsem" else {})
    if header[0] == "N_unmapped" and len(header) == 4:
        doubt = "the column of a stranded library is another one: value_column: stranded_first or stranded_second"
        return with_settings(
            by_preset("STAR's ReadsPerGene", "star", "four columns, the first row is N_unmapped", one_sample=True),
            {},
            [doubt],
        )
    counts = [[header[0], header[-1]], *([row[0], row[-1]] for row in rows if row)]
    if len(header) == 2 and header[1].isdigit() and max(kinds_of([row[0] for row in counts]).values()) > 0.5:
        guess = by_preset("output of htseq-count", "htseq", "gene and count, without header", one_sample=True)
        return _with_gene_id(guess, [row[0] for row in counts])
    return None


def _with_gene_id(guess: Guess, row_names: Sequence[str]) -> Guess:
    """A preset has Ensembl ids; others are said."""
    key, kind, reason = gene_id_setting(row_names)
    return guess if kind == "ensembl" else with_settings(guess, {key: (kind, reason)})


def _table(address: str, lines: Sequence[str]) -> Guess:
    delimiter = delimiter_of(address)
    if delimiter not in lines[0] and len(lines) > 2 and delimiter not in lines[2]:
        delimiter = next((other for other in ("\t", ",", ";") if other in lines[0]), delimiter)
    layout = find_layout(address, lines, delimiter, (), None, True, ".")
    rows = list(csv.reader(lines[layout.header_lines : layout.header_lines + _ROWS], delimiter=delimiter))
    names = [row[0] for row in rows if row]
    if not names:
        raise UserError(f"{address} has a header but no rows")
    numbers = [_number(row[column]) for row in rows for column in layout.kept if len(row) > column]
    values = [value for value in numbers if value is not None]
    if not values:
        raise UserError(f"{address}: none of the first {len(rows):,} rows has numbers")
    gct = lines[0].startswith(("#1.2", "#1.3"))
    doubts = [f"columns taken for annotation: {', '.join(layout.ignored[:5])}"] if layout.ignored and not gct else []
    if are_transcripts(names):
        doubts.append("rows are transcripts")
    gene_id = gene_id_setting(names)
    units, more = units_settings(values, address.rpartition("/")[2])
    preset = _preset(layout.kept_names, gene_id[1], units, values, gct)
    if preset is not None:
        (name, form, reason), known = preset
        left = [setting for setting in units if setting[:2] not in known]
        return Guess(form, [("preset", name, reason), *left], name, doubts)
    given = [("delimiter", delimiter, "it divides the first lines")] if delimiter != delimiter_of(address) else []
    transcripts = [(key, *value) for key, value in _GTF.items()] if are_transcripts(names) else []
    form = f"a table of {len(layout.kept):,} columns of values"
    if transcripts:
        gene_id = ("gene_id", "ensembl", "of the genes that the transcripts are summed to")
    return Guess(
        form, [("format", "table", "no preset is for it"), *given, *transcripts, gene_id, *units], None, doubts + more
    )


_Preset = tuple[tuple[str, str, str], list[tuple[str, str | float]]]


def _preset(
    samples: Sequence[str],
    gene_id: str,
    units: Sequence[tuple[str, str | float, str]],
    values: Sequence[float],
    gct: bool,
) -> _Preset | None:
    """The preset of a table, with the settings that need not be said beside it."""
    said = {key: value for key, value, _ in units}
    of_tcga = all(sample.startswith("TCGA-") for sample in samples)
    if gct and gene_id == "ensembl":
        return ("gtex_gct", "a GCT file", "its first line is #1.2 or #1.3"), [("units", "counts")]
    if (
        gene_id == "ensembl"
        and said.get("log_offset") == 0.001
        and math.isclose(min(values), math.log2(0.001), abs_tol=0.01)
    ):
        reason = f"its smallest value is {min(values):g}, log2 of 0.001"
        return ("xena_log2", "log2(TPM + 0.001) of UCSC Xena", reason), [
            ("units", "log2_tpm_plus_1"),
            ("log_offset", 0.001),
        ]
    if of_tcga and gene_id == "symbol_entrez" and min(values) >= 0:
        reason = "samples are TCGA-..., genes SYMBOL|Entrez"
        return ("tcga_rsem", "RSEM's counts of TCGA", reason), [(key, value) for key, value, _ in units]
    return None


def _number(text: str) -> float | None:
    if text.strip() in MISSING:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
