"""How the embedded Ray head is started."""

import multiprocessing.connection
import tempfile
from pathlib import Path

import pytest

from cluster.config import UpSettings
from cluster.local.ray_head import RayHead, ray_folder
from cluster.local.service import Place
from cluster.local.state import StateFolder


@pytest.fixture
def place(tmp_path: Path) -> Place:
    folder = StateFolder.at(tmp_path / "state")
    folder.make()
    ports = {name: number for number, name in enumerate(("s3", "mlflow", *RayHead.ports), start=20000)}
    return Place(folder, ports, folder.credentials(), UpSettings(state=folder.path))


@pytest.mark.parametrize(("characters", "is_kept"), [(60, True), (70, True), (71, False), (200, False)])
def test_temporary_files_are_where_sockets_can_be_made(place, characters: int, is_kept: bool, monkeypatch):
    folder = "/" + "x" * (characters - 1)
    monkeypatch.setenv("TMPDIR", folder)

    environment = RayHead().environment(place)

    assert environment.get("TMPDIR") == (folder if is_kept else None)


def test_the_longest_folder_that_is_kept_is_short_enough_for_sockets():
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        folder = Path(short) / ("x" * (70 - len(short) - 1)) / "pymp-12345678"
        folder.mkdir(parents=True)
        assert len(str(folder.parent)) == 70

        with multiprocessing.connection.Listener(str(folder / "listener-12345678")):
            pass


@pytest.mark.parametrize("name", ["a b", "it's", "a#b", "a,b", "x" * 60])
def test_ray_gets_a_folder_of_its_own_where_the_path_of_the_state_is_long_or_not_plain(name: str):
    inside = ray_folder(StateFolder(Path("/srv") / name))

    assert inside.parent.parent == Path("/tmp")
    assert inside.parent.name.startswith("bulkformer-")
    assert ray_folder(StateFolder(Path("/srv/plain"))) == Path("/srv/plain/ray")
