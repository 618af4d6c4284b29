"""A benchmark says so, and fails, where a figure is beyond its bound."""

import pytest

from benchmarks.support.bounds import Bound, end_with

HELD = [Bound("rate", 1.4, least=1.4), Bound("memory", 2.9, most=3)]


def test_a_figure_is_printed_beside_its_bound(capsys):
    end_with(HELD)
    assert capsys.readouterr().out == "held    rate: 1.4 (at least 1.4)\nheld    memory: 2.9 (at most 3)\n"


@pytest.mark.parametrize(
    "broken", [Bound("rate", 1.39, least=1.4), Bound("memory", 3.1, most=3), Bound("rate", float("nan"), least=1)]
)
def test_a_broken_bound_is_told_and_ends_the_process_with_1(capsys, broken):
    with pytest.raises(SystemExit) as ended:
        end_with([*HELD, broken])
    assert ended.value.code == 1
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["held", "held", "BROKEN"]
