"""What stays of a write when its process is killed, and who removes it."""

import subprocess
import sys
from pathlib import Path

import pytest

from dataprep.runtime.local_files import write_whole
from dataprep.runtime.storage import Folder

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells for certain who is gone")

WRITING = """
import sys, time
from pathlib import Path
from dataprep.runtime.local_files import write_whole
def fill(stream):
    stream.write(b"half")
    stream.flush()
    print("writes", flush=True)
    time.sleep(600)
write_whole(Path(sys.argv[1]), fill)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("write", ["write", "create", "replace_if"])
@pytest.mark.parametrize("name", ["lease.json", "a" * 60 + "[*].txt"])
def test_the_next_write_of_a_file_removes_what_a_killed_one_left(tmp_path, name, write):
    folder = Folder(str(tmp_path))
    other = subprocess.Popen([sys.executable, "-c", WRITING, str(tmp_path / name)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "writes\n"
        folder.write_text(name, "old")
        assert len(names(tmp_path)) == 2, "the other process is at work still"
        other.kill()
        other.wait()
        if write == "write":
            folder.write_text(name, "new")
        elif write == "create":
            folder.remove(name)
            assert folder.create(name, b"new")
        else:
            assert folder.replace_if(name, b"new", folder.read_version(name)[1])
        assert names(tmp_path) == [name]
        assert folder.read_text(name) == "new"
    finally:
        other.kill()
        other.wait()


def test_a_write_leaves_that_of_a_process_that_lives_alone(tmp_path):
    target = tmp_path / "state.json"
    write_whole(target, lambda outer: (outer.write(b"outer"), write_whole(target, lambda inner: inner.write(b"inner"))))
    assert target.read_bytes() == b"outer", "the one that ended last"
    assert names(tmp_path) == ["state.json"]


def test_files_that_look_alike_are_nobodys_leftovers(tmp_path):
    others = [".state.json.partial", ".state.json.host-1-ab.partial", ".state.json.0123456789ab-1-1-ab.partial"]
    for name in others:
        (tmp_path / name).write_text("mine")
    Folder(str(tmp_path)).write_text("state.json", "new")
    assert names(tmp_path) == sorted([*others, "state.json"])


def test_a_stream_that_is_not_filled_to_its_end_leaves_the_old_content(tmp_path):
    folder = Folder(str(tmp_path))

    def fill(stream):
        stream.write(b"half")
        raise KeyboardInterrupt

    folder.write_stream("shard.parquet", lambda stream: stream.write(b"whole"))
    with pytest.raises(KeyboardInterrupt):
        folder.write_stream("shard.parquet", fill)
    assert folder.read_bytes("shard.parquet") == b"whole"
    assert names(tmp_path) == ["shard.parquet"]
