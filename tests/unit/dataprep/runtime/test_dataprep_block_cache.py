"""What is read through blocks of an object is what the object has, in few requests."""

from hypothesis import given
from hypothesis import strategies as st

from dataprep.runtime.object_store.block_cache import GrowingBlocks

CONTENT = bytes(range(256)) * 40
BLOCK = 100


class Store:
    def __init__(self) -> None:
        self.requests: list[tuple[int, int]] = []

    def fetch(self, start: int, stop: int) -> bytes:
        assert 0 <= start < stop <= len(CONTENT)
        self.requests.append((start, stop))
        return CONTENT[start:stop]


def blocks(store: Store, most: int = 20, longest: int = 8) -> GrowingBlocks:
    return GrowingBlocks(BLOCK, store.fetch, len(CONTENT), most_blocks=most, longest_fetch=longest)


@given(st.lists(st.tuples(st.integers(0, len(CONTENT) + 50), st.integers(0, 3 * BLOCK * 20)), max_size=30))
def test_any_reads_in_any_order_give_the_content(reads):
    cache = blocks(Store())
    for start, length in reads:
        assert cache._fetch(start, start + length) == CONTENT[start : start + length]


def test_a_stretch_is_fetched_in_ever_larger_pieces_up_to_the_longest():
    store = Store()
    cache = blocks(store, most=200)
    for start in range(0, 40 * BLOCK, 50):
        cache._fetch(start, start + 50)
    assert [(stop - start) // BLOCK for start, stop in store.requests] == [1, 2, 4, 8, 8, 8, 8, 8]


def test_steps_over_a_block_and_looks_elsewhere_do_not_end_a_stretch():
    store = Store()
    cache = blocks(store)
    for start in (0, 5_000, 2 * BLOCK, 7_000, 5 * BLOCK):
        cache._fetch(start, start + 10)
    assert store.requests == [(0, 100), (5_000, 5_100), (200, 400), (7_000, 7_100), (500, 900)]


def test_places_that_are_far_apart_cost_a_block_each():
    store = Store()
    cache = blocks(store)
    for start in (0, 3_000, 6_000, 9_000):
        cache._fetch(start, start + 10)
    assert [stop - start for start, stop in store.requests] == [BLOCK] * 4


def test_what_was_read_is_not_fetched_again_while_there_is_room():
    store = Store()
    cache = blocks(store, most=6)
    for _ in range(2):
        for start in (0, 3_000, 6_000):
            cache._fetch(start, start + 10)
    assert len(store.requests) == 3
    cache._fetch(8_000, 8_000 + 6 * BLOCK)
    cache._fetch(0, 10)
    assert store.requests[3:] == [(8_000, 8_600), (0, 100)]


def test_a_fetch_ends_where_something_is_there_already():
    store = Store()
    cache = blocks(store)
    cache._fetch(2 * BLOCK, 3 * BLOCK)
    cache._fetch(0, 2 * BLOCK)
    assert store.requests == [(200, 300), (0, 200)]
