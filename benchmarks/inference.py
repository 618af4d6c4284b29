"""Sample embeddings: the published way (forward pass in fp32, embeddings of all genes to the host, NumPy pools them)
beside ``Embedder.embed_samples`` with the fused kernel, in turn, each in its own process::

    python benchmarks/inference.py --size 37M --pooling mean --precision fp32,bf16 --batches 8
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import numpy as np
import torch
from published_modules import Published
from rich.console import Console

from dataprep.genes.vocabulary import GeneVocabulary
from dataprep.runtime.storage import Folder
from evaluation.inference.embedder import Embedder
from pretrain.bench.training_step import answer, run_in_turns, synthetic_graph, synthetic_profiles
from pretrain.config import ModelSettings
from pretrain.model.bulkformer import BulkFormer
from pretrain.model.export_file import write_export


@dataclass(frozen=True)
class InferenceCase:
    """``export``: the model of the fused way; ``precision`` and ``compile`` are its, too."""

    size: str
    kernel: str
    precision: str
    compile: bool
    batch: int
    genes: int
    pooling: str
    export: str


def serve(case: InferenceCase, connection: Connection) -> None:
    work = _published(case) if case.kernel == "published" else _ours(case)
    expression_BG, mask_BG = synthetic_profiles(case.batch, case.genes)
    profiles = expression_BG.masked_fill(mask_BG, torch.nan).numpy()
    answer(connection, lambda: work(profiles), torch.device("cpu"))


def _published(case: InferenceCase) -> Callable[[np.ndarray], np.ndarray]:
    shape = ModelSettings(size=case.size).shape(case.genes)
    graph = synthetic_graph(case.genes, 20)
    edges = torch.stack([torch.from_numpy(graph.source).long(), torch.from_numpy(graph.target).long()])
    weight = torch.from_numpy(graph.weight)
    model = Published(case.genes, shape.dim, shape.performer_layers, edges, weight).eval()

    def work(profiles: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            embedding = model(torch.from_numpy(profiles)).gene_embedding.cpu().numpy()
        pools = {"mean": embedding.mean, "max": embedding.max, "median": lambda axis: np.median(embedding, axis=axis)}
        wanted = pools if case.pooling == "all" else [case.pooling]
        return np.sum([pools[name](axis=1) for name in wanted], axis=0)

    return work


def _ours(case: InferenceCase) -> Callable[[np.ndarray], np.ndarray]:
    embedder = Embedder.open(case.export, "fused", case.precision, case.batch, case.compile)
    return lambda profiles: embedder.embed_samples(profiles, case.pooling)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="37M")
    parser.add_argument("--pooling", default="mean", choices=["mean", "max", "median", "all"])
    parser.add_argument("--precision", default="fp32,bf16", help="of the fused kernel, with commas")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--genes", type=int, default=20_010)
    parser.add_argument("--batches", type=int, default=5, help="timed batches of each")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        export = str(Path(scratch) / "export")
        shape, graph = ModelSettings(size=options.size).shape(options.genes), synthetic_graph(options.genes, 20)
        ids = tuple(f"ENSG{number:011d}" for number in range(options.genes))
        vocabulary = GeneVocabulary(ids, ids, np.full(options.genes, 1000.0))
        graph = replace(graph, vocabulary_sha256=vocabulary.fingerprint)
        write_export(Folder(export), shape, BulkFormer(shape, graph).state_dict(), vocabulary, graph, {"step": 0})
        numbers = (options.batch, options.genes, options.pooling, export)
        cases = [InferenceCase(options.size, "published", "fp32", False, *numbers)]
        for precision in options.precision.split(","):
            cases.append(InferenceCase(options.size, "fused", precision, options.compile, *numbers))
        times, memory = run_in_turns(cases, 2, options.batches, Console(stderr=True), serve)
    published = median(times[0])
    for case, seconds, peak_bytes in zip(cases, times, memory, strict=True):
        rate, ratio = options.batch / median(seconds), published / median(seconds)
        row = asdict(case) | {"profiles_per_second": rate, "ratio": ratio, "peak_memory_bytes": peak_bytes}
        del row["export"]
        print(json.dumps(row))


if __name__ == "__main__":
    main()
