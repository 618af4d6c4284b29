"""What ``cluster plan`` predicts of memory and of step times, beside what worker processes do on this machine's CPUs.

Each case is set up and stepped as a worker of ``pretrain run`` does it (its own set-up, DeepSpeed engine, training step
and allocator, without Ray around them), in processes of their own with one thread. Memory is the most anonymous memory
that a process held beyond what it held before its model was made; the time is the median of the steps after the first.
Times are predicted from one step of a small model for each kernel, measured before. Prints a line for each case, and
ends with 1 where a figure is out of its bound::

    python benchmarks/plan_accuracy.py                      # all twelve, some minutes
    python benchmarks/plan_accuracy.py --cases 0,3          # some of them
    python benchmarks/plan_accuracy.py --set fit            # others, for the share of holes in the heap
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any, NamedTuple
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
from pretrain.planning.duration import StepTime, step_time
from pretrain.planning.machine import Machine, measured_machine
from pretrain.planning.memory import Memory
from pretrain.planning.settings import PlanSettings
from pretrain.planning.trace import TracedCase, trace_pass
from pretrain.training import setup as setup_module
from pretrain.training.agreement import Requests
from pretrain.training.job import TrainingJob
from pretrain.training.step import TrainingStep

PASSES = 2
MEMORY_BOUND, TIME_BOUND = 0.15, 0.25


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

    def __str__(self) -> str:
        model = " ".join(str(value) if name == "size" else f"{name} {value}" for name, value in self.model.items())
        return f"{model}, {self.genes:,} genes x {self.micro_profiles}, ZeRO {self.stage}, {self.workers} worker(s)"


CASES = {
    "checked": (
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
    ),
    "fit": (
        Case({"size": "37M"}, 2000, 6),
        Case({"size": "37M", "recompute": "hidden"}, 6000, 4, stage=2),
        Case({"size": "37M", "dim": 384}, 3000, 3),
        Case({"size": "50M"}, 2000, 6, stage=3),
        Case({"size": "37M", "dim": 384}, 3000, 3, stage=3, workers=2),
        Case({"size": "37M", "kernel": "reference"}, 3000, 4),
    ),
}


class Measured(NamedTuple):
    """One worker: bytes held beyond what it held before its model was made, those, and the seconds of its steps."""

    held: int
    base: int
    step_seconds: list[float]


def process_bytes(*names: str) -> int:
    """The sum of lines of /proc/self/status in bytes."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return sum(int(lines[name].split()[0]) * 1024 for name in names)


def load_libraries() -> None:
    """A pass and a step of a small model: what torch loads when it first computes is not the model's memory."""
    model = BulkFormer(ModelSettings(size="tiny").shape(100), synthetic_graph(100, 3))
    expression_BG, known_BG = synthetic_profiles(2, 100)
    masked_profile_loss(model, expression_BG, known_BG).sum().backward()
    torch.optim.AdamW(model.parameters(), fused=True).step()


def measure(case: Case, corpus: str, store: str, rank: int) -> Measured:
    """Set up one worker of the case and let it take its steps."""
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
        before.append(process_bytes("RssAnon"))
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
    seconds = []
    for number in range(case.steps):
        started = time.perf_counter()
        step.take(batch, number, Requests(), None)
        seconds.append(time.perf_counter() - started)
        retain_freed_memory(setup.ranks.device)
    dist.destroy_process_group()
    # mapped files, which workers share, only ever become more: those of the peak are among those of the end
    most = process_bytes("VmHWM") - process_bytes("RssFile", "RssShmem")
    return Measured(most - before[0], before[0], seconds)


def measured(case: Case, corpus: str, place: str) -> list[Measured]:
    """What :func:`measure` found in each of the case's processes."""
    environment = os.environ | malloc_settings(os.environ) | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--serve", json.dumps(asdict(case)), corpus, f"{place}/store"]
    workers = [
        subprocess.Popen([*command, str(rank)], env=environment, stdout=subprocess.PIPE, text=True)
        for rank in range(case.workers)
    ]
    outputs = [worker.communicate()[0] for worker in workers]
    assert not any(worker.returncode for worker in workers), "a worker failed"
    return [Measured(*json.loads(output.splitlines()[-1])) for output in outputs]


@cache
def machine_of_kernel(kernel: str) -> Machine:
    """This machine by the one step that is measured for a kernel."""
    hardware = {"gpu": "CPU", "threads": 1}
    return measured_machine(PlanSettings(model={"kernel": kernel}, precision="fp32", hardware=hardware))


def predicted(case: Case, graph: GeneGraph) -> tuple[Memory, StepTime]:
    model = ModelSettings(**case.model)
    traced = TracedCase(
        model.shape(case.genes), model.kernel, "fp32", model.recompute, case.micro_profiles, model.compile, "cpu"
    )
    trace = trace_pass(traced, graph)
    machine = machine_of_kernel(model.kernel).with_workers(case.workers)
    seconds = machine.pass_seconds(trace.work)
    step = step_time(trace, seconds, PASSES, case.stage, machine.hardware, machine.assume)
    return machine.memory(trace, case.stage, model.kernel), step


def beside(case: Case) -> bool:
    """Print a case's figures; returns whether they are within their bounds."""
    with tempfile.TemporaryDirectory(prefix="plan-accuracy-") as place:
        corpus = make_corpus(f"{place}/corpus", {"train": 16, "validation": 0, "test": 0}, genes=case.genes)
        memory, step = predicted(case, corpus.graph())
        workers = measured(case, f"{place}/corpus", place)
    held = max(worker.held for worker in workers)
    seconds = max(median(worker.step_seconds[1:]) for worker in workers)
    ratios = (held / memory.total, MEMORY_BOUND), (seconds / step.total, TIME_BOUND)
    marks = ["" if abs(ratio - 1) <= bound else " OUT OF BOUND" for ratio, bound in ratios]
    parts = ", ".join(f"{name} {size >> 20:,}" for name, size in asdict(memory).items() if name != "stage" and size)
    print(
        f"{case}\n"
        f"  memory: planned {memory.total >> 20:,} MiB ({parts}), measured {held >> 20:,}, "
        f"ratio {ratios[0][0]:.2f}{marks[0]}\n"
        f"  step: planned {step.total:.2f} s (passes {step.passes:.2f}, optimizer {step.optimizer:.2f}, communication "
        f"{step.communication:.2f}), measured {seconds:.2f}, ratio {ratios[1][0]:.2f}{marks[1]}",
        flush=True,
    )
    return not any(marks)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", choices=list(CASES), default="checked")
    parser.add_argument("--cases", type=lambda text: [int(number) for number in text.split(",")])
    options = parser.parse_args()
    chosen = CASES[options.set]
    if options.cases is not None:
        chosen = tuple(chosen[number] for number in options.cases)
    within = [beside(case) for case in chosen]
    print(f"{sum(within)} of {len(within)} within {MEMORY_BOUND:.0%} of memory and {TIME_BOUND:.0%} of a step's time")
    return 0 if all(within) else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        given, corpus, store, rank = sys.argv[2:]
        print(json.dumps(measure(Case(**json.loads(given)), corpus, store, int(rank))))
    else:
        sys.exit(main())
