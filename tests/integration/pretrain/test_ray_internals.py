"""What makes each private name of Ray necessary still holds.

Where a test fails after an update of Ray, a name has gone or the way around it in ``dataprep.runtime.ray_internals``
may go.
"""

import time
from collections.abc import Iterator

import pyarrow as pa
import pytest
import ray.data
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer

from dataprep.runtime.ray_internals import (
    PAUSE_SECONDS,
    object_store_bytes,
    pause_scheduling_loop,
    with_needed_callbacks,
)


class CountRounds(ExecutionCallback):
    rounds = 0

    def on_execution_step(self, executor: object) -> None:
        CountRounds.rounds += 1


@pytest.fixture
def context() -> Iterator[ray.data.DataContext]:
    context = ray.data.DataContext.get_current()
    before = list(context.custom_execution_callback_classes)
    yield context
    context.custom_execution_callback_classes = before


def rounds_per_second_while_output_waits() -> float:
    """Of the loop of a dataset whose first block was taken and whose next ones, of 60 MB each, nobody takes."""

    def block(_: pa.Table) -> pa.Table:
        return pa.table({"expression": [bytes(30_000)] * 2000})

    dataset = ray.data.from_items([{"id": number} for number in range(12)], override_num_blocks=12)
    blocks = iter(
        dataset.map_batches(
            block, batch_size=None, batch_format="pyarrow", compute=ray.data.TaskPoolStrategy(size=1)
        ).iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
    )
    next(blocks)
    time.sleep(4.0)
    CountRounds.rounds = 0
    started = time.monotonic()
    time.sleep(2.0)
    return CountRounds.rounds / (time.monotonic() - started)


def test_ray_data_spins_in_the_training_process_unless_it_is_paused(ray_session, context):
    context.custom_execution_callback_classes = [CountRounds]
    free = rounds_per_second_while_output_waits()
    pause_scheduling_loop(context)
    context.custom_execution_callback_classes.append(CountRounds)
    paused = rounds_per_second_while_output_waits()
    assert 0 < paused <= 1 / PAUSE_SECONDS
    assert free > 2 / PAUSE_SECONDS, "the loop waits by itself: pause_scheduling_loop may go"


def test_ray_train_starts_actors_that_are_not_needed_unless_they_are_left_out(ray_session):
    def names(trainer: type) -> list[str]:
        made = trainer(lambda: None, scaling_config=ScalingConfig(num_workers=1))
        return [type(callback).__name__ for callback in made._create_default_callbacks()]

    usual = names(TorchTrainer)
    needless = {"PlacementGroupCleanerCallback", "DatasetsCallback"}
    assert needless <= set(usual), "Ray Train does without some by itself: with_needed_callbacks may leave out less"
    assert names(with_needed_callbacks(TorchTrainer)) == [name for name in usual if name not in needless]


@pytest.mark.usefixtures("ray_session")
def test_what_passes_through_the_object_store_is_counted() -> None:
    before, _ = object_store_bytes()
    kept = ray.put(bytes(3_000_000))
    after, spilled = object_store_bytes()
    assert 3_000_000 <= after - before < 4_000_000
    assert spilled >= 0
    del kept
