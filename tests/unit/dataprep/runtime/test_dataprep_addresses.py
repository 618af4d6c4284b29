"""Names that differ are folders that differ, on disks and in object stores, whatever characters they hold."""

import os
import tempfile
from pathlib import Path

import pytest
import s3fs
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dataprep.runtime.addresses import is_absolute, plain_address, plain_name, split_file_address
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder

# what URLs, globs, shells and s3fs give a meaning to, beside letters of several alphabets
NAMES = st.text(st.sampled_from("ab1#?%20~*[]{}:;&=+@!$'\"\\ .-_äβ"), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..")
)


@hypothesis_settings(max_examples=200)
@given(first=NAMES, second=NAMES)
@pytest.mark.parametrize("root", ["/data/", "s3://bucket/"])
def test_names_that_differ_are_folders_that_differ(root: str, first: str, second: str) -> None:
    folders = Folder(root + first), Folder(root + second)
    assert (folders[0].uri == folders[1].uri) == (first == second)
    for folder, name in zip(folders, (first, second), strict=True):
        assert folder == Folder(root) / name
        assert Folder(folder.uri) == folder
        assert split_file_address(root + name) == (root.rstrip("/"), name)


@hypothesis_settings(max_examples=100, deadline=None)
@given(names=st.sets(NAMES, min_size=1, max_size=4), file=NAMES)
def test_what_is_written_into_a_folder_is_in_that_folder_of_the_disk(names: set[str], file: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        for name in names:
            Folder(f"{root}/{name}").write_text(file, name)
        assert set(os.listdir(root)) == names  # noqa: PTH208 - not by the code under test
        for name in names:
            folder = Folder(root) / name
            assert folder.files() == folder.children() == [file]
            assert Path(root, name, file).read_text() == folder.read_text(file) == name
        first = min(names)
        Folder(root).remove(first)
        assert set(Folder(root).children()) == names - {first}


@hypothesis_settings(max_examples=200)
@given(name=NAMES, file=NAMES)
def test_s3fs_sees_the_key_that_the_name_says(name: str, file: str) -> None:
    folder = Folder(f"s3://bucket/runs/{name}")
    assert s3fs.S3FileSystem(anon=True).split_path(folder._file(file)) == ("bucket", f"runs/{name}/{file}", None)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("/data/GSE12#rep1", "/data/GSE12#rep1"),
        ("/data/what?now", "/data/what?now"),
        ("/data/a%20b", "/data/a%20b"),
        ("file:///data/a%20b", "/data/a b"),
        ("file://localhost/data/a%23b", "/data/a#b"),
        ("file:/data/x", "/data/x"),
        ("FILE:///data/x/", "/data/x"),
        ("//data///x/", "/data/x"),
        ("/data/x.", "/data/x."),
        ("/data/GSE12:rep1", "/data/GSE12:rep1"),
        ("/", "/"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("S3://bucket//a///b//", "s3://bucket/a/b"),
        ("s3://bucket/a#b?c%20d", "s3://bucket/a#b?c%20d"),
    ],
)
def test_an_address_has_one_form(address: str, expected: str) -> None:
    assert plain_address(address) == expected
    assert Folder(address).uri == expected


def test_a_path_may_be_given_as_its_url(tmp_path: Path) -> None:
    odd = tmp_path / "a b#c?d%20e"
    assert Folder(odd.as_uri()) == Folder(str(odd))
    assert split_file_address(f"{odd.as_uri()}/x%20y.csv") == (str(odd), "x y.csv")


def test_a_tilde_is_the_home_folder_and_relative_paths_start_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.chdir(tmp_path)
    assert Folder("~/runs").uri == "/home/somebody/runs"
    assert Folder("~").uri == "/home/somebody"
    assert split_file_address("~/x.csv") == ("/home/somebody", "x.csv")
    assert Folder("./~").uri == f"{tmp_path}/~"
    assert Folder("runs").uri == f"{tmp_path}/runs"
    assert split_file_address("x.csv") == (str(tmp_path), "x.csv")
    with pytest.raises(UserError, match="there is no such user"):
        Folder("~nobody-of-that-name/x")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("", "an address is empty"),
        ("gs://bucket/x", "only a folder or s3://bucket/prefix is understood"),
        ("s3:bucket/x", "only a folder or s3://bucket/prefix is understood"),
        ("s3:/bucket/x", "only a folder or s3://bucket/prefix is understood"),
        ("s3://", "an object-store address is s3://bucket/prefix"),
        ("s3://key:secret@bucket/x", "without credentials"),
        ("s3://bucket/a/../b", "an object store has no folders"),
        ("s3://bucket/a?versionId=3", "versions of objects cannot be addressed"),
        ("file://server/x", "is on another machine"),
        ("file:x", "is not absolute"),
        ("/data/\0", "is not the address of a folder"),
        ("file:///data/%00", "is not the address of a folder"),
    ],
)
def test_what_is_no_address_is_refused(address: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        Folder(address)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("address", ["s3://bucket", "/", "x/", "..", "a/.."])
def test_what_is_no_file_is_refused(address: str) -> None:
    with pytest.raises(UserError, match="is not the address of a file"):
        split_file_address(address)


@pytest.mark.parametrize("name", ["", ".", "..", "a/../b", "/a", "a\0", "x?versionId=3"])
def test_a_name_stays_below_its_folder(name: str) -> None:
    with pytest.raises(UserError, match="is not a name below the folder"):
        plain_name(name)


def test_absolute_addresses_start_from_nowhere_else() -> None:
    assert all(is_absolute(address) for address in ("/x", "~/x", "file:///x", "s3://b/x"))
    assert not any(is_absolute(address) for address in ("x", "./x", "../x", "a:b"))
