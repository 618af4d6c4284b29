"""A corpus read into torch batches as pretraining reads it, through Ray Data, beside a bare loop of pyarrow.

Makes a corpus of low-rank profiles on disk and on an S3 server of this machine. The loader has the settings of a run:
windows inside which profiles are shuffled, two of them read ahead, batches in float32 made ready by a thread. The loop
goes over the same shards in one process, row group by row group in the order of the file, and turns what it reads into
the same batches with as many threads as there are cores; it neither shuffles nor looks at checksums. Both go over the
corpus several times; a pipeline's first batch takes seconds, which are told apart from the rate. Prints one line of
JSON, then the figures that have bounds beside these, and ends with 1 where one is broken::

    python benchmarks/loader.py --profiles 20000 --epochs 5
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pyarrow.parquet as pq
import torch
from linear_prior import make_corpus
from support.bounds import Bound, end_with
from support.object_store import object_store

from dataprep.corpus import Corpus, decode_expression
from dataprep.runtime.ray_session import connected
from pretrain.config import DataSettings
from pretrain.data.accounting import PlanKey, Position
from pretrain.data.plan import StepShare, layout_of
from pretrain.data.stream import ProfileStream, prefetched
from pretrain.training.worker import STEPS_AHEAD


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profiles", type=int, default=20_000)
    parser.add_argument("--genes", type=int, default=20_024)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--micro-batch", type=int, default=16)
    parser.add_argument("--global-batch", type=int, default=256)
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    batches = (arguments.epochs, arguments.micro_batch, arguments.global_batch)
    with ExitStack() as stack:
        corpus = make_corpus(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="loader-bench-")),
            arguments.profiles,
            arguments.genes,
        )
        bare = max(bare_rate(corpus, arguments.epochs, arguments.micro_batch) for _ in range(2))
        disk = loader_rate(corpus, *batches)
        bare = max(bare, bare_rate(corpus, arguments.epochs, arguments.micro_batch))
        place = stack.enter_context(object_store())
        s3 = loader_rate(make_corpus(f"{place}/corpus", arguments.profiles, arguments.genes), *batches)
    rates = {"bare": bare, "disk": disk[0], "s3": s3[0]}
    print(
        json.dumps(
            {
                **vars(arguments),
                **{f"{name}_profiles_per_second": round(rate) for name, rate in rates.items()},
                "disk_first_batch_seconds": round(disk[1], 1),
                "s3_first_batch_seconds": round(s3[1], 1),
            }
        )
    )
    end_with(
        [
            Bound("profiles per second of the loader over those of the loop", disk[0] / bare, least=0.6),
            Bound("profiles per second from S3 over those from disk", s3[0] / disk[0], least=0.5),
        ]
    )


def bare_rate(corpus: Corpus, epochs: int, micro_profiles: int) -> float:
    """Profiles per second of the loop."""
    began = time.perf_counter()
    profiles = sum(len(batch) for _ in range(epochs) for batch in bare_batches(corpus, micro_profiles))
    return profiles / (time.perf_counter() - began)


def bare_batches(corpus: Corpus, micro_profiles: int) -> Iterator[torch.Tensor]:
    """float32 [micro_profiles, G] of all shards of the train split in turn."""
    for shard in corpus.shards("train"):
        file = pq.ParquetFile(f"{corpus.folder.path}/{shard.path}")
        for group in range(file.num_row_groups):
            column = file.read_row_group(group, ["expression"]).column("expression")
            # a copy of its own, as NumPy's views of Arrow are not for writing, and torch wants to write
            expression = decode_expression(column, corpus.genes)
            for start in range(0, len(expression), micro_profiles):
                yield torch.from_numpy(np.array(expression[start : start + micro_profiles])).float()


def loader_rate(corpus: Corpus, epochs: int, micro_profiles: int, global_profiles: int) -> tuple[float, float]:
    """Profiles per second from the first step on, and seconds until it was there."""
    data = DataSettings()
    stream = ProfileStream(
        corpus, 0, StepShare(global_profiles, 1), micro_profiles, data.prefetch_windows, data.outage_patience_seconds
    )
    layout = layout_of(corpus.shards("train"))
    position = Position.start(layout.profiles, PlanKey(1, global_profiles, data.shuffle_window_profiles))
    parts = position.parts(layout, 0, 0, epochs)
    with connected():
        began = time.perf_counter()
        steps = prefetched(stream.steps(parts), STEPS_AHEAD)
        next(steps)
        first = time.perf_counter()
        profiles = sum(batch.real for step in steps for batch in step.micro_batches)
        ended = time.perf_counter()
    return profiles / (ended - first), first - began


if __name__ == "__main__":
    main()
