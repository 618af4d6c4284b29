"""Whether all nodes run this code with the same versions of what it depends on."""

from __future__ import annotations

import platform
import re
import tomllib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from cluster.check.contract import Check, Judgement, failed, ok
from cluster.config import CheckSettings
from dataprep.runtime.code_identity import code_fingerprint

_PROJECT = "bulkformer-ray"
_PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
_NAME = re.compile(r"[\w.-]+")
_SHOWN_CHARACTERS = 12
_SHOWN_DIFFERENCES = 3


def fingerprint(settings: CheckSettings) -> str:
    """What training compares between its workers: SHA-256 over the Python files that it imports."""
    return code_fingerprint()


def judge_fingerprints(
    found: Mapping[str, str], driver: str | None, settings: CheckSettings
) -> Mapping[str, Judgement]:
    assert driver is not None
    advice = "submit it as a job, which sends this code along, or bring the same commit to these nodes"
    return {
        place: ok(theirs[:_SHOWN_CHARACTERS])
        if theirs == driver
        else failed(f"{theirs[:_SHOWN_CHARACTERS]}, not {driver[:_SHOWN_CHARACTERS]}", advice)
        for place, theirs in found.items()
    }


def installed_versions(settings: CheckSettings) -> dict[str, str]:
    """Version of Python and of each direct dependency; "missing" where there is none.

    Builds of one version (``2.13.0+cpu``, ``2.13.0+cu130``) are the same here: the head of a GPU cluster may have none.
    """
    return {"python": platform.python_version(), **{name: _version(name) for name in _dependencies()}}


def judge_versions(
    found: Mapping[str, dict[str, str]], driver: dict[str, str] | None, settings: CheckSettings
) -> Mapping[str, Judgement]:
    assert driver is not None
    return {place: _compared(theirs, driver) for place, theirs in found.items()}


def _compared(theirs: dict[str, str], driver: dict[str, str]) -> Judgement:
    others = [
        f"{name} {theirs.get(name, 'missing')}, not {expected}"
        for name, expected in driver.items()
        if theirs.get(name, "missing") != expected
    ]
    if not others:
        return ok(f"{len(driver)} packages as the driver's")
    more = f" and {len(others) - _SHOWN_DIFFERENCES} more" if len(others) > _SHOWN_DIFFERENCES else ""
    advice = "use one image, or install with `--constraint constraints.txt` everywhere, then restart Ray there"
    return failed(", ".join(others[:_SHOWN_DIFFERENCES]) + more, advice)


def _dependencies() -> list[str]:
    """Names of the packages that the project asks for: as installed, else as the file beside the code has them."""
    try:
        lines = [line for line in requires(_PROJECT) or () if "extra ==" not in line]
    except PackageNotFoundError:
        lines = tomllib.loads(_PYPROJECT.read_text())["project"]["dependencies"]
    return [match[0] for line in lines if (match := _NAME.match(line))]


def _version(name: str) -> str:
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return "missing"


CODE = Check("code", fingerprint, judge_fingerprints, "bring the same commit to these nodes", compares_with_driver=True)
VERSIONS = Check(
    "versions", installed_versions, judge_versions, "install the project on these nodes", compares_with_driver=True
)
