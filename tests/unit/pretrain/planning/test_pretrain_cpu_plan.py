"""Plans for this machine's CPUs: rates from a step that is measured, and what processes hold beside tensors."""

import json
import math

import pytest
import torch

from cluster.__main__ import run
from pretrain.bench.training_step import synthetic_graph
from pretrain.config import RunSettings
from pretrain.planning import machine as machine_module
from pretrain.planning import plan as plan_module
from pretrain.planning.cpu import calibration as calibration_module
from pretrain.planning.cpu.calibration import Calibration, measured_rates
from pretrain.planning.cpu.rates import CpuRates, ProductRate, TimedWork, fitted_rates
from pretrain.planning.cpu.retained import PROCESS_GIGABYTES, process_memory
from pretrain.planning.memory import memory_of
from pretrain.planning.plan import make_plan
from pretrain.planning.settings import PlanSettings
from pretrain.planning.show import plan_text
from pretrain.planning.trace import Work, trace_pass

RATES = CpuRates(
    launch=5e-6,
    products={False: ProductRate(1e-11, 1e-10)},
    per_byte={"add": 1e-10, "exp": 4e-10},
    per_other_byte=2e-10,
    optimizer_bandwidth=1e10,
)
SMALL = {
    "model": {"size": "tiny"},
    "genes": 200,
    "profiles": 5000,
    "edges_per_gene": 3,
    "batch": {"global_profiles": 32, "micro_profiles": 2},
    "hardware": {"gpu": "CPU", "count": 2},
}


@pytest.fixture
def small_calibration(monkeypatch):
    """A model that takes milliseconds, measured in the tests' own process."""
    monkeypatch.setattr(calibration_module, "_GENES", 300)
    monkeypatch.setattr(calibration_module, "retain_freed_memory", lambda _: False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def works() -> list[Work]:
    sizes = (2**10, 2**16, 2**20, 2**22)
    products = [Work(flops, False, moved, "mm") for flops in (1e6, 1e8, 4e9) for moved in sizes]
    return products + [Work(0.0, False, moved, name) for name in ("add", "exp") for moved in sizes]


def test_rates_are_found_again_in_the_times_of_launches():
    timed = [TimedWork(work, RATES.pass_seconds([work])) for work in works()]
    # two launches that do next to nothing
    timed += [TimedWork(Work(0.0, False, 8, "add"), RATES.launch)] * 9
    found = fitted_rates(timed, 1e10)
    assert found.launch == pytest.approx(RATES.launch, rel=0.01)
    assert found.product(False) == pytest.approx(RATES.product(False), rel=0.05)
    for name in ("add", "exp"):
        assert found.per_byte[name] == pytest.approx(RATES.per_byte[name], rel=0.05)
    assert RATES.per_byte["add"] < found.per_other_byte < RATES.per_byte["exp"]


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.7])
def test_rates_give_what_the_measured_pass_took(factor):
    seconds = factor * RATES.pass_seconds(works())
    assert RATES.matched(works(), seconds).pass_seconds(works()) == pytest.approx(seconds)


def test_a_pass_that_was_faster_than_its_timed_operations_makes_all_rates_faster():
    matched = RATES.matched(works(), 0.5 * RATES.pass_seconds(works()))
    assert matched.product(False) == pytest.approx([0.5 * rate for rate in RATES.product(False)])
    assert matched.per_byte["exp"] == pytest.approx(0.5 * RATES.per_byte["exp"])


def test_what_was_not_measured_takes_the_time_of_the_others():
    unknown = Work(0.0, False, 1e6, "never_seen")
    assert RATES.pass_seconds([unknown]) == pytest.approx(RATES.launch + 1e6 * RATES.per_other_byte)
    assert RATES.product(True) == RATES.product(False)


@pytest.mark.parametrize("kernel", ["fused", "reference"])
def test_operations_that_are_timed_are_those_of_the_trace(kernel, small_calibration):
    timed = []
    with pytest.MonkeyPatch.context() as patched:
        fitted = calibration_module.fitted_rates
        patched.setattr(
            calibration_module, "fitted_rates", lambda passes, *rest: timed.extend(passes) or fitted(passes, *rest)
        )
        rates = measured_rates(Calibration(kernel=kernel))
    case = Calibration(kernel=kernel).case
    traced = trace_pass(case, calibration_module.calibration_graph()).work
    # tensors without data are told that they are constants
    named = [work.operation for work in traced if work.operation != "lift_fresh"]
    if kernel == "fused":
        assert [each.work.operation for each in timed] == named
    else:
        # the trace is of a first pass, in which the published modules weigh the graph's edges
        assert 0 <= len(named) - len(timed) < 15
    assert sum(each.work.flops for each in timed) == sum(work.flops for work in traced)
    assert sum(each.work.bytes for each in timed) == pytest.approx(sum(work.bytes for work in traced), rel=0.01)
    assert all(each.seconds > 0 for each in timed)
    assert 0 < rates.pass_seconds(traced) < 30
    assert math.isfinite(rates.optimizer_bandwidth)


# ---- plans -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def known_rates(monkeypatch):
    monkeypatch.setattr(machine_module, "calibrate", lambda _: RATES)


def test_a_plan_for_cpus_takes_its_times_from_what_was_measured(known_rates):
    plan = make_plan(PlanSettings(**SMALL))
    assert plan.pass_seconds == pytest.approx(RATES.pass_seconds(plan.chosen.trace.work))
    assert plan.published_hours is None
    assert plan.machine.hardware.accelerator.bandwidth == pytest.approx(0.01)


def test_workers_of_a_machine_share_its_memory(known_rates):
    one, two = (
        make_plan(PlanSettings(**{**SMALL, "hardware": {"gpu": "CPU", "count": n, "memory": 8}})) for n in (1, 2)
    )
    reserved = one.machine.assume.reserved_gigabytes
    assert one.machine.room_bytes == pytest.approx((8 - reserved) * 1e9)
    assert two.machine.room_bytes == pytest.approx((4 - reserved) * 1e9)


def test_a_process_on_cpus_holds_more_than_its_tensors(known_rates):
    plan = make_plan(PlanSettings(**SMALL))
    for stage, memory in enumerate(plan.chosen.memory):
        tensors = memory_of(plan.chosen.trace, stage, 2)
        assert memory == process_memory(tensors, "fused")
        assert memory.total > tensors.total
        assert memory.total == tensors.total + memory.kept


def test_a_plan_says_what_was_measured_and_what_was_not(known_rates):
    settings = PlanSettings(**SMALL)
    text = plan_text(make_plan(settings), settings)
    for expected in ("Memory of a worker", "2 x CPU", "step of a small model", "kept ", "per worker/s"):
        assert expected in text
    assert "A800" not in text


def test_the_command_plans_for_cpus(known_rates, capsys):
    arguments = ["--model.size", "tiny", "--genes", "200", "--batch.micro-profiles", "2", "--hardware.gpu", "CPU"]
    assert run(["plan", *arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["published_hours"] is None
    assert found["settings"]["hardware"]["count"] == 1
    assert all(memory["kept"] > 0 for memory in found["chosen"]["memory"])


def test_a_run_on_cpus_is_compared_with_whole_processes(known_rates, tmp_path, monkeypatch, capsys):
    done = RunSettings(
        corpus="none", storage=str(tmp_path), name="first", model={"size": "tiny"},
        batch={"global_profiles": 32, "micro_profiles": 2}, workers={"count": 2, "threads_each": 3},
    )  # fmt: skip
    (tmp_path / "first").mkdir()
    (tmp_path / "first/settings.json").write_text(json.dumps(done.resolved()))
    row = {"step": 1, "samples_per_second": 8.0, "peak_memory_bytes": 7e8, "data_wait_fraction": 0.0}
    (tmp_path / "first/metrics.jsonl").write_text(f"{json.dumps(row)}\n")
    monkeypatch.setattr(plan_module, "_corpus", lambda _: (5000, 200, synthetic_graph(200, 3)))
    assert run(["plan", "--after", str(tmp_path / "first"), "--hardware.gpu", "CPU", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    planned = {figure["name"]: figure["planned"] for figure in found["after"]}
    assert planned["GB of memory"] > PROCESS_GIGABYTES
    hardware = found["settings"]["hardware"]
    assert (hardware["count"], hardware["per_node"], hardware["threads"]) == (2, 2, 3)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--hardware.gpu", "CPU", "--hardware.fp32-tflops", "3"], "fp32_tflops"),
        (["--hardware.gpu", "CPU", "--assume.bandwidth-share", "0.5"], "bandwidth_share"),
        (["--hardware.threads", "2"], "threads"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(arguments, named, capsys):
    assert run(["plan", *arguments]) == 2
    assert named in capsys.readouterr().err
