"""What a store's errors mean, and what a disk is left with when a write fails."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import s3fs
from aiohttp import ServerDisconnectedError
from botocore.exceptions import (
    ClientError,
    CredentialRetrievalError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)
from s3fs.errors import translate_boto_error

from dataprep.runtime import local_files, storage
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder


def answer(code: str, status: int) -> ClientError:
    metadata = {"HTTPStatusCode": status}
    return ClientError({"Error": {"Code": code, "Message": f"says {code}"}, "ResponseMetadata": metadata}, "GetObject")  # type: ignore[arg-type, typeddict-item]


def without_cause(error: ClientError) -> Exception:
    """As s3fs translates the answers to HEAD requests."""
    try:
        try:
            raise error
        except ClientError as raised:
            raise translate_boto_error(raised, set_cause=False)  # noqa: B904 - as s3fs does
    except OSError as translated:
        return translated


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts, on a clock that runs only while the code sleeps."""
    slept: list[float] = []
    monkeypatch.setattr(storage.time, "sleep", slept.append)
    monkeypatch.setattr(storage.time, "monotonic", lambda: sum(slept))
    return slept


def failing(*errors: Exception) -> Callable[[], str]:
    waiting = list(errors)

    def operation() -> str:
        if waiting:
            raise waiting.pop(0)
        return "done"

    return operation


UNAVAILABLE = [
    answer("SlowDown", 503),
    answer("InternalError", 500),
    answer("RequestTimeout", 400),
    answer("ThrottlingException", 400),
    answer("Throttling", 400),
    answer("TooManyRequests", 429),
    answer("429", 429),
    answer("503", 503),
    answer("OperationAborted", 409),
    answer("RequestTimeTooSkewed", 403),
    EndpointConnectionError(endpoint_url="http://store"),
    ReadTimeoutError(endpoint_url="http://store"),
    ServerDisconnectedError(),
    ConnectionResetError(),
    TimeoutError(),
]
EXPIRED = [
    answer("ExpiredToken", 400),
    answer("ExpiredTokenException", 403),
    answer("RequestExpired", 400),
    answer("TokenRefreshRequired", 400),
    answer("400", 400),
    CredentialRetrievalError(provider="role", error_msg="none"),
    RuntimeError("Credentials were refreshed, but the refreshed credentials are still expired."),
]


def wrapped(error: Exception) -> list[Exception]:
    return [error, translate_boto_error(error), without_cause(error)] if isinstance(error, ClientError) else [error]


@pytest.mark.parametrize("error", [form for error in UNAVAILABLE for form in wrapped(error)], ids=repr)
def test_a_store_that_is_unavailable_is_waited_for(error: Exception, pauses: list[float]) -> None:
    folder = Folder("s3://bucket/run", patience_seconds=60)
    assert folder.attempt(failing(error, error, error)) == "done"
    assert pauses == [0.25, 0.5, 1.0]
    with pytest.raises(UserError, match="s3://bucket/run: the object store does not answer") as gave_up:
        folder.attempt(failing(*[error] * 1000))
    assert "\n" not in str(gave_up.value)
    assert 50 < sum(pauses) - 1.75 <= 60


@pytest.mark.parametrize("error", [form for error in EXPIRED for form in wrapped(error)], ids=repr)
def test_expired_credentials_are_read_again(error: Exception, pauses: list[float]) -> None:
    folder = Folder("s3://bucket/run", patience_seconds=60)
    before = folder.filesystem
    used: list[Any] = []

    def operation() -> str:
        used.append(folder.filesystem)
        if folder.filesystem is before:
            raise error
        return "done"

    assert folder.attempt(operation) == "done"
    assert len(used) == 2
    with pytest.raises(UserError, match=r"the credentials have expired .*; renew them in ~/\.aws") as gave_up:
        folder.attempt(failing(*[error] * 1000))
    assert "\n" not in str(gave_up.value)


def test_credentials_that_are_being_renewed_are_waited_for(pauses: list[float]) -> None:
    folder = Folder("s3://bucket/run", patience_seconds=60)
    renewing = (answer("ExpiredToken", 400), NoCredentialsError(), answer("InvalidAccessKeyId", 403))
    assert folder.attempt(failing(*renewing)) == "done"


def test_credentials_of_a_connection_are_read_again_once_before_access_is_denied(pauses: list[float]) -> None:
    folder = Folder("s3://bucket/run", patience_seconds=60)
    denied = translate_boto_error(answer("InvalidAccessKeyId", 403))
    assert folder.attempt(failing(denied)) == "done"
    with pytest.raises(UserError, match="access denied"):
        folder.attempt(failing(denied, denied))
    assert len(pauses) == 2


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (answer("NoSuchBucket", 404), "the bucket does not exist"),
        (NoCredentialsError(), "no credentials; set AWS_ACCESS_KEY_ID"),
        (answer("NotImplemented", 501), "says NotImplemented"),
        (answer("InvalidArgument", 400), "says InvalidArgument"),
    ],
    ids=repr,
)
def test_what_does_not_change_by_waiting_is_said_at_once(error: Exception, message: str, pauses: list[float]) -> None:
    for form in wrapped(error):
        with pytest.raises(UserError, match=message):
            Folder("s3://bucket/run", patience_seconds=60).attempt(failing(form))
    assert pauses == []


def test_absence_is_no_error_of_the_store_even_where_a_name_has_bucket_in_it(pauses: list[float]) -> None:
    folder = Folder("s3://my-bucket/run", patience_seconds=60)
    with pytest.raises(FileNotFoundError):
        folder.attempt(failing(FileNotFoundError("my-bucket/run/x does not exist")))


def full_disk(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "write",
    [
        lambda folder, source: folder.write_bytes("x", b"new"),
        lambda folder, source: folder.upload(source, "x"),
        lambda folder, source: folder.replace_if("x", b"new", folder.read_version("x")[1]),
        lambda folder, source: folder.create("y", b"new"),
    ],
    ids=["write", "upload", "replace", "create"],
)
def test_a_full_disk_is_one_line_and_leaves_what_was_there(
    write: Callable[[Folder, Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, source = Folder(str(tmp_path / "run")), tmp_path / "source"
    source.write_bytes(b"new")
    folder.write_bytes("x", b"old")
    monkeypatch.setattr(local_files.os, "fsync", full_disk)
    with pytest.raises(UserError, match=r"run: No space left on device$"):
        write(folder, source)
    assert folder.files() == ["x"]
    assert folder.read_bytes("x") == b"old"


def test_what_is_written_is_on_the_disk_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    original = os.fsync

    def recording(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        original(descriptor)

    monkeypatch.setattr(local_files.os, "fsync", recording)
    (tmp_path / "source").write_bytes(b"x")
    Folder(str(tmp_path / "a")).upload(tmp_path / "source", "x")
    assert synced[0].startswith(str(tmp_path / "a" / ".x."))
    assert synced[1:] == [str(tmp_path / "a")]


def test_writers_of_one_name_do_not_share_a_temporary_file(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    contents = [bytes([number]) * 200_000 for number in range(8)]
    failures: list[BaseException] = []

    def write(content: bytes) -> None:
        try:
            for _ in range(10):
                folder.write_bytes("x", content)
                assert folder.read_bytes("x") in contents
        except BaseException as error:  # noqa: BLE001 - asserted below, in the main thread
            failures.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert folder.files() == ["x"]


def test_a_file_in_the_place_of_a_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for write in (Folder(f"{tmp_path}/file").write_text, Folder(f"{tmp_path}/file/below").write_text):
        with pytest.raises(UserError, match=f"^{tmp_path}/file"):
            write("x", "new")


def test_a_name_that_is_too_long_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="File name too long"):
        Folder(f"{tmp_path}/{'x' * 300}").write_text("x", "new")
    Folder(str(tmp_path)).write_text("x" * 255, "new")


def test_removing_a_link_leaves_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").write_text("kept")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "link").symlink_to(tmp_path / "mine")
    Folder(str(tmp_path / "run")).remove("link")
    assert (tmp_path / "mine" / "x").read_text() == "kept"
    assert Folder(str(tmp_path / "run")).children() == []


def test_a_download_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Folder(str(tmp_path / "run")).download("x", tmp_path / "here")
    assert list(tmp_path.iterdir()) == []


def test_s3fs_still_keeps_connections_by_their_arguments() -> None:
    """Otherwise forgetting them would not be needed."""
    first = Folder("s3://bucket/x").filesystem
    assert Folder("s3://bucket/y").filesystem is first
    s3fs.S3FileSystem.clear_instance_cache()
    assert Folder("s3://bucket/x").filesystem is not first


# ---- whether a file could be written ---------------------------------------------------------------------------------


def test_trying_to_write_makes_the_folder_and_leaves_no_file(tmp_path: Path) -> None:
    Folder(str(tmp_path / "a" / "b")).require_writable("scores.json")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_place_where_nothing_can_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    for folder, name, complaint in (
        (tmp_path / "file", "x.json", "a part of the path is a file|File exists"),
        (tmp_path / "file" / "deeper", "x.json", "a part of the path is a file"),
        (tmp_path, "folder", "folder is a folder, not a file to write"),
        (Path("/proc/nowhere"), "x.json", "/proc/nowhere cannot be made"),
    ):
        with pytest.raises(UserError, match=complaint):
            Folder(str(folder)).require_writable(name)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="changes to another user")
@pytest.mark.parametrize("deeper", [(), ("new",)])
def test_a_folder_of_somebody_else_is_one_line(tmp_path: Path, deeper: tuple[str, ...]) -> None:
    tmp_path.chmod(0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(UserError, match="access denied"):
            Folder(str(tmp_path.joinpath(*deeper))).require_writable("x.json")
    finally:
        os.seteuid(0)


def test_the_revision_of_a_folder_changes_with_any_file_below_it(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.write_text("x.zarr/X/0", "a")
    folder.write_text("x.zarr/.zgroup", "{}")
    before = folder.revision("x.zarr")
    assert folder.revision("x.zarr") == before
    folder.write_text("x.zarr/X/0", "other")
    changed = folder.revision("x.zarr")
    folder.write_text("x.zarr/X/1", "b")
    assert len({before, changed, folder.revision("x.zarr")}) == 3


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").mkdir()
    with pytest.raises(UserError, match=r"x\.tsv is a folder, not a file"):
        Folder(str(tmp_path)).read_bytes("x.tsv")
