"""From a file in ARCHS4's layout to a corpus, beside a loop in NumPy that does the same arithmetic in one process.

Makes the file in a temporary folder (chunks of genes x samples, gzip), reads it with the loop, which writes nothing,
and builds a corpus of it with Ray. Prints one line of JSON: seconds, rates, how many times the loop's rate the build
has with and without the start of Ray, and the largest sum of what all processes of the build hold (shared memory
counted once)::

    python benchmarks/archs4.py --samples 20000
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import psutil
import yaml

from dataprep.config import BuildSettings
from dataprep.genes.identifiers import map_genes
from dataprep.genes.vocabulary import default_vocabulary, gene_reference
from dataprep.pipeline.build import build
from dataprep.runtime.command_line import read_settings
from dataprep.runtime.ray_session import connected

GENES = 60_000
STUDIES = 20
# so many samples are made, and read by the loop, at a time
BLOCK = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=3_000)
    parser.add_argument("--chunk-genes", type=int, default=2_000)
    parser.add_argument("--chunk-samples", type=int, default=64)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="archs4-bench-") as place:
        file = Path(place) / "archs4.h5"
        make_file(file, arguments.samples, (arguments.chunk_genes, arguments.chunk_samples))
        began = time.perf_counter()
        loop_total = loop(file)
        loop_seconds = time.perf_counter() - began
        settings = build_settings(Path(place), file)
        began = time.perf_counter()
        with PeakMemory() as memory, connected():
            started = time.perf_counter()
            kept = build(settings)["samples"]["kept"]
            ended = time.perf_counter()
    assert loop_total > 0
    rates = {"loop": arguments.samples / loop_seconds, "build": arguments.samples / (ended - started)}
    print(
        json.dumps(
            {
                **vars(arguments),
                "genes": GENES,
                "kept": kept,
                "loop_seconds": round(loop_seconds, 1),
                "build_seconds": round(ended - started, 1),
                "ray_start_seconds": round(started - began, 1),
                **{f"{name}_samples_per_second": round(rate, 1) for name, rate in rates.items()},
                "build_over_loop": round(rates["build"] / rates["loop"], 2),
                "build_with_start_over_loop": round(arguments.samples / (ended - began) / rates["loop"], 2),
                "peak_gib": round(memory.peak_bytes / 1024**3, 2),
            }
        )
    )


def make_file(path: Path, samples: int, chunks: tuple[int, int]) -> None:
    """Counts of 20 million reads a sample, of genes whose means are log-normal; three in ten are silent outside of the
    vocabulary. The first block is drawn, the others are it with up to three reads more a gene."""
    rng = np.random.default_rng(0)
    genes = list(gene_reference().length_bp_of)[:GENES]
    means = rng.lognormal(0, 2.2, len(genes)) * (rng.random(len(genes)) < 0.7)
    in_vocabulary = np.isin(genes, default_vocabulary().ensembl_ids)
    # most genes of the vocabulary are expressed, so that profiles pass the quality control
    means[in_vocabulary] += 2.0
    means *= 2e7 / means.sum()
    with h5py.File(path, "w") as file:
        counts = file.create_dataset(
            "data/expression", (len(genes), samples), np.uint32, chunks=chunks, compression="gzip", compression_opts=1
        )
        drawn = rng.poisson(means[:, None] * rng.lognormal(0, 0.3, BLOCK)).astype(np.uint32)
        for start in range(0, samples, BLOCK):
            block = drawn[:, : samples - start]
            more = rng.integers(0, 4, block.shape, np.uint8) if start else np.uint8(0)
            counts[:, start : start + BLOCK] = block + more * (block > 0)
        file["meta/genes/ensembl_gene"] = [gene.encode() for gene in genes]
        file["meta/samples/geo_accession"] = [f"GSM{number}".encode() for number in range(samples)]
        file["meta/samples/series_id"] = [f"GSE{number % STUDIES}".encode() for number in range(samples)]


def loop(path: Path) -> float:
    """log1p(TPM) of all samples over the vocabulary in float16, block after block; the sum, so that all is computed."""
    vocabulary, total = default_vocabulary(), 0.0
    with h5py.File(path) as file:
        genes = [gene.decode() for gene in file["meta/genes/ensembl_gene"][()]]
        mapping = map_genes("loop", genes, "ensembl", vocabulary)
        rows = np.flatnonzero(mapping.columns >= 0)
        weights = (1 / mapping.lengths_bp).astype(np.float32)
        counts = file["data/expression"]
        for start in range(0, counts.shape[1], BLOCK):
            rates = counts[:, start : start + BLOCK].T * weights
            tpm = np.full((len(rates), vocabulary.size), np.nan, np.float32)
            tpm[:, mapping.columns[rows]] = rates[:, rows]
            tpm *= 1e6 / rates.sum(axis=1, keepdims=True)
            profiles = np.log1p(tpm).astype(np.float16)
            total += float(np.nansum(profiles, dtype=np.float64))
    return total


def build_settings(place: Path, file: Path) -> BuildSettings:
    source = {"name": "archs4", "format": "archs4", "path": str(file), "gene_id": "ensembl"}
    (place / "build.yaml").write_text(yaml.safe_dump({"sources": [source]}))
    return read_settings(BuildSettings, ["--config", str(place / "build.yaml"), "--corpus", str(place / "corpus")])


class PeakMemory(contextlib.AbstractContextManager["PeakMemory"]):
    """The largest sum of the proportional memory of this process and all that it started, looked at twice a second."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.5):
            held = 0
            for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    held += process.memory_full_info().pss
            self.peak_bytes = max(self.peak_bytes, held)


if __name__ == "__main__":
    main()
