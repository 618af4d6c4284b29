"""Directives that list settings as the code has them: ``{commands} pretrain`` and ``{source-forms}``.

A row is a setting: its name as it is given on the command line, what it may be, its default, and its description.
"""

from __future__ import annotations

import importlib
import types
from collections.abc import Iterator
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from docutils import nodes
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import dataprep.sources as sources
from dataprep.runtime.command_line import Command, CommandSettings

_OF_EVERY_COMMAND = tuple(CommandSettings.model_fields)
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


class CommandsDirective(SphinxDirective):
    """All commands of a package, each with its settings."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        package = self.arguments[0]
        lines = []
        for name, command in commands_of(package).items():
            lines += [f"## {package} {name}", "", f"{_sentence(command.summary)}", ""]
            lines += _tables(_settings_of(command), "", skipped=_OF_EVERY_COMMAND)
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


class SourceFormsDirective(SphinxDirective):
    """The settings that all sources have, then those of each form."""

    def run(self) -> list[nodes.Node]:
        shared = tuple(sources.Source.model_fields)
        lines = ["### Every source", "", *_rows(sources.Source, "", ())]
        public = [getattr(sources, name) for name in sources.__all__]
        forms = [form for form in public if isinstance(form, type) and "format" in getattr(form, "model_fields", ())]
        forms.remove(sources.Source)
        for form in sorted(forms, key=lambda form: form.model_fields["format"].default):
            lines += [f"### `format: {form.model_fields['format'].default}`", "", _first_sentence(form), ""]
            lines += _rows(form, "", shared)
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def commands_of(package: str) -> dict[str, Command]:
    """The commands of a package by name."""
    main = importlib.import_module(f"{package}.__main__")
    return main.commands([]) if package == "cluster" else main.COMMANDS


def _settings_of(command: Command) -> type[CommandSettings]:
    return command.extended([]) if command.extended else command.settings


def _tables(model: type[BaseModel], prefix: str, skipped: tuple[str, ...]) -> list[str]:
    """A table of the model's own settings, then one for each group among them."""
    lines = _rows(model, prefix, skipped)
    for name, group in _groups(model, skipped):
        lines += [f"### `--{_kebab(prefix + name)}.…`", "", _first_sentence(group), ""]
        lines += _tables(group, f"{prefix}{name}.", ())
    return lines


def _groups(model: type[BaseModel], skipped: tuple[str, ...]) -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in model.model_fields.items():
        if name not in skipped and (group := _group(field.annotation)):
            yield name, group


def _group(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType):
        return next(filter(None, map(_group, get_args(annotation))), None)
    return None


def _rows(model: type[BaseModel], prefix: str, skipped: tuple[str, ...]) -> list[str]:
    dashes = "--" if prefix or issubclass(model, CommandSettings) else ""
    rows = []
    for name, field in model.model_fields.items():
        if name in skipped or _group(field.annotation):
            continue
        shown = _kebab(f"{prefix}{field.alias or name}") if dashes else name
        cells = (f"`{dashes}{shown}`", _kind(field), _default(field), field.description or "")
        rows.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return ["| setting | what | default | |", "|---|---|---|---|", *rows, ""] if rows else []


def _kind(field: FieldInfo) -> str:
    given = [(sign, getattr(part, key, None)) for part in field.metadata for key, sign in _BOUNDS.items()]
    bounds = [f"{sign} {value}" for sign, value in given if value is not None]
    return ", ".join([_type(field.annotation), *bounds])


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(part) for part in arguments if part is not type(None)))
    if origin in (list, tuple, set, frozenset):
        return f"list of {_type(arguments[0])}"
    if origin is dict or (isinstance(origin, type) and issubclass(origin, dict)):
        return f"{_type(arguments[0])} to {_type(arguments[1])}"
    names = {str: "text", float: "number", int: "whole number", bool: "switch"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)).lower())


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "*required*"
    value = field.default
    if field.default_factory is not None:
        # one without a machine in it: what a factory makes may differ from machine to machine
        value = field.get_default(call_default_factory=True, validated_data={})
        if not isinstance(value, list | tuple | dict):
            return "of the machine"
    if value is None or value is PydanticUndefined or value == "" or value == []:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"`{','.join(str(part) for part in value)}`"
    return f"`{value.value if isinstance(value, Enum) else value}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*.", "\\*.")


def _kebab(name: str) -> str:
    return name.replace("_", "-")


def _first_sentence(model: type) -> str:
    return _sentence(((model.__doc__ or "").strip().split("\n\n") or [""])[0])


def _sentence(text: str) -> str:
    text = " ".join(text.split()).replace("``", "`")
    return f"{text[:1].upper()}{text[1:]}".removesuffix(".") + "." if text else ""


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("commands", CommandsDirective)
    app.add_directive("source-forms", SourceFormsDirective)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
