"""``pretrain bench``: training steps of each case, timed in turn on the same machine in the same minutes.

Every case runs in its own process, so that the peak memory is that of the case; they take turns, one step each, so
that a machine that slows down slows all of them.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from dataprep.corpus import GeneGraph
from dataprep.runtime.command_line import UserError
from pretrain.config import BenchSettings, ModelSettings, Recompute
from pretrain.kernels.device import autocast_to_bf16, map_memory_of_first_step, retain_freed_memory
from pretrain.model.bulkformer import BulkFormer
from pretrain.model.flops import training_flops
from pretrain.model.linear_prior import LinearPrior
from pretrain.model.loss import masked_profile_loss
from pretrain.monitoring.throughput import gemm_peak, peak_memory_bytes, wait_for
from pretrain.shape import ModelShape

# Squares whose product would take longer than this are left out of the search for the peak.
_LONGEST_PRODUCT_SECONDS = 3.0
_SQUARES = {"cpu": (1024, 2048, 4096), "cuda": (4096, 8192, 16384)}


@dataclass(frozen=True)
class BenchCase:
    """One model to time. ``size`` is what ``shape`` is called, ``device`` the type of the device it runs on."""

    size: str
    shape: ModelShape
    kernel: str
    precision: str
    micro_batch: int
    edges_per_gene: int
    threads: int
    compile: bool
    recompute: Recompute
    retain_memory: bool
    device: str = "cpu"

    @property
    def genes(self) -> int:
        return self.shape.genes

    @property
    def edges(self) -> int:
        return self.genes * self.edges_per_gene

    @property
    def product_dtype(self) -> torch.dtype:
        """What its products run in on its device."""
        return torch.bfloat16 if autocast_to_bf16(self.precision, torch.device(self.device)) else torch.float32


def bench(settings: BenchSettings) -> list[dict[str, Any]]:
    """Time every combination asked for; prints a table and returns its rows."""
    device = chosen_device(settings.device)
    cases = cases_of(settings, device)
    console = Console(file=sys.stderr, highlight=False, width=110)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    dtypes = {case.product_dtype for case in cases}
    peaks = {dtype: gemm_peak(dtype, device, _SQUARES[device.type], _LONGEST_PRODUCT_SECONDS) / 1e9 for dtype in dtypes}
    for dtype, peak in peaks.items():
        console.print(f"GEMM peak of {device_name(device)}, {dtype}: {peak:.0f} GFLOP/s")
    rows = []
    for size in dict.fromkeys(case.size for case in cases):
        of_size = [case for case in cases if case.size == size]
        times, memory = run_in_turns(of_size, settings.warmup_steps, settings.steps, console)
        rows += [row_of(*result, peaks) for result in zip(of_size, times, memory, strict=True)]
        if settings.prior_rank:
            for row, case in zip(rows[-len(of_size) :], of_size, strict=True):
                row["prior_seconds"] = conditioning_seconds(case, settings.steps)
    _print_rows(console, rows)
    console.print("What a run would take on GPUs: python -m cluster plan", soft_wrap=True)
    return rows


def chosen_device(wanted: str) -> torch.device:
    """The device to measure. Raises UserError where torch sees no GPU and one is asked for."""
    there_is_one = torch.cuda.is_available()
    if wanted == "cuda" and not there_is_one:
        build = "is a CPU build" if torch.version.cuda is None else f"is built for CUDA {torch.version.cuda}"
        raise UserError(f"--device cuda: torch {torch.__version__} sees no GPU here (it {build})", exit_code=2)
    return torch.device("cuda" if wanted == "cuda" or (wanted == "auto" and there_is_one) else "cpu")


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "this machine's CPUs"


def cases_of(settings: BenchSettings, device: torch.device) -> list[BenchCase]:
    # the slower of the two kinds of prior
    rectified = settings.prior_rank > 0
    return [
        BenchCase(
            size, ModelSettings(size=size).shape(settings.genes).with_prior(settings.prior_rank, rectified),
            kernel, precision, micro_batch, settings.edges_per_gene, settings.threads,
            compile=settings.compile and kernel == "fused",
            recompute=settings.recompute if kernel == "fused" else "nothing",
            # what is kept is the memory of the process, where the tensors of a GPU are not
            retain_memory=settings.retain_memory in ("all", kernel) and device.type == "cpu",
            device=device.type,
        )
        for size in settings.sizes()
        for micro_batch in settings.micro_batches()
        for precision in settings.precisions()
        for kernel in settings.kernels()
    ]  # fmt: skip


def row_of(case: BenchCase, seconds: list[float], memory: int, peaks: dict[torch.dtype, float]) -> dict[str, Any]:
    """What ``--json`` prints of a case. The peak is that of the type its products really ran in."""
    step = median(seconds)
    gflops = training_flops(case.shape, case.edges, case.micro_batch) / step / 1e9
    peak = peaks[case.product_dtype]
    return {
        "size": case.size,
        "device": case.device,
        "kernel": case.kernel,
        "precision": case.precision,
        "micro_batch": case.micro_batch,
        "step_seconds": step,
        "step_seconds_all": seconds,
        "samples_per_second": case.micro_batch / step,
        "peak_memory_bytes": memory,
        "gflops": gflops,
        "gemm_peak_share": gflops / peak,
        "gemm_peak_gflops": peak,
        "product_dtype": str(case.product_dtype).removeprefix("torch."),
        "compile": case.compile,
        "recompute": case.recompute,
        "retain_memory": case.retain_memory,
    }


def conditioning_seconds(case: BenchCase, times: int) -> float:
    """Median seconds of conditioning the case's linear prior on a batch, as each of its steps does."""
    device = torch.device(case.device)
    prior = LinearPrior(case.genes, case.shape.prior_rank, case.shape.prior_rectified).to(device)
    expression_BG, mask_BG = synthetic_profiles(case.micro_batch, case.genes)
    visible_BG = expression_BG.masked_fill(mask_BG, torch.nan).to(device)
    seconds = []
    for _ in range(times + 1):
        wait_for(device)
        started = time.perf_counter()
        prior(visible_BG)
        wait_for(device)
        seconds.append(time.perf_counter() - started)
    # the first looks for kernels and for memory
    return median(seconds[1:])


# ---- running -------------------------------------------------------------------------------------------------------


def run_in_turns(
    cases: list[Any], warmup: int, steps: int, console: Console, serve: Callable[..., None] | None = None
) -> tuple[list[list[float]], list[int]]:
    """Seconds of each timed step and peak memory in bytes, per case. ``serve`` is what each process runs."""
    context = multiprocessing.get_context("spawn")
    workers = []
    for case in cases:
        ours, theirs = context.Pipe()
        process = context.Process(target=serve or serve_case, args=(case, theirs), daemon=True)
        process.start()
        theirs.close()
        workers.append((case, process, ours))
    try:
        times: list[list[float]] = [[] for _ in cases]
        for turn in range(warmup + steps):
            for seconds, (case, _, connection) in zip(times, workers, strict=True):
                took = _ask(connection, "step", case)
                console.print(f"{case.size} {case.kernel} step {turn + 1 - warmup}: {took:.2f} s", style="dim")
                if turn >= warmup:
                    seconds.append(took)
        return times, [int(_ask(connection, "memory", case)) for case, _, connection in workers]
    finally:
        for _, process, connection in workers:
            connection.close()
            process.join(timeout=10)
            if process.is_alive():
                process.terminate()


def _ask(connection: Connection, question: str, case: Any) -> float:
    try:
        connection.send(question)
        return float(connection.recv())
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise UserError(f"the process of {case} ended; was there memory enough?") from None


def serve_case(case: BenchCase, connection: Connection) -> None:
    """Answer "step" with a step's seconds and "memory" with the peak, until the asker leaves."""
    if case.threads:
        torch.set_num_threads(case.threads)
    torch.manual_seed(0)
    if case.retain_memory:
        map_memory_of_first_step(torch.device(case.device))
    model = BulkFormer(
        case.shape, synthetic_graph(case.genes, case.edges_per_gene), case.kernel, case.precision, case.compile,
        case.recompute,
    ).to(case.device)  # fmt: skip
    serve_steps(model, case.genes, case.micro_batch, connection, case.retain_memory)


def serve_steps(
    model: torch.nn.Module, genes: int, micro_batch: int, connection: Connection, retain_memory: bool = False
) -> None:
    """Training steps on request: forward, loss, backward and AdamW, with dropout as the model has it."""
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    device = next(model.parameters()).device
    expression_BG, mask_BG = (tensor.to(device) for tensor in synthetic_profiles(micro_batch, genes))

    def step() -> None:
        masked_profile_loss(model, expression_BG, mask_BG).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if retain_memory:
            retain_freed_memory(device)

    answer(connection, step, device)


def answer(connection: Connection, step: Callable[[], object], device: torch.device) -> None:
    """Take steps on request, answering with their seconds or with the peak memory, until the asker leaves.

    The peak is that of the process on a CPU, and of torch's tensors on a GPU. A step there has ended when the GPU is
    done with it.
    """
    while True:
        try:
            question = connection.recv()
        except EOFError:
            return
        if question == "memory":
            connection.send(peak_memory_bytes(device))
            continue
        wait_for(device)
        started = time.perf_counter()
        step()
        wait_for(device)
        connection.send(time.perf_counter() - started)


def synthetic_profiles(samples: int, genes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """log1p(TPM)-like values, a sixth of them zero, and a mask of 15 %: both samples x genes."""
    generator = torch.Generator().manual_seed(0)
    expression_BG = (torch.randn(samples, genes, generator=generator) * 2 + 2).relu()
    return expression_BG, torch.rand(samples, genes, generator=generator) < 0.15


def synthetic_graph(genes: int, edges_per_gene: int) -> GeneGraph:
    """Random neighbours: worse for caches than the graph of real genes, where hubs recur."""
    generator = np.random.default_rng(0)
    edges = genes * edges_per_gene
    return GeneGraph(
        source=generator.integers(0, genes, edges).astype(np.int32),
        target=np.repeat(np.arange(genes), edges_per_gene).astype(np.int32),
        weight=generator.uniform(0.4, 1.0, edges).astype(np.float32),
    )


# ---- showing -------------------------------------------------------------------------------------------------------


def _print_rows(console: Console, rows: list[dict[str, Any]]) -> None:
    table = Table(title="Training step (median), AdamW and dropout included")
    for name in ("size", "kernel", "precision", "products in", "batch"):
        table.add_column(name)
    for name in ("step s", "profiles/s", "peak GB", "GFLOP/s", "of GEMM peak"):
        table.add_column(name, justify="right")
    with_prior = any("prior_seconds" in row for row in rows)
    if with_prior:
        table.add_column("prior", justify="right")
    for row in rows:
        table.add_row(
            row["size"], row["kernel"], row["precision"], row["product_dtype"], str(row["micro_batch"]),
            f"{row['step_seconds']:.2f}", f"{row['samples_per_second']:.3f}", f"{row['peak_memory_bytes'] / 1e9:.2f}",
            f"{row['gflops']:.0f}", f"{row['gemm_peak_share']:.0%}",
            *([f"{row['prior_seconds'] / row['step_seconds']:.1%}"] if with_prior else []),
        )  # fmt: skip
    console.print(table)
