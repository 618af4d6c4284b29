"""How work is divided among Ray's tasks: everything once, much at first, and little at the end."""

import pytest

from dataprep.pipeline.reading import shares_of_tasks


@pytest.mark.parametrize("cpus", [1, 2, 64])
@pytest.mark.parametrize("count", [0, 1, 7, 40, 2000])
def test_every_number_is_in_one_share_and_the_last_shares_are_small(count, cpus):
    shares = shares_of_tasks(range(5, 5 + count), cpus)
    assert [number for share in shares for number in share] == list(range(5, 5 + count))
    sizes = [len(share) for share in shares]
    assert sizes == sorted(sizes, reverse=True)
    # whichever CPU is the last one, the others have waited for one number at most
    assert all(size == 1 for size in sizes[-cpus:])


def test_a_long_build_pauses_seldom():
    assert len(shares_of_tasks(range(2000), 2)) < 300
