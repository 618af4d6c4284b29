"""The plan gives every profile of the split to exactly one worker once per epoch, whatever happens in between."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dataprep.corpus import Shard
from pretrain.data.accounting import Ledger, PlanKey, Position
from pretrain.data.plan import StepShare, layout_of, steps_in, worker_windows


def make_layout(rows_per_shard: list[int], row_group: int, first_row_id: int = 0):
    shards, first = [], first_row_id
    for number, rows in enumerate(rows_per_shard):
        groups = [row_group] * (rows // row_group) + ([rows % row_group] if rows % row_group else [])
        shards.append(Shard(f"part-{number}", "train", rows, first, 1, "", tuple(groups)))
        first += rows
    return layout_of(shards)


def rows_of(windows) -> np.ndarray:
    return np.concatenate([window.row_ids for window in windows]) if windows else np.empty(0, np.int64)


@hypothesis_settings(deadline=None, max_examples=60)
@given(
    shards=st.lists(st.integers(1, 50), min_size=1, max_size=5),
    row_group=st.integers(1, 16),
    workers=st.integers(1, 5),
    global_profiles=st.integers(1, 40),
    window=st.integers(1, 64),
    epoch=st.integers(0, 3),
)
def test_the_union_over_workers_is_every_profile_once(shards, row_group, workers, global_profiles, window, epoch):
    layout = make_layout(shards, row_group, first_row_id=1000)
    share = StepShare(global_profiles, workers)
    slices = [rows_of(worker_windows(layout, epoch, 0, worker, share, window)) for worker in range(workers)]
    assert sorted(np.concatenate(slices)) == list(range(1000, 1000 + sum(shards)))
    for worker, rows in enumerate(slices):
        assert len(rows) == share.slice_rows(worker, sum(shards))


@hypothesis_settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 120),
    row_group=st.integers(1, 16),
    global_profiles=st.integers(1, 30),
    window=st.integers(1, 64),
    sessions=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 6)), min_size=1, max_size=4),
)
def test_kills_and_resizes_in_an_epoch_neither_drop_nor_repeat(rows, row_group, global_profiles, window, sessions):
    """Run some steps at one world size, restart at another, and so on; then finish the epoch."""
    layout = make_layout([rows], row_group)
    position = Position.start(rows, PlanKey(1, global_profiles, window))
    seen: list[int] = []
    for workers, steps in [*sessions, (2, rows + 1)]:
        position = position.under(PlanKey(workers, global_profiles, window))
        share = StepShare(global_profiles, workers)
        parts = [next(position.parts(layout, 0, worker, epochs=1)) for worker in range(workers)]
        queues = [list(rows_of(part.windows)) for part in parts]
        left = parts[0].profiles
        consumed = position.consumed.copy()
        for _ in range(min(steps, steps_in(left, global_profiles))):
            profiles = min(left, global_profiles)
            for worker, queue in enumerate(queues):
                for _ in range(share.of(worker, profiles)):
                    row = queue.pop(0)
                    seen.append(row)
                    consumed[row] = True
            left -= profiles
            position = position.after_step()
            if left == 0:
                break
        if left == 0:
            break
        position = position.with_consumed(consumed)
        state, bits = position.to_state()
        position = Position.from_state(state, bits)
    assert sorted(seen) == list(range(rows))
    assert position.step_in_epoch == steps_in(rows, global_profiles)


def test_a_restart_at_the_same_size_walks_the_same_order():
    layout = make_layout([100, 60], 8)
    share = StepShare(16, 2)
    whole = rows_of(worker_windows(layout, 4, 9, 1, share, 24))
    rest = rows_of(worker_windows(layout, 4, 9, 1, share, 24, skip=40))
    np.testing.assert_array_equal(rest, whole[40:])


def test_row_groups_that_are_used_up_are_not_read_again():
    layout = make_layout([64], 8)
    consumed = np.zeros(64, bool)
    consumed[8:40] = True
    windows = worker_windows(layout, 0, 0, 0, StepShare(8, 1), 16, consumed=consumed)
    assert {group for window in windows for _, groups in window.reads for group in groups} == {0, 5, 6, 7}


def test_epochs_and_seeds_have_orders_of_their_own():
    layout = make_layout([200], 8)
    share = StepShare(16, 1)
    orders = [
        tuple(rows_of(worker_windows(layout, epoch, seed, 0, share, 64))) for epoch, seed in ((0, 0), (1, 0), (0, 1))
    ]
    assert len(set(orders)) == 3


def test_a_split_may_have_others_between_its_row_ids():
    """As it has in a corpus that has grown."""
    shards = [Shard("a", "train", 10, 0, 1, "", (4, 4, 2)), Shard("b", "train", 7, 25, 1, "", (4, 3))]
    layout, share = layout_of(shards), StepShare(6, 2)
    slices = [rows_of(worker_windows(layout, 0, 0, worker, share, 5)) for worker in range(2)]
    ids = np.concatenate(slices)
    assert sorted(ids) == [*range(10), *range(25, 32)]
    assert sorted(layout.positions_of(ids)) == list(range(17))
    assert layout.row_ids_at(layout.positions_of(ids)).tolist() == ids.tolist()
    ledger = Ledger(Position.start(17, PlanKey(2, 6, 5)), layout)
    ledger.record(ids)
    assert ledger.union(lambda counts: counts).all()
    ledger.record(np.array([26]))
    with pytest.raises(RuntimeError, match="row_id 26"):
        ledger.union(lambda counts: counts)


def test_a_profile_used_twice_stops_the_run():
    position = Position.start(10, PlanKey(1, 4, 8))
    ledger = Ledger(position, make_layout([10], 4, first_row_id=100))
    ledger.record(np.array([103, 104]))
    ledger.record(np.array([104]))
    with pytest.raises(RuntimeError, match=r"1 profiles were used more than once in an epoch, e.g. row_id 104"):
        ledger.union(lambda counts: counts)


def test_a_profile_left_out_stops_the_run_at_the_epochs_end():
    position = Position.start(3, PlanKey(1, 4, 8))
    with pytest.raises(RuntimeError, match="epoch 0 ended with 1 profiles unused"):
        position.next_epoch(np.array([True, False, True]))
