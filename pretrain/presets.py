"""Recipes that come with the package: settings of ``pretrain run`` under a name, one YAML file each in ``configs``."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from typing import Any

import yaml


def preset_names() -> list[str]:
    files = importlib.resources.files("pretrain") / "configs"
    return sorted(entry.name.removesuffix(".yaml") for entry in files.iterdir() if entry.name.endswith(".yaml"))


def with_preset(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """``given``, completed with the settings of a preset. Raises ValueError for an unknown one."""
    if name not in preset_names():
        raise ValueError(f"unknown preset {name!r}; presets: {', '.join(preset_names())}")
    content = importlib.resources.files("pretrain") / "configs" / f"{name}.yaml"
    return _completed(given, yaml.safe_load(content.read_text()))


def _completed(given: Mapping[str, Any], preset: Mapping[str, Any]) -> dict[str, Any]:
    completed = {**preset, **given}
    for key in given.keys() & preset.keys():
        if isinstance(given[key], Mapping) and isinstance(preset[key], Mapping):
            completed[key] = _completed(given[key], preset[key])
    return completed
