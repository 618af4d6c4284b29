"""Modules of other people that add sources, tasks or model sizes.

A plugin is an importable module that calls a ``register_...`` function when it is imported (docs/extending.md). It is
found in one of two ways:

- by name, in the setting ``plugins`` of a command (``--plugins my_module``, ``plugins: my_module`` in the YAML, or the
  environment variable ``BULKFORMER_PLUGINS``), several names with commas between them;
- as an entry point of an installed package, in the group ``bulkformer.plugins``.

Plugins are imported while the settings are read, before any setting that may name what they add. Ray workers get what
a plugin defines by pickling: a class or function is pickled as the name of its module, which the worker imports in
turn. A worker that looks a name up in a registry itself calls :func:`load_plugins` first.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import SettingsConfigDict

from dataprep.runtime.command_line import CommandSettings, UserError, read_settings

ENTRY_POINT_GROUP = "bulkformer.plugins"


def load_plugins(names: str = "") -> str:
    """Import the installed plugins and the modules in ``names``, separated by commas; return ``names``.

    Raises :class:`UserError` for a module that cannot be imported. To load a plugin twice does nothing.
    """
    for point in entry_points(group=ENTRY_POINT_GROUP):
        _import(point.value.partition(":")[0], f" (entry point {point.name!r} of an installed package)")
    for name in filter(None, (part.strip() for part in names.split(","))):
        _import(name, "")
    return names


class ExtensibleSettings(CommandSettings):
    """Settings of a command to which plugins can add.

    Fields are validated in the order of their definition, those of a base class first: so the plugins are loaded
    before the fields of a subclass are looked at.
    """

    plugins: Annotated[str, AfterValidator(load_plugins)] = Field(
        default="", validate_default=True, description="modules that add sources, tasks or model sizes, with commas"
    )


class _PluginsOnly(ExtensibleSettings):
    """The setting ``plugins`` among others that are not known yet."""

    model_config = SettingsConfigDict(extra="ignore", cli_ignore_unknown_args=True)


def load_named_plugins(arguments: Sequence[str]) -> None:
    """Import the plugins that the settings of a command name, for commands whose settings depend on them."""
    read_settings(_PluginsOnly, [argument for argument in arguments if argument not in ("-h", "--help")])


def _import(name: str, found: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise UserError(
                f"no module {name!r}{found}; a plugin is installed, on PYTHONPATH or in the working directory"
            ) from None
        raise UserError(f"plugin {name!r}{found} needs {error.name!r}, which is not installed") from None
    except Exception as error:
        # whatever a stranger's module raises, the user wants to know which one it was
        raise UserError(f"plugin {name!r}{found} cannot be imported: {type(error).__name__}: {error}") from error
