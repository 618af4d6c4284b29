"""The fused kernel under DeepSpeed ZeRO-3, which takes parameters away between uses. Two processes on gloo.

Run as a program, this file is one of those processes.
"""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

STEPS, GENES = 4, 40


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def losses_of_two_workers(
    kernel: str, stage: int, recompute: str = "nothing", compiled: bool = False, family: str = "original"
) -> list[float]:
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": "2",
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(["", *sys.path])[1:],
    }
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, kernel, str(stage), recompute, str(int(compiled)), family],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [worker.communicate(timeout=500) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs[0][1][-3000:]
    return json.loads(outputs[0][0].splitlines()[-1])


@pytest.fixture(scope="module")
def reference_losses() -> list[float]:
    losses = losses_of_two_workers("reference", stage=1)
    assert len(set(losses)) == STEPS
    return losses


@pytest.mark.parametrize(
    ("recompute", "compiled"), [("nothing", False), ("hidden", False), ("layers", False), ("hidden", True)]
)
def test_zero_3_trains_the_fused_kernel_as_zero_1_does_the_reference(recompute, compiled, reference_losses):
    losses = losses_of_two_workers("fused", stage=3, recompute=recompute, compiled=compiled)
    np.testing.assert_allclose(losses, reference_losses, rtol=1e-4)


def test_zero_3_trains_the_second_family_too_where_layers_are_recomputed():
    plain = losses_of_two_workers("reference", stage=1, family="latest")
    losses = losses_of_two_workers("fused", stage=3, recompute="layers", family="latest")
    assert len(set(losses)) == STEPS
    np.testing.assert_allclose(losses, plain, rtol=1e-4)


def main(kernel: str, stage: str, recompute: str, compiled: str, family: str) -> None:
    import torch
    import torch.distributed as dist

    from dataprep.corpus import GeneGraph
    from pretrain.config import RunSettings
    from pretrain.model.bulkformer import BulkFormer
    from pretrain.model.loss import masked_squared_error, profile_loss
    from pretrain.shape import ModelShape
    from pretrain.training.zero import set_learning_rate, start_engine

    dist.init_process_group("gloo")
    settings = RunSettings(
        corpus="none", storage="none", name="zero", zero={"stage": int(stage)}, workers={"count": 2},
        batch={"global_profiles": 4, "micro_profiles": 2},
    )  # fmt: skip
    shape = ModelShape(
        family=family, genes=GENES, dim=32, performer_layers=2, heads=2,
        attention_dropout=0.0, feed_forward_dropout=0.0,
    )  # fmt: skip
    generator = np.random.default_rng(0)
    graph = GeneGraph(
        source=generator.integers(0, GENES, 100).astype(np.int32),
        target=generator.integers(0, GENES, 100).astype(np.int32),
        weight=generator.uniform(0.4, 1, 100).astype(np.float32),
    )
    torch.manual_seed(0)
    model = BulkFormer(shape, graph, kernel, compile=compiled == "1", recompute=recompute)
    engine = start_engine(model, settings)
    profiles = torch.rand(STEPS, 2, 2, GENES) * 8
    mask = torch.rand(STEPS, 2, 2, GENES) < 0.3
    losses = []
    for step in range(STEPS):
        set_learning_rate(engine, 1e-3)
        expression, hidden = profiles[step, dist.get_rank()], mask[step, dist.get_rank()]
        output = engine(expression.masked_fill(hidden, torch.nan))
        loss = profile_loss(*masked_squared_error(output.expression, expression, hidden)).mean()
        engine.backward(loss)
        engine.step()
        total = loss.detach().clone()
        dist.all_reduce(total)
        losses.append(float(total) / 2)
    print(json.dumps(losses), flush=True)
    # Not through the interpreter's own end: a thread of gloo may only then drop its last tensor, which needs the
    # interpreter, and Python answers by ending that thread, which C++ answers by aborting the process.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
