"""Files as counting and quantifying programs write them, for one sample, of any rows and values."""

import io
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np

# Bases of a transcript that its ends take from the places where a read can start.
_ENDS = 150


def star(genes: Sequence[str], counts: Sequence[int]) -> bytes:
    """ReadsPerGene.out.tab: of a stranded library, all reads on the second strand."""
    rows = [("N_unmapped", 9, 9, 9), ("N_multimapping", 8, 8, 8), ("N_noFeature", 7, 70, 8), ("N_ambiguous", 5, 1, 2)]
    return _lines([*rows, *((gene, count, 0, count) for gene, count in zip(genes, counts, strict=True))])


def htseq(genes: Sequence[str], counts: Sequence[int], attribute: Sequence[str] | None = None) -> bytes:
    """With the names that --additional-attr adds, where there are any."""
    between = [[name] for name in attribute] if attribute is not None else [[]] * len(genes)
    summary = ["__no_feature", "__ambiguous", "__too_low_aQual", "__not_aligned", "__alignment_not_unique"]
    blank = [""] if attribute is not None else []
    rows = [(gene, *name, count) for gene, name, count in zip(genes, between, counts, strict=True)]
    return _lines([*rows, *((name, *blank, 1000) for name in summary)])


def featurecounts(genes: Sequence[str], counts: Any, alignments: Sequence[str], names: bool = False) -> bytes:
    """``counts`` [genes, alignments]; with the gene names that --extraAttributes adds."""
    comment = '# Program:featureCounts v2.0.6; Command:"featureCounts" "-a" "genes.gtf" "-o" "counts.txt" "S1.bam" \n'
    extra = ["gene_name"] if names else []
    header = ["Geneid", "Chr", "Start", "End", "Strand", "Length", *extra, *alignments]
    about = ["chr1;chr1", "11869;12613", "12227;12721", "+;+", 468, *(["NAME"] if names else [])]
    return comment.encode() + _lines([header, *([gene, *about, *row] for gene, row in zip(genes, counts, strict=True))])


def rsem(genes: Sequence[str], counts: Any, lengths: Any) -> bytes:
    """SAMPLE.genes.results."""
    header = ["gene_id", "transcript_id(s)", "length", "effective_length", "expected_count", "TPM", "FPKM"]
    rows = [
        (
            gene,
            f"ENST{gene[4:]},ENST{gene[4:]}_2",
            f"{length:.2f}",
            f"{effective:.2f}",
            f"{c:.2f}",
            f"{t:.4f}",
            f"{f:.4f}",
        )
        for gene, length, effective, c, t, f in _estimates(genes, counts, lengths)
    ]
    return _lines([header, *rows])


def salmon(names: Sequence[str], counts: Any, lengths: Any) -> bytes:
    """quant.sf."""
    header = ["Name", "Length", "EffectiveLength", "TPM", "NumReads"]
    return _lines(
        [
            header,
            *(
                (n, int(ln), f"{e:.3f}", f"{t:.6f}", f"{c:.3f}")
                for n, ln, e, c, t, _ in _estimates(names, counts, lengths)
            ),
        ]
    )


def kallisto(names: Sequence[str], counts: Any, lengths: Any) -> bytes:
    """abundance.tsv."""
    header = ["target_id", "length", "eff_length", "est_counts", "tpm"]
    return _lines(
        [
            header,
            *(
                (n, int(ln), f"{e:.6g}", f"{c:.6g}", f"{t:.6g}")
                for n, ln, e, c, t, _ in _estimates(names, counts, lengths)
            ),
        ]
    )


def kallisto_h5(names: Sequence[str], counts: Any, lengths: Any) -> bytes:
    """abundance.h5, with one bootstrap."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file["est_counts"] = np.asarray(counts, np.float64)
        file["aux/ids"] = np.array([name.encode() for name in names])
        file["aux/lengths"] = np.asarray(lengths, np.int32)
        file["aux/eff_lengths"] = np.asarray(lengths, np.float64) - _ENDS
        file["aux/num_bootstrap"] = np.array([1], np.int32)
        file["aux/kallisto_version"] = np.array([b"0.48.0"])
        file["bootstrap/bs0"] = np.asarray(counts, np.float64)
    return content.getvalue()


def archs4(genes: Sequence[str], counts: Any, version: int = 2, **meta: Sequence[Any]) -> bytes:
    """A file of ARCHS4 with ``counts`` [samples, genes] and metadata of the samples, series_id at the least."""
    counts = np.asarray(counts, np.uint32)
    accessions = [f"GSM{number}" for number in range(len(counts))]
    meta = {"geo_accession": accessions, "series_id": ["GSE1"] * len(counts)} | meta
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        old = version == 1
        file.create_dataset("data/expression", data=counts if old else counts.T, chunks=(2, 2), compression="gzip")
        for name, values in meta.items():
            stored = np.array(values) if isinstance(values[0], float) else [value.encode() for value in values]
            file[f"meta/Sample_{name}" if old else f"meta/samples/{name}"] = stored
        if old:
            file["meta/genes"] = [gene.encode() for gene in genes]
        else:
            file["meta/genes/ensembl_gene"] = [gene.encode() for gene in genes]
            file["meta/genes/symbol"] = [f"SYMBOL{number}".encode() for number in range(len(genes))]
    return content.getvalue()


def effective_tpm(counts: Any, lengths: Any) -> np.ndarray:
    """TPM by effective lengths, as all of these programs compute it."""
    rates = np.asarray(counts) / (np.asarray(lengths) - _ENDS)
    return rates / rates.sum() * 1e6


def _estimates(names: Sequence[str], counts: Any, lengths: Any) -> list[tuple[str, float, float, float, float, float]]:
    tpm = effective_tpm(counts, lengths)
    fpkm = np.asarray(counts) / (np.asarray(lengths) - _ENDS) / np.sum(counts) * 1e9
    return list(zip(names, lengths, np.asarray(lengths) - _ENDS, counts, tpm, fpkm, strict=True))


def _lines(rows: Sequence[Sequence[Any]]) -> bytes:
    return "".join("\t".join(map(str, row)) + "\n" for row in rows).encode()
