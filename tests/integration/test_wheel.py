"""The built wheel, installed in a clean environment and used outside the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("cluster", "dataprep", "evaluation", "pretrain")
DATA_SUFFIXES = (".yaml", ".csv.gz", ".css", ".j2")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # from a copy: a build folder left in the checkout would find its way into the wheel
    source = tmp_path_factory.mktemp("source")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    output = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(output), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (built,) = output.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a clean environment with the wheel; the dependencies are lent by this one."""
    home = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    executable = home / "bin" / "python"
    install = ["install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(executable), *install], check=True)
    (site_packages,) = home.glob("lib/python*/site-packages")
    # after its own packages, and without the editable install of the checkout, whose .pth is not read from here
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return executable


def outside(python: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([python, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def test_the_wheel_holds_the_four_packages_with_their_data_and_nothing_else(wheel: Path):
    expected = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        # launch files are filled in by hand, in the checkout that is submitted
        if path.name.endswith((".py", *DATA_SUFFIXES)) and "cloud" not in path.parts
    }
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}

    assert names == expected
    assert "dataprep/genes/gene_vocabulary.csv.gz" in names
    assert {"pretrain/configs/sizes/147M.yaml", "pretrain/configs/latest.yaml"} <= names


def test_the_wheel_carries_licence_and_notice(wheel: Path):
    names = {Path(name).name for name in zipfile.ZipFile(wheel).namelist()}
    assert {"LICENSE", "NOTICE"} <= names


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_is_imported_from_the_wheel_and_has_help(python: Path, tmp_path: Path, package: str):
    imported = outside(python, tmp_path, "-c", f"import {package}; print({package}.__file__)")
    assert Path(imported.stdout.strip()).is_relative_to(python.parents[1]), imported.stderr

    helped = outside(python, tmp_path, "-m", package, "--help")
    assert helped.returncode == 0, helped.stderr
    assert f"usage: python -m {package} COMMAND" in helped.stdout


def test_package_data_is_found_in_the_wheel(python: Path, tmp_path: Path):
    code = (
        "from dataprep.genes.vocabulary import default_vocabulary; from pretrain.config import read_size;"
        "print(default_vocabulary().size, read_size('tiny').dim)"
    )
    found = outside(python, tmp_path, "-c", code)
    assert found.stdout.split() == ["20024", "32"], found.stderr


def test_every_package_folder_is_listed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {
        str(path.parent.relative_to(ROOT)).replace(os.sep, ".")
        for package in PACKAGES
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert set(listed) == folders
