"""What ``cluster plan`` predicts of memory, beside what worker processes do on this machine's CPUs.

Each case is set up and stepped as a worker of ``pretrain run`` does it (its own set-up, DeepSpeed engine, training step
and allocator, without Ray around them), in processes of their own with one thread. Memory is the most that a process
held beyond what it held before its model was made. Prints a line for each case, and how many are within 15 %::

    python benchmarks/plan_accuracy.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist

# corpora as the tests make them
sys.path.append(str(Path(__file__).parents[1] / "tests"))
from made_corpora import make_corpus

from dataprep.corpus import GeneGraph
from dataprep.runtime.allocator import malloc_settings
from dataprep.runtime.code_identity import code_fingerprint
from pretrain.artifacts.run_settings import RunIdentity
from pretrain.bench.training_step import synthetic_graph, synthetic_profiles
from pretrain.config import ModelSettings, RunSettings
from pretrain.data.stream import MicroBatch, StepBatch
from pretrain.kernels.device import retain_freed_memory
from pretrain.model import BulkFormer
from pretrain.model.loss import masked_profile_loss
from pretrain.planning.memory import Memory, memory_of
from pretrain.planning.trace import TracedCase, trace_pass
from pretrain.training import setup as setup_module
from pretrain.training.agreement import Requests
from pretrain.training.job import TrainingJob
from pretrain.training.step import TrainingStep

PASSES = 2
BOUND = 0.15


@dataclass(frozen=True)
class Case:
    """A run of ``workers`` processes; ``model`` are settings as ``--model.*`` has them."""

    model: dict[str, Any]
    genes: int
    micro_profiles: int
    stage: int = 1
    workers: int = 1
    steps: int = 4

    def settings(self, corpus: str, storage: str) -> RunSettings:
        batch = {"global_profiles": self.micro_profiles * self.workers * PASSES, "micro_profiles": self.micro_profiles}
        return RunSettings(
            corpus=corpus, storage=storage, name="measured", model=self.model, batch=batch,
            zero={"stage": self.stage}, workers={"count": self.workers, "threads_each": 1},
        )  # fmt: skip


CASES = (
    Case({"size": "37M"}, 4000, 4),
    Case({"size": "37M"}, 4000, 8),
    Case({"size": "37M", "recompute": "layers"}, 4000, 8),
    Case({"size": "37M"}, 4000, 4, stage=2, workers=2),
    Case({"size": "37M"}, 4000, 4, stage=3, workers=2),
    Case({"size": "50M"}, 4000, 4, stage=2),
    Case({"size": "50M"}, 4000, 2, stage=3),
    Case({"size": "37M", "dim": 640}, 4000, 2, stage=3, workers=2),
    Case({"size": "tiny"}, 20_010, 8),
    Case({"size": "37M"}, 20_010, 2),
    Case({"size": "37M", "recompute": "layers"}, 20_010, 2),
    Case({"size": "37M", "kernel": "reference"}, 4000, 2),
)


def process_bytes(name: str) -> int:
    """A line of /proc/self/status in bytes: VmRSS, or VmHWM, the most of it so far."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def load_libraries() -> None:
    """A pass and a step of a small model: what torch loads when it first computes is not the model's memory."""
    model = BulkFormer(ModelSettings(size="tiny").shape(100), synthetic_graph(100, 3))
    expression_BG, known_BG = synthetic_profiles(2, 100)
    masked_profile_loss(model, expression_BG, known_BG).sum().backward()
    torch.optim.AdamW(model.parameters(), fused=True).step()


def measure(case: Case, corpus: str, store: str, rank: int) -> int:
    """The most bytes that one worker held beyond what it held before its model was made."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=case.workers)
    settings = case.settings(corpus, f"{store}-runs")
    coordinator = SimpleNamespace(post=SimpleNamespace(remote=lambda *_: None))
    job = TrainingJob(settings, code_fingerprint(), coordinator, RunIdentity("measured"), None)
    context = SimpleNamespace(
        get_world_rank=lambda: rank,
        get_world_size=lambda: case.workers,
        get_local_world_size=lambda: case.workers,
        get_node_rank=lambda: 0,
    )
    before: list[int] = []
    make = setup_module.BulkFormer

    def noting(*arguments: Any) -> Any:
        before.append(process_bytes("VmRSS"))
        return make(*arguments)

    os.environ["LOCAL_RANK"] = str(rank)
    load_libraries()
    with (
        patch("ray.train.get_context", lambda: context),
        patch("ray.train.torch.get_device", lambda: torch.device("cpu")),
        patch.object(setup_module, "BulkFormer", noting),
    ):
        setup = setup_module.set_up(job)
    step = TrainingStep(settings, setup.engine, setup.ranks, setup.clock, setup.schedule_steps)
    setup.engine.train()
    expression_BG, _ = synthetic_profiles(case.micro_profiles, case.genes)
    rows = torch.arange(case.micro_profiles)
    micro = MicroBatch(rows, expression_BG, case.micro_profiles, np.array([], np.int64))
    batch = StepBatch(0, 0, settings.batch.global_profiles, (micro,) * PASSES, False)
    for number in range(case.steps):
        step.take(batch, number, Requests(), None)
        retain_freed_memory(setup.ranks.device)
    dist.destroy_process_group()
    return process_bytes("VmHWM") - before[0]


def measured(case: Case, corpus: str, place: str) -> list[int]:
    """What :func:`measure` found in each of the case's processes."""
    environment = os.environ | malloc_settings(os.environ) | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--serve", json.dumps(asdict(case)), corpus, f"{place}/store"]
    workers = [
        subprocess.Popen([*command, str(rank)], env=environment, stdout=subprocess.PIPE, text=True)
        for rank in range(case.workers)
    ]
    outputs = [worker.communicate()[0] for worker in workers]
    assert not any(worker.returncode for worker in workers), "a worker failed"
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def predicted(case: Case, graph: GeneGraph) -> Memory:
    model = ModelSettings(**case.model)
    traced = TracedCase(
        model.shape(case.genes), model.kernel, "fp32", model.recompute, case.micro_profiles, model.compile, "cpu"
    )
    return memory_of(trace_pass(traced, graph), case.stage, case.workers)


def main() -> None:
    within = 0
    for case in CASES:
        with tempfile.TemporaryDirectory(prefix="plan-accuracy-") as place:
            corpus = make_corpus(f"{place}/corpus", {"train": 16, "validation": 0, "test": 0}, genes=case.genes)
            plan = predicted(case, corpus.graph())
            held = max(measured(case, f"{place}/corpus", place))
        ratio = held / plan.total
        within += abs(ratio - 1) <= BOUND
        print(
            f"{case}: planned {plan.total >> 20:,} MiB, measured {held >> 20:,} MiB, ratio {ratio:.2f}  {asdict(plan)}",
            flush=True,
        )
    print(f"{within} of {len(CASES)} within {BOUND:.0%}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        given, corpus, store, rank = sys.argv[2:]
        print(json.dumps(measure(Case(**json.loads(given)), corpus, store, int(rank))))
    else:
        main()
