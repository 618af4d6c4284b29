"""From a file in ARCHS4's layout to a corpus, beside a loop in NumPy that does the same arithmetic in one process.

Makes two files (chunks of genes x samples, gzip), one of fewer samples. Reads the larger one with the loop, which
writes nothing, and builds corpora with Ray: of both files from disk, and of the larger one from an S3 server of this
machine. Prints one line of JSON: seconds, rates, how many times the loop's rate a build has with and without the start
of Ray, and the largest sum of what all processes of a build hold (shared memory counted once); then the figures that
have bounds beside these, and ends with 1 where one is broken::

    python benchmarks/archs4.py --samples 20000 --fewer 5000
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import yaml
from support.bounds import Bound, end_with
from support.memory import PeakMemory
from support.object_store import object_store

from dataprep.config import BuildSettings
from dataprep.genes.identifiers import map_genes
from dataprep.genes.vocabulary import default_vocabulary, gene_reference
from dataprep.pipeline.build import build
from dataprep.runtime.command_line import read_settings
from dataprep.runtime.ray_session import connected
from dataprep.runtime.storage import Folder

GENES = 60_000
STUDIES = 20
# so many samples are made, and read by the loop, at a time
BLOCK = 512


@dataclass(frozen=True)
class Measured:
    """Of one build: profiles kept, seconds without and with the start of Ray, and memory at its peak."""

    kept: int
    seconds: float
    seconds_with_start: float
    peak_gib: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--fewer", type=int, default=5_000, help="samples of the smaller file")
    parser.add_argument("--chunk-genes", type=int, default=2_000)
    parser.add_argument("--chunk-samples", type=int, default=64)
    parser.add_argument("--folder", type=Path, help="make the files here and keep them, or use those that are here")
    arguments = parser.parse_args()
    chunks = (arguments.chunk_genes, arguments.chunk_samples)
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="archs4-bench-")))
        folder = arguments.folder or work
        fewer, file = (made_file(folder, samples, chunks) for samples in (arguments.fewer, arguments.samples))
        began = time.perf_counter()
        assert loop(file) == arguments.samples
        loop_rate = arguments.samples / (time.perf_counter() - began)
        builds = {"fewer": measured_build(work, str(fewer)), "disk": measured_build(work, str(file))}
        place = stack.enter_context(object_store())
        Folder(place).upload(file, file.name)
        builds["s3"] = measured_build(work, f"{place}/{file.name}")
    assert [built.kept for built in builds.values()] == [arguments.fewer, arguments.samples, arguments.samples]
    disk, s3 = (arguments.samples / builds[name].seconds for name in ("disk", "s3"))
    disk_with_start = arguments.samples / builds["disk"].seconds_with_start
    print(
        json.dumps(
            {
                **{name: value for name, value in vars(arguments).items() if name != "folder"},
                "genes": GENES,
                "loop_samples_per_second": round(loop_rate, 1),
                "disk_samples_per_second": round(disk, 1),
                "s3_samples_per_second": round(s3, 1),
                "disk_with_start_over_loop": round(disk_with_start / loop_rate, 2),
                **{f"{name}_seconds": round(built.seconds, 1) for name, built in builds.items()},
                **{f"{name}_peak_gib": round(built.peak_gib, 2) for name, built in builds.items()},
            }
        )
    )
    end_with(
        [
            Bound("samples per second of the build over those of the loop", disk / loop_rate, least=1.4),
            Bound("GiB at the peak, all processes together", builds["disk"].peak_gib, most=3),
            Bound(
                f"peak at {arguments.samples} samples over that at {arguments.fewer}",
                builds["disk"].peak_gib / builds["fewer"].peak_gib,
                most=1.15,
            ),
            Bound("samples per second from S3 over those from disk", s3 / disk, least=0.5),
        ]
    )


def made_file(folder: Path, samples: int, chunks: tuple[int, int]) -> Path:
    """The file of so many samples in the folder, made unless it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"archs4-{samples}-{chunks[0]}x{chunks[1]}.h5"
    if not file.exists():
        unfinished = file.with_suffix(".partial")
        make_file(unfinished, samples, chunks)
        unfinished.rename(file)
    return file


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


def loop(path: Path) -> int:
    """log1p(TPM) of all samples over the vocabulary in float16, block after block; how many there were."""
    vocabulary, profiles = default_vocabulary(), 0
    with h5py.File(path) as file:
        genes = [gene.decode() for gene in file["meta/genes/ensembl_gene"][()]]
        mapping = map_genes("loop", genes, "ensembl", vocabulary)
        rows = np.flatnonzero(mapping.columns >= 0)
        weights = (1 / mapping.lengths_bp).astype(np.float32)
        counts = file["data/expression"]
        for start in range(0, counts.shape[1], BLOCK):
            rates = counts[:, start : start + BLOCK].T.astype(np.float32) * weights
            tpm = np.full((len(rates), vocabulary.size), np.nan, np.float32)
            tpm[:, mapping.columns[rows]] = rates[:, rows]
            tpm *= 1e6 / rates.sum(axis=1, keepdims=True)
            profiles += len(np.log1p(tpm).astype(np.float16))
    return profiles


def measured_build(work: Path, file: str) -> Measured:
    """Build a corpus of the file with Ray that is started for it, and remove the corpus."""
    settings = build_settings(work, file)
    began = time.perf_counter()
    with PeakMemory() as memory, connected():
        started = time.perf_counter()
        kept = build(settings)["samples"]["kept"]
        ended = time.perf_counter()
    shutil.rmtree(settings.corpus)
    return Measured(kept, ended - started, ended - began, memory.peak_gib)


def build_settings(place: Path, file: str) -> BuildSettings:
    """Settings for a corpus in the folder ``place`` of the file at an address."""
    source = {"name": "archs4", "format": "archs4", "path": file, "gene_id": "ensembl"}
    (place / "build.yaml").write_text(yaml.safe_dump({"sources": [source]}))
    return read_settings(BuildSettings, ["--config", str(place / "build.yaml"), "--corpus", str(place / "corpus")])


if __name__ == "__main__":
    main()
