"""Benchmarks: what is counted, what is reported, and that cases are real."""

import io
import json

import pytest
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from dataprep.runtime.command_line import UserError, read_settings
from pretrain.bench import training_step as bench_module
from pretrain.bench.training_step import bench, cases_of, row_of, run_in_turns, synthetic_graph, synthetic_profiles
from pretrain.config import BenchSettings, ModelSettings
from pretrain.families import FAMILIES
from pretrain.model.bulkformer import BulkFormer
from pretrain.model.flops import forward_flops, parameters, training_flops
from pretrain.monitoring import throughput
from pretrain.monitoring.throughput import gemm_peak
from pretrain.shape import ModelShape

CPU = torch.device("cpu")
TINY = {"size": "tiny", "genes": 60, "edges_per_gene": 3, "steps": 2, "warmup_steps": 1, "threads": 1}


@pytest.mark.parametrize("family", FAMILIES)
def test_flops_are_those_that_torch_counts_in_the_published_modules(family):
    shape = ModelShape(family=family, genes=200, dim=64, performer_layers=2, heads=4, features_per_head=44)
    model = BulkFormer(shape, synthetic_graph(200, 5))
    expression_BG, _ = synthetic_profiles(3, 200)
    with FlopCounterMode(display=False) as counter:
        output = model(expression_BG)
        (output.expression.sum() + output.gene_embedding.sum()).backward()
    # torch counts neither the sparse product nor, in the backward pass, gradients that nobody wants (of the profiles
    # themselves, and of the random features)
    assert training_flops(shape, 0, 3) == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_a_step_of_the_50m_model_has_the_flops_measured_before():
    shape = ModelSettings(size="50M").shape(20_010)
    assert training_flops(shape, 20 * 20_010, 2) == pytest.approx(0.64e12, rel=0.05)


def test_identity_is_counted_once_a_pass():
    shape = ModelSettings(size="37M").shape(20_010)
    one, two, three = (forward_flops(shape, 0, batch) for batch in (1, 2, 3))
    assert three - two == two - one < one


@pytest.mark.parametrize(("size", "millions"), [("37M", 13.37), ("50M", 28.64), ("101M", 101.3), ("147M", 132.14)])
def test_parameters_are_counted_to_within_a_percent(size, millions):
    assert parameters(ModelSettings(size=size).shape(20_010)) / 1e6 == pytest.approx(millions, rel=0.01)


def test_the_command_reports_every_case_in_its_own_process(monkeypatch, capfd):
    monkeypatch.setattr(bench_module, "_SQUARES", {"cpu": (64,)})
    rows = bench(BenchSettings(**TINY, kernel="reference,fused", precision="fp32", micro_batch="1,2", compile=False))
    assert [(row["micro_batch"], row["kernel"]) for row in rows] == [
        (1, "reference"), (1, "fused"), (2, "reference"), (2, "fused"),
    ]  # fmt: skip
    for row in rows:
        assert row["size"] == "tiny"
        assert row["precision"] == "fp32"
        assert len(row["step_seconds_all"]) == 2
        assert row["samples_per_second"] == pytest.approx(row["micro_batch"] / row["step_seconds"])
        assert 100e6 < row["peak_memory_bytes"] < 5e9
        assert row["gemm_peak_share"] == pytest.approx(row["gflops"] / row["gemm_peak_gflops"])
    json.dumps(rows)
    printed = capfd.readouterr().err
    assert "GEMM peak" in printed
    assert "cluster plan" in printed


def test_a_row_names_the_type_that_was_multiplied(monkeypatch):
    (case,) = cases_of(BenchSettings(**TINY, kernel="fused", precision="bf16"), CPU)
    peaks = {torch.bfloat16: 4.0, torch.float32: 2.0}
    for native, dtype, peak in ((True, "bfloat16", 4.0), (False, "float32", 2.0)):
        monkeypatch.setattr(bench_module, "autocast_to_bf16", lambda precision, device, native=native: native)
        row = row_of(case, [0.3, 0.1, 0.2], 10, peaks)
        assert (row["product_dtype"], row["gemm_peak_gflops"], row["step_seconds"]) == (dtype, peak, 0.2)


def test_only_the_fused_kernel_gets_what_only_it_has():
    reference, fused = cases_of(BenchSettings(**TINY, kernel="reference,fused"), CPU)
    assert (reference.compile, reference.recompute, reference.retain_memory) == (False, "nothing", False)
    assert (fused.compile, fused.recompute, fused.retain_memory) == (True, "hidden", True)


def test_the_peak_is_a_rate_and_slow_squares_are_skipped(monkeypatch):
    rates = {256: 1e9, 1024: 2e9, 2048: 1e12, 4096: 3e12}
    asked = []
    monkeypatch.setattr(throughput, "_product_rate", lambda side, *_: asked.append(side) or rates[side])
    assert gemm_peak(torch.float32, torch.device("cpu"), (1024, 2048, 4096), longest_seconds=3.0) == 2e9
    assert max(asked) == 1024, "2,048 would take 8.6 s at the rate seen so far"


@pytest.mark.parametrize(
    ("argument", "value", "named"),
    [
        ("--kernel", "fast", "fast"),
        ("--size", "37M,38M", "38M"),
        ("--precision", "fp8", "fp8"),
        ("--micro-batch", "0", "0"),
    ],
)
def test_unknown_cases_are_refused_by_name(argument, value, named):
    with pytest.raises(UserError, match=named):
        read_settings(BenchSettings, [argument, value])


def _serve_nothing(_case, connection) -> None:
    connection.close()


def test_a_case_that_dies_is_named():
    with pytest.raises(UserError, match="memory"):
        run_in_turns(
            cases_of(BenchSettings(**TINY, kernel="fused"), CPU), 0, 1, Console(file=io.StringIO()), _serve_nothing
        )


def test_a_gpu_that_torch_does_not_see_is_refused_and_not_replaced_by_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench_module.chosen_device("auto") == CPU
    with pytest.raises(UserError, match=r"--device cuda: torch .* sees no GPU here"):
        bench(BenchSettings(**TINY, device="cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [bench_module.chosen_device(wanted).type for wanted in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]


def test_a_step_on_a_gpu_ends_when_the_gpu_is_done_with_it(monkeypatch):
    events = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: events.append("waited"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _device: 7)
    questions, answers = iter(["step", "memory"]), []

    class Asker:
        def recv(self) -> str:
            try:
                return next(questions)
            except StopIteration:
                raise EOFError from None

        def send(self, value: float) -> None:
            answers.append(value)

    bench_module.answer(Asker(), lambda: events.append("step"), torch.device("cuda"))
    assert events == ["waited", "step", "waited"]
    assert answers[1] == 7


def test_memory_of_the_process_is_kept_on_a_cpu_only():
    (of_gpu,) = cases_of(BenchSettings(**TINY, kernel="fused"), torch.device("cuda"))
    assert (of_gpu.device, of_gpu.retain_memory) == ("cuda", False)


def test_the_share_of_a_prior_in_a_step_is_measured_beside_it(capsys):
    settings = BenchSettings(**TINY, kernel="fused", compile=False, prior_rank=3)
    assert [case.shape.prior_rank for case in cases_of(settings, CPU)] == [3]
    [row] = bench(settings)
    assert 0 < row["prior_seconds"] < row["step_seconds"]
    assert "prior" in capsys.readouterr().err
