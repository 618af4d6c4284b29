"""Modules of other people are imported before the settings that may name what they add."""

import sys
from pathlib import Path

import pytest

from dataprep.runtime.command_line import UserError, read_settings
from dataprep.runtime.plugins import ExtensibleSettings, load_plugins


class Settings(ExtensibleSettings):
    """Settings of a command that takes plugins."""

    size: int = 1


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module on the path, not imported yet."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "added_by_a_test", raising=False)
    path = tmp_path / "added_by_a_test.py"
    path.write_text("LOADED = True\n")
    return path


@pytest.mark.parametrize("given", ["option", "environment", "yaml"])
def test_a_plugin_is_named_in_any_place_for_settings(
    given: str, module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {"option": ["--plugins", module.stem], "yaml": ["--config", str(tmp_path / "x.yaml")]}
    (tmp_path / "x.yaml").write_text(f"plugins: {module.stem}\n")
    if given == "environment":
        monkeypatch.setenv("BULKFORMER_PLUGINS", module.stem)
    settings = read_settings(Settings, arguments.get(given, []))
    assert sys.modules[module.stem].LOADED
    assert settings.resolved() == {"size": 1}


def test_an_installed_package_brings_its_plugins(module: Path, tmp_path: Path) -> None:
    information = tmp_path / "somebody-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: somebody\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[bulkformer.plugins]\nmine = {module.stem}\n")
    read_settings(Settings, [])
    assert sys.modules[module.stem].LOADED


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import no_such_package", "plugin 'added_by_a_test' needs 'no_such_package', which is not installed"),
        ("1 / 0", "plugin 'added_by_a_test' cannot be imported: ZeroDivisionError: division by zero"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_named_with_the_reason(module: Path, content: str, message: str) -> None:
    module.write_text(content)
    with pytest.raises(UserError, match=message):
        load_plugins(module.stem)


def test_a_plugin_that_is_not_there_is_a_bad_argument() -> None:
    with pytest.raises(UserError, match="plugins: no module 'nowhere'; a plugin is installed") as raised:
        read_settings(Settings, ["--plugins", "nowhere"])
    assert raised.value.exit_code == 2
