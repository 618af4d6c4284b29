"""Profiles between the sources and the shards: fetched by their places, and only as they were written."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dataprep.pipeline.restart.profile_parts import ProfileParts, profile_digest
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder

GENES = 12


def part_of(profiles: list[np.ndarray | None], first: int = 0) -> pa.Table:
    packed = [None if one is None else one.tobytes() for one in profiles]
    return pa.table(
        {
            "ordinal": range(first, first + len(profiles)),
            "profile": pa.array([None if one is None else profile_digest(one) for one in packed], pa.binary(16)),
            "expression": pa.array(packed, pa.large_binary()),
        }
    )


def made(rows: int, seed: int) -> list[np.ndarray]:
    values = np.random.default_rng(seed).normal(size=(rows, GENES)).astype("<f2")
    values[:, 0] = np.nan
    return list(values)


@pytest.fixture
def parts(tmp_path: Path) -> ProfileParts:
    parts = ProfileParts(Folder(str(tmp_path)), GENES)
    parts.write(0, part_of([*made(30, 0), None, *made(2, 1)]))
    parts.write(7, part_of([None, *made(3, 2)], first=33))
    return parts


def test_profiles_come_in_the_order_asked_for_whatever_was_refused_between_them(parts: ProfileParts) -> None:
    wanted = [(7, 1), (0, 31), (0, 2), (0, 29), (7, 0), (0, 3)]
    written = {0: [*made(30, 0), *made(2, 1)], 7: made(3, 2)}
    expected = np.stack([written[part][place] for part, place in wanted])
    numbers, places = np.array(wanted).T
    found = parts.profiles(numbers, places, [profile_digest(row.tobytes()) for row in expected])
    assert found.tobytes() == expected.tobytes()


def test_a_table_says_where_each_profile_is(parts: ProfileParts) -> None:
    assert parts.present() == {0, 7}
    first, second = parts.found([0, 7])
    assert first.column("place").to_pylist() == [*range(30), None, 30, 31]
    assert second.column("place").to_pylist() == [None, 0, 1, 2]
    assert set(second.column("part").to_pylist()) == {7}
    assert "expression" not in first.column_names


def test_a_part_without_its_table_is_not_there(parts: ProfileParts) -> None:
    parts.folder.write_bytes("000009.profiles", b"killed before the table was written")
    assert parts.present() == {0, 7}


@pytest.mark.parametrize("damage", ["other bytes", "cut off", "missing"])
def test_a_damaged_part_is_refused_and_read_again_by_the_next_start(parts: ProfileParts, damage: str) -> None:
    content = parts.folder.read_bytes("000007.profiles")
    if damage == "missing":
        parts.folder.remove("000007.profiles")
    else:
        parts.folder.write_bytes("000007.profiles", content[:-5] if damage == "cut off" else content[:-1] + b"\x7f")
    digests = [profile_digest(row.tobytes()) for row in made(3, 2)]
    with pytest.raises(UserError, match=r"000007.profiles is damaged or missing: the same command reads"):
        parts.profiles(np.full(3, 7), np.arange(3), digests)
    assert parts.present() == {0}


def test_a_part_of_refused_samples_alone_has_no_profiles(parts: ProfileParts) -> None:
    parts.write(8, part_of([None, None]))
    (found,) = parts.found([8])
    assert found.column("place").to_pylist() == [None, None]
