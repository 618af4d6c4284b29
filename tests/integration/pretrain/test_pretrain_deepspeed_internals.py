"""What makes each private name of DeepSpeed necessary still holds, and how gradients are averaged: two processes, gloo.

Run as a program, this file is one of those processes. Where a test fails after an update of DeepSpeed, a name has gone
or the way around it in ``pretrain.training.deepspeed_internals`` may go.
"""

import json
import os
import socket
import subprocess
import sys
from contextlib import suppress

import pytest

PASSES = 3
COMPILER = "torch._inductor.compile_fx"
FAILING_PASS = PASSES


def findings_of_two_workers(stage: int) -> list[dict[str, object]]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(["", *sys.path])[1:],
    }
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, str(stage)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [worker.communicate(timeout=200) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs[0][1][-3000:] + outputs[1][1][-3000:]
    return [json.loads(output.splitlines()[-1]) for output, _ in outputs]


@pytest.fixture(scope="module", params=[2, 3])
def findings(request) -> tuple[int, list[dict[str, object]]]:
    return request.param, findings_of_two_workers(request.param)


def test_deepspeed_would_compile_its_shared_memory_operator(findings):
    for found in findings[1]:
        assert found["compiles_by_default"], "the operator is no longer compiled: skip_shared_memory_operator may go"
        assert not found["compiles_when_skipped"]


def test_workers_load_neither_mlflow_nor_all_of_the_compiler(findings):
    for found in findings[1]:
        assert found["needless_modules"] == []


def test_deepspeed_loads_them_by_itself():
    program = (
        "import deepspeed, sys; before = set(sys.modules); import deepspeed.runtime.zero.muon.muon_optimizer;"
        f"print('mlflow' in before, {COMPILER!r} in before, {COMPILER!r} in sys.modules)"
    )
    environment = {**os.environ, "DS_ACCELERATOR": "cpu"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    mlflow, compiler_before, compiler = done.stdout.splitlines()[-1].split()
    assert mlflow == "True", "DeepSpeed does without MLflow: without_mlflow may go"
    assert (compiler_before, compiler) == ("False", "True"), "load_muon_uncompiled may go, or no longer helps"


def test_moments_cannot_be_set_before_deepspeed_has_its_state(findings):
    for found in findings[1]:
        assert found["error_without_state"], "moments can be set at once: create_optimizer_state may go"
        assert found["moments_survive"]


def test_stage_3_does_not_pad_what_it_is_given(findings):
    stage, (_, last) = findings
    if stage == 3:
        assert last["error_without_padding"], "stage 3 pads by itself: stage_3_partition may go"


def test_a_gradient_that_is_not_finite_on_one_rank_is_applied_on_none_and_all_hear_of_it(findings):
    of_ranks = findings[1]
    assert [found["applied"] for found in of_ranks] == [[True, False]] * 2
    assert of_ranks[0]["weights_are_finite"]


def test_gradients_of_a_step_are_averaged_over_workers_once(findings):
    for found in findings[1]:
        assert found["reductions_in_passes_left_to_deepspeed"] > 0, "DeepSpeed waits: accumulating may go"
        assert found["reductions_in_passes"] == 0
        assert found["reductions_at_the_end"] > 0
        assert found["gradient_error"] < 1e-6


def test_a_worker_that_fails_in_a_pass_does_not_wait_for_the_others(findings):
    for found in findings[1]:
        assert found["reductions_after_a_failure"] == 0


def main(stage: int) -> None:
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.profiler import ProfilerActivity, profile

    from pretrain.config import RunSettings
    from pretrain.training.deepspeed_internals import (
        create_optimizer_state,
        skip_shared_memory_operator,
        without_mlflow,
    )
    from pretrain.training.zero import (
        MOMENTS,
        accumulating,
        apply_step,
        gather_moments,
        gather_weights,
        scatter_moments,
        start_engine,
    )

    def error_of(action) -> str | None:
        try:
            action()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
            return f"{type(error).__name__}: {error}"
        return None

    with without_mlflow():
        import deepspeed
    from deepspeed.utils import safe_get_full_grad, safe_set_full_optimizer_state

    dist.init_process_group("gloo")
    found = {
        "compiles_by_default": compiles_shared_memory_operator(deepspeed, lambda: None),
        "compiles_when_skipped": compiles_shared_memory_operator(deepspeed, skip_shared_memory_operator),
    }
    settings = RunSettings(
        corpus="none", storage="none", name="zero", zero={"stage": stage}, workers={"count": 2},
        batch={"global_profiles": 4, "micro_profiles": 2},
    )  # fmt: skip
    torch.manual_seed(0)
    # 5 x 7 = 35 weights: two ranks cannot have the same number of them
    engine = start_engine(nn.Linear(7, 5), settings)
    wanted = {
        f"{moment}.{name}": torch.rand(shape)
        for moment in MOMENTS
        for name, shape in (("weight", (5, 7)), ("bias", (5,)))
    }
    weight = engine.module.weight
    found["error_without_state"] = error_of(
        lambda: safe_set_full_optimizer_state(weight, wanted["exp_avg.weight"], "exp_avg")
    )
    if stage == 3:
        create_optimizer_state(engine, 1, MOMENTS)
        found["error_without_padding"] = error_of(
            lambda: safe_set_full_optimizer_state(weight, wanted["exp_avg.weight"], "exp_avg")
        )
    scatter_moments(engine, wanted, 1)
    gathered = gather_moments(engine)
    found["moments_survive"] = all(torch.equal(gathered[name], wanted[name]) for name in gathered)

    profiles = torch.rand(PASSES, 2, 2, 7)

    def train_on(one_pass: int) -> None:
        if one_pass == FAILING_PASS:
            raise MemoryError
        engine.backward(engine(profiles[one_pass, dist.get_rank()]).square().sum())

    def reductions_in(action) -> int:
        with profile(activities=[ProfilerActivity.CPU]) as recorded:
            action()
        names = [event.name for event in recorded.events()]
        return sum(name.startswith("c10d::") and "reduce" in name for name in names)

    def fail_in_second_pass() -> None:
        with suppress(MemoryError), accumulating(engine):
            train_on(0)
            train_on(FAILING_PASS)

    found["reductions_after_a_failure"] = reductions_in(fail_in_second_pass)
    engine.zero_grad()
    averaging = accumulating(engine)
    averaging.__enter__()
    found["reductions_in_passes"] = reductions_in(lambda: [train_on(one_pass) for one_pass in range(PASSES)])
    found["reductions_at_the_end"] = reductions_in(lambda: averaging.__exit__(None, None, None))
    plain = nn.Linear(7, 5)
    plain.load_state_dict(broadcast(gather_weights(engine)))
    plain(profiles.flatten(0, 2)).square().sum().backward()
    averaged = safe_get_full_grad(weight)
    found["gradient_error"] = float((averaged - plain.weight.grad / 2).abs().max() / plain.weight.grad.abs().max())
    engine.step()
    engine.set_gradient_accumulation_boundary(False)
    found["reductions_in_passes_left_to_deepspeed"] = reductions_in(lambda: train_on(0))
    engine.set_gradient_accumulation_boundary(True)
    train_on(1)
    engine.step()

    found["applied"] = []
    for value in (1.0, torch.nan if dist.get_rank() == 1 else 1.0):
        with accumulating(engine):
            engine.backward(engine(torch.full((2, 7), value)).sum())
        found["applied"].append(apply_step(engine))
    found["weights_are_finite"] = all(bool(weights.isfinite().all()) for weights in gather_weights(engine).values())
    found["needless_modules"] = [name for name in ("mlflow", COMPILER) if name in sys.modules]
    print(json.dumps(found), flush=True)
    # see test_pretrain_fused_zero.py
    os._exit(0)


def broadcast(item):
    import torch.distributed as dist

    items = [item]
    dist.broadcast_object_list(items)
    return items[0]


def compiles_shared_memory_operator(deepspeed, prepare) -> bool:
    """Whether a start of DeepSpeed's communication would compile it; ``prepare`` comes before."""
    from deepspeed.comm.torch import build_shm_op
    from deepspeed.ops.op_builder.cpu.comm import ShareMemCommBuilder

    compiled = []
    load, ShareMemCommBuilder.load = ShareMemCommBuilder.load, lambda _: compiled.append(True)
    try:
        # what a machine with a compiler has
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = True
        prepare()
        build_shm_op()
    finally:
        ShareMemCommBuilder.load = load
    return bool(compiled)


if __name__ == "__main__":
    main(int(sys.argv[1]))
