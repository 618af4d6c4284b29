"""The gene graph by correlation at the size of the published models, beside the machine's best product of matrices.

Makes profiles of low rank with noise, so that many pairs of genes correlate, and finds each gene's strongest neighbours
with Ray. The multiply-adds that this takes are those of all pairs of genes, N G (G + 1) / 2. The best product is the
fastest of several square ones in fp32 with as many threads as there are cores, in turn by NumPy and torch, before and
after. Prints one line of JSON: seconds without and with the start of Ray, rates, and the largest sum of what all
processes hold (shared memory counted once); then the figures that have bounds beside these, and ends with 1 where one
is broken::

    python benchmarks/coexpression_graph.py --genes 20010 --profiles 5000
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

import numpy as np
from support.bounds import Bound, end_with
from support.memory import PeakMemory

from dataprep.coexpression.correlation import correlation_edges
from dataprep.config import GraphSettings
from dataprep.runtime.ray_session import connected

PROGRAMS = 20
# Its own process, since threads of these libraries are chosen when they are loaded.
PRODUCTS = """
import time
import numpy, torch
a = numpy.random.default_rng(0).standard_normal((6000, 6000), numpy.float32)
b = torch.from_numpy(a)
best = float("inf")
for number in range(8):
    began = time.perf_counter()
    a @ a if number % 2 else b @ b
    best = min(best, time.perf_counter() - began)
print(6000**3 / best)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genes", type=int, default=20_010)
    parser.add_argument("--profiles", type=int, default=5_000)
    arguments = parser.parse_args()
    expression = make_profiles(arguments.profiles, arguments.genes)
    peak = multiply_adds_per_second()
    began = time.perf_counter()
    with PeakMemory() as memory, connected():
        started = time.perf_counter()
        edges = correlation_edges(expression, GraphSettings(corpus="none"))
        ended = time.perf_counter()
    peak = max(peak, multiply_adds_per_second())
    needed = arguments.profiles * arguments.genes * (arguments.genes + 1) / 2
    rate, rate_with_start = needed / (ended - started), needed / (ended - began)
    print(
        json.dumps(
            {
                **vars(arguments),
                "edges": len(edges),
                "seconds": round(ended - started, 1),
                "ray_start_seconds": round(started - began, 1),
                "peak_gigaflops": round(2 * peak / 1e9, 1),
                "graph_gigaflops": round(2 * rate / 1e9, 1),
                "graph_with_start_over_peak": round(rate_with_start / peak, 2),
                "peak_gib": round(memory.peak_gib, 2),
            }
        )
    )
    end_with(
        [
            Bound("multiply-adds per second of the graph over those of the best product", rate / peak, least=0.6),
            Bound("GiB at the peak, all processes together", memory.peak_gib, most=4),
        ]
    )


def make_profiles(profiles: int, genes: int) -> np.ndarray:
    """float16 [profiles, genes]: programs that each gene takes part in, more or less, and noise."""
    random = np.random.default_rng(0)
    loading = random.standard_normal((PROGRAMS, genes), np.float32) * random.exponential(0.3, genes).astype("f4")
    expression = np.empty((profiles, genes), np.float16)
    for start in range(0, profiles, 500):
        latent = random.standard_normal((min(500, profiles - start), PROGRAMS), np.float32)
        noise = random.standard_normal((len(latent), genes), np.float32)
        expression[start : start + 500] = np.maximum(3 + latent @ loading + noise, 0)
    return expression


def multiply_adds_per_second() -> float:
    """Of the best square product with a thread for each core."""
    cores = str(os.cpu_count() or 1)
    threads = {"OMP_NUM_THREADS": cores, "OPENBLAS_NUM_THREADS": cores, "MKL_NUM_THREADS": cores}
    done = subprocess.run(
        [sys.executable, "-c", PRODUCTS], env=os.environ | threads, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


if __name__ == "__main__":
    main()
