"""The fused kernel under DeepSpeed ZeRO-3, which takes parameters away between uses. Two processes on gloo.

Run as a program, this file is one of those processes.
"""

import json
import os
import socket
import subprocess
import sys
import traceback
from dataclasses import asdict, dataclass

import numpy as np
import pytest

STEPS, GENES = 4, 40


@dataclass(frozen=True)
class Training:
    """What differs between the trainings. Each begins with the same weights, profiles and masks of its family."""

    kernel: str
    stage: int
    recompute: str = "nothing"
    compiled: bool = False
    family: str = "original"

    def __str__(self) -> str:
        return json.dumps(asdict(self))


REFERENCE = Training("reference", 1)
FUSED = [
    Training("fused", 3, "nothing"),
    Training("fused", 3, "hidden"),
    Training("fused", 3, "layers"),
    Training("fused", 3, "hidden", compiled=True),
]
LATEST_REFERENCE = Training("reference", 1, family="latest")
LATEST_FUSED = Training("fused", 3, "layers", family="latest")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def losses() -> dict[str, list[float]]:
    """Losses of each training, all of them one after the other by the same two workers, which take long to start.

    After one that failed, the workers may wait for each other: those that come later are missing.
    """
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": "2",
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(["", *sys.path])[1:],
    }
    trainings = [str(training) for training in (REFERENCE, *FUSED, LATEST_REFERENCE, LATEST_FUSED)]
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, *trainings],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [worker.communicate(timeout=500) for worker in workers]
    print(*(stderr[-3000:] for _, stderr in outputs), sep="\n")
    lines = [line.split("\t") for line in outputs[0][0].splitlines() if line.startswith("{")]
    return {training: json.loads(found) for training, found in lines}


@pytest.mark.parametrize("training", FUSED, ids=str)
def test_zero_3_trains_the_fused_kernel_as_zero_1_does_the_reference(training, losses):
    assert len(set(losses[str(REFERENCE)])) == STEPS
    np.testing.assert_allclose(losses[str(training)], losses[str(REFERENCE)], rtol=1e-4)


def test_zero_3_trains_the_second_family_too_where_layers_are_recomputed(losses):
    assert len(set(losses[str(LATEST_FUSED)])) == STEPS
    np.testing.assert_allclose(losses[str(LATEST_FUSED)], losses[str(LATEST_REFERENCE)], rtol=1e-4)


def main(trainings: list[Training]) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo")
    exit_code = 0
    for training in trainings:
        try:
            found = losses_of(training)
        except Exception:  # noqa: BLE001 - the test that needs it fails, and shows this
            traceback.print_exc()
            exit_code = 1
            break
        print(training, json.dumps(found), sep="\t", flush=True)
    sys.stderr.flush()
    # Not through the interpreter's own end: a thread of gloo may only then drop its last tensor, which needs the
    # interpreter, and Python answers by ending that thread, which C++ answers by aborting the process.
    os._exit(exit_code)


def losses_of(training: Training) -> list[float]:
    import torch
    import torch.distributed as dist

    from dataprep.corpus import GeneGraph
    from pretrain.config import RunSettings
    from pretrain.model.bulkformer import BulkFormer
    from pretrain.model.loss import masked_squared_error, profile_loss
    from pretrain.shape import ModelShape
    from pretrain.training.zero import set_learning_rate, start_engine

    settings = RunSettings(
        corpus="none", storage="none", name="zero", zero={"stage": training.stage}, workers={"count": 2},
        batch={"global_profiles": 4, "micro_profiles": 2},
    )  # fmt: skip
    shape = ModelShape(
        family=training.family, genes=GENES, dim=32, performer_layers=2, heads=2,
        attention_dropout=0.0, feed_forward_dropout=0.0,
    )  # fmt: skip
    generator = np.random.default_rng(0)
    graph = GeneGraph(
        source=generator.integers(0, GENES, 100).astype(np.int32),
        target=generator.integers(0, GENES, 100).astype(np.int32),
        weight=generator.uniform(0.4, 1, 100).astype(np.float32),
    )
    torch.manual_seed(0)
    model = BulkFormer(shape, graph, training.kernel, compile=training.compiled, recompute=training.recompute)
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
    engine.destroy()
    return losses


if __name__ == "__main__":
    main([Training(**json.loads(training)) for training in sys.argv[1:]])
