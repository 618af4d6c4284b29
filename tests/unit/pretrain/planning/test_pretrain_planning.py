"""Memory, time, checkpoints and the plan that is made of them."""

import json
import math

import numpy as np
import pytest

from cluster.__main__ import run
from dataprep.runtime.command_line import UserError
from pretrain.bench.training_step import synthetic_graph
from pretrain.config import ModelSettings, RunSettings
from pretrain.planning import plan as plan_module
from pretrain.planning.duration import half_ring_seconds, pass_seconds, step_time
from pretrain.planning.memory import memory_of
from pretrain.planning.picture import write_picture
from pretrain.planning.plan import make_plan
from pretrain.planning.reliability import best_interval, expected_seconds
from pretrain.planning.settings import Assumptions, HardwareSettings, PlanSettings
from pretrain.planning.show import plan_text
from pretrain.planning.simulation import _simulated, simulate_runs
from pretrain.planning.trace import TracedCase, Work, trace_pass

TINY = {
    "model": {"size": "tiny"},
    "genes": 200,
    "profiles": 5000,
    "edges_per_gene": 3,
    "batch": {"global_profiles": 32},
}


@pytest.fixture(scope="module", autouse=True)
def published_trace(trace):
    """The trace of the published run takes seconds; here one of a small model stands for it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(plan_module, "_published_trace", lambda: trace)
        yield


@pytest.fixture(scope="module")
def trace():
    return trace_pass(TracedCase(ModelSettings(size="tiny").shape(200)), synthetic_graph(200, 3))


def test_what_each_stage_divides_shrinks_with_the_workers(trace):
    for stage in (1, 2, 3):
        one, eight = memory_of(trace, stage, 1), memory_of(trace, stage, 8)
        assert eight.optimizer == pytest.approx(one.optimizer / 8, abs=8)
        assert (eight.gradients, eight.activations, eight.graph) == (one.gradients, one.activations, one.graph)
    assert memory_of(trace, 0, 8) == memory_of(trace, 0, 1)


def test_stage_3_gathers_all_weights_beside_each_workers_share(trace):
    one, two = (memory_of(trace, 3, workers) for workers in (1, 2))
    trained = 4 * trace.trained
    assert one.weights == trace.weight_bytes
    assert two.weights == trace.weight_bytes - trained + trained // 2 + trained


def test_parts_add_up(trace):
    memory = memory_of(trace, 1, 4)
    parts = ("weights", "gradients", "optimizer", "activations", "graph", "buffers")
    assert memory.total == sum(getattr(memory, part) for part in parts)
    assert memory.gradients == 4 * trace.trained


def test_a_pass_is_bound_by_the_slowest_of_products_traffic_and_host():
    gpu = HardwareSettings(gpu="A100").accelerator
    assume = Assumptions(product_share=1, bandwidth_share=1, launch_microseconds=0)
    assert pass_seconds([Work(312e12, True, 0)], gpu, assume) == pytest.approx(1)
    assert pass_seconds([Work(19.5e12, False, 0)], gpu, assume) == pytest.approx(1)
    assert pass_seconds([Work(1, True, 2.039e12)], gpu, assume) == pytest.approx(1)
    slow_host = Assumptions(launch_microseconds=1e6)
    assert pass_seconds([Work(1, True, 1)] * 3, gpu, slow_host) == pytest.approx(3)


def test_sums_over_workers_take_nothing_alone_and_longer_between_machines():
    assume = Assumptions()
    alone, node, nodes = (
        half_ring_seconds(1e9, HardwareSettings(count=count), assume) for count in (1, 8, 16)
    )  # fmt: skip
    assert alone == 0
    assert nodes > 5 * node > 0


def test_stage_3_gathers_weights_in_every_pass(trace):
    hardware, assume = HardwareSettings(), Assumptions()
    stage_1, stage_3 = (step_time(trace, 0.1, 64, stage, hardware, assume) for stage in (1, 3))
    assert stage_3.communication > 30 * stage_1.communication
    assert stage_1.passes == stage_3.passes == pytest.approx(6.4)


@pytest.mark.parametrize(("checkpoint", "between"), [(5.0, 3600.0), (30.0, 36_000.0), (60.0, 1200.0)])
def test_the_interval_loses_least(checkpoint, between):
    best = best_interval(checkpoint, between)

    def expected(interval):
        return expected_seconds(1e6, interval, checkpoint, between, 60)

    assert expected(best) <= min(expected(best * factor) for factor in (0.5, 0.8, 1.25, 2)) * 1.0001
    assert best == pytest.approx(math.sqrt(2 * checkpoint * between), rel=0.3), "Young's first order"


def test_nothing_lost_needs_no_checkpoint_and_no_longer_than_training():
    assert best_interval(5, math.inf) == math.inf
    assert expected_seconds(1000, math.inf, 5, math.inf, 60) == 1000
    assert expected_seconds(1000, 100, 5, math.inf, 60) == 1050
    assert expected_seconds(1e9, 1e9, 5, 1.0, 60) == math.inf


def test_a_plan_chooses_what_was_not_stated_and_keeps_what_was():
    free = make_plan(PlanSettings(**TINY))
    assert free.chosen.micro_profiles > 1
    assert {option.recompute for option in free.options} == {"nothing", "hidden", "layers"}
    stated = PlanSettings(
        **{
            **TINY,
            "model": {"size": "tiny", "recompute": "hidden"},
            "batch": {"micro_profiles": 2, "global_profiles": 32},
        }
    )
    plan = make_plan(stated)
    assert [(option.recompute, option.micro_profiles) for option in plan.options] == [("hidden", 2)]
    assert plan.steps == 29 * 157
    assert plan.gpu_hours == pytest.approx(8 * plan.hours)


def test_parts_are_compiled_unless_it_is_stated_that_they_are_not():
    fewest = {**TINY, "batch": {"global_profiles": 32, "micro_profiles": 1}}
    eager = PlanSettings(**{**fewest, "model": {"size": "tiny", "compile": False}})
    launches = [len(make_plan(settings).chosen.trace.work) for settings in (PlanSettings(**fewest), eager)]
    assert launches[0] < launches[1]


def test_a_pass_that_was_measured_scales_all_times():
    settings = {**TINY, "batch": {"micro_profiles": 2, "global_profiles": 32}, "hardware": {"loss_rate": 0}}
    estimated = make_plan(PlanSettings(**settings))
    measured = make_plan(PlanSettings(**settings, measured_step_seconds=10 * estimated.options[0].seconds))
    assert measured.step.passes == pytest.approx(10 * estimated.step.passes)
    with pytest.raises(ValueError, match="micro_profiles"):
        PlanSettings(**TINY, measured_step_seconds=1.0)


def test_what_fits_nowhere_is_refused_with_what_it_would_take():
    with pytest.raises(UserError, match=r"nothing fits into .* GB of L4: micro-batch 1 with recompute .* takes .* GB"):
        make_plan(PlanSettings(**TINY, hardware={"gpu": "L4", "memory": 2.001}))


def test_losses_lengthen_a_run_and_shorten_the_interval():
    calm, stormy = (make_plan(PlanSettings(**TINY, hardware={"loss_rate": rate})) for rate in (0.0001, 20.0))
    assert stormy.hours > calm.hours >= calm.training_hours
    assert stormy.checkpoints.interval_seconds < calm.checkpoints.interval_seconds


def test_every_assumption_is_printed_with_the_setting_that_changes_it():
    settings = PlanSettings(**TINY, hardware={"price": 2.0}, assume={"product_share": 0.33})
    text = plan_text(make_plan(settings), settings)
    for name in Assumptions.model_fields:
        assert f"--assume.{name.replace('_', '-')} " in text
    for expected in ("--assume.product-share 0.33", "350", "Estimates", "cost", "--batch.micro-profiles"):
        assert expected in text


def test_the_command_prints_a_plan_and_ends_with_json(capsys):
    arguments = ["plan", "--model.size", "tiny", "--genes", "200", "--batch.global-profiles", "16", "--json"]
    assert run(arguments) == 0
    *_, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert found["estimates"] is True
    assert found["chosen"]["micro_profiles"] >= 1
    assert len(found["chosen"]["memory"]) == 4
    assert found["settings"]["model"]["size"] == "tiny"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--hardware.gpu", "Z9"], "Z9"), (["--corpus", "/nowhere/corpus", "--profiles", "3"], "--profiles")],
)
def test_mistakes_are_named(arguments, named, capsys):
    assert run(["plan", *arguments]) == 2
    assert named in capsys.readouterr().err


# ---- simulated runs --------------------------------------------------------------------------------------------------

SIMULATED = {**TINY, "batch": {"global_profiles": 4096, "micro_profiles": 4}, "profiles": 500_000}


def simulated(counts=(8, 64, 1024), **changed):
    settings = PlanSettings(**{**SIMULATED, **changed})
    return simulate_runs(make_plan(settings), settings, counts)


def test_more_gpus_are_faster_and_none_is_faster_than_perfect():
    rates = [found.profiles_per_second / found.gpus for found in simulated()]
    assert rates[0] > rates[1] > rates[2] > 0


def test_without_losses_and_stragglers_only_passes_sums_and_checkpoints_remain():
    for found in simulated(hardware={"loss_rate": 0}, assume={"straggling": 0}):
        assert (found.losses, found.repeated, found.restarts) == (0, 0, 0)
        assert found.straggling == pytest.approx(0, abs=1e-9)
        assert found.hours == pytest.approx(found.passes + found.communication + found.checkpoints)


def test_simulated_hours_are_those_that_are_expected_of_losses():
    settings = PlanSettings(**SIMULATED, hardware={"loss_rate": 60}, assume={"straggling": 0, "restart_seconds": 5})
    plan = make_plan(settings)
    hours = [_simulated(plan, settings, 8, np.random.default_rng(seed)).hours for seed in range(20)]
    assert np.mean(hours) == pytest.approx(plan.hours, rel=0.1)


def test_the_slowest_of_many_is_slower_than_the_slowest_of_few():
    few, _, many = simulated(assume={"straggling": 0.1})
    assert many.straggling / many.passes > few.straggling / few.passes > 0.05


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_simulated_runs_become_a_picture(tmp_path, ending):
    write_picture(tmp_path / f"runs.{ending}", simulated(), "tiny")
    assert (tmp_path / f"runs.{ending}").stat().st_size > 5000
    with pytest.raises(UserError, match="--picture"):
        write_picture(tmp_path / "runs.unknown", simulated(), "tiny")


# ---- after a run -----------------------------------------------------------------------------------------------------


def test_a_plan_is_compared_with_what_a_run_did(tmp_path, monkeypatch, capsys):
    done = RunSettings(
        corpus="none", storage=str(tmp_path), name="first", epochs=3, model={"size": "tiny"},
        batch={"global_profiles": 32, "micro_profiles": 2}, workers={"count": 2}, zero={"stage": 2},
    )  # fmt: skip
    (tmp_path / "first").mkdir()
    (tmp_path / "first/settings.json").write_text(json.dumps(done.resolved()))
    figures = {"peak_memory_bytes": 3e9, "data_wait_fraction": 0.25}
    rows = [{"step": step, "samples_per_second": 8.0 + step, **figures} for step in (1, 2, 3)]
    (tmp_path / "first/metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    monkeypatch.setattr(plan_module, "_corpus", lambda _: (5000, 200, synthetic_graph(200, 3)))
    assert run(["plan", "--after", str(tmp_path / "first"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {figure["name"]: figure["done"] for figure in found["after"]} == {
        "profiles/s": 10.0, "s of a step": 3.2, "GB of memory": 3.0, "share of time waiting for data": 0.25,
    }  # fmt: skip
    assert found["settings"]["hardware"]["count"] == 2
    assert found["steps"] == 3 * 157
    assert found["chosen"]["micro_profiles"] == 2


def test_what_is_not_a_run_is_refused(tmp_path, capsys):
    assert run(["plan", "--after", str(tmp_path)]) == 1
    assert "is not a run" in capsys.readouterr().err
