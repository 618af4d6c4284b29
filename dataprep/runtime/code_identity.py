"""A fingerprint of this project's code, so that every node can be checked to run the same."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

_PACKAGES = ("dataprep", "pretrain")


@cache
def code_fingerprint(packages: tuple[str, ...] = _PACKAGES) -> str:
    """SHA-256 over the Python files of packages, by default all that training imports, as this process found them."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
