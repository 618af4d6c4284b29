"""How every command of this project reads its settings, reports errors and exits.

A command is a frozen settings model (a subclass of :class:`CommandSettings`) and a function that takes it. Settings
come, strongest first, from the command line (``--zero.stage 2``), from the environment
(``BULKFORMER_ZERO__STAGE=2``), from the YAML file given with ``--config``, and from the defaults.

Exit codes: 0 done, 1 failed (the data or the machines), 2 bad arguments.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)

# Else these libraries tell their makers what they are used for; whoever wants that says so in the environment.
_WITHOUT_TELEMETRY = {"MLFLOW_DISABLE_TELEMETRY": "true", "HF_HUB_DISABLE_TELEMETRY": "1"}
# Makes Ray take 127.0.0.1 as the address of this machine and listen there only; else one that a command starts
# for itself listens on every interface. Ray reads it when it is imported, which commands do later.
_RAY_OF_ITS_OWN = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


class UserError(ValueError):
    """A mistake that the user can fix: shown as one line, without a traceback.

    ``exit_code`` is 1 where the data or the machines are at fault, 2 where the arguments are.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code

    def __reduce__(self) -> tuple[type[UserError], tuple[str, int]]:
        # Ray carries errors between processes by pickling them; the default would lose the exit code
        return type(self), (str(self), self.exit_code)


def one_line(error: BaseException) -> str:
    """The message of an error without its line breaks, or the error's name where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


class Settings(BaseModel):
    """A group of settings inside a command's settings: frozen, unknown keys refused by name."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class CommandSettings(BaseSettings):
    """Settings of one command. Every command has these three options beside its own."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        env_prefix="BULKFORMER_",
        # also before an alias: JSON=1 in somebody's environment is not meant for us
        env_prefix_target="all",
        env_nested_delimiter="__",
        cli_kebab_case=True,
        cli_implicit_flags="dual",
        cli_hide_none_type=True,
        cli_avoid_json=True,
        protected_namespaces=(),
        validate_by_name=True,
    )

    config: Path | None = Field(None, description="YAML file with settings of this command")
    print_config: bool = Field(False, description="print the resolved settings as YAML and exit")
    json_line: bool = Field(False, alias="json", description="end with one line of JSON on standard output")

    def resolved(self) -> dict[str, Any]:
        """The settings as plain data: what ``--print-config`` shows and what every run stores."""
        return self.model_dump(mode="json", exclude={"config", "print_config", "json_line", "plugins"})


def given_of(settings: BaseModel, names: Sequence[str]) -> list[str]:
    """Which of the settings ``names`` the user has given, with another value than their defaults."""
    fields = type(settings).model_fields
    return [
        name
        for name in names
        if name in settings.model_fields_set
        and getattr(settings, name) != fields[name].get_default(call_default_factory=True)
    ]


def refuse_without_effect(settings: BaseModel, names: Sequence[str], where: str) -> None:
    """Raise :class:`UserError` where the user has given a setting that would do nothing.

    A default does no harm, also where it is given: ``--print-config`` writes all of them.
    """
    given = given_of(settings, names)
    if isinstance(settings, CommandSettings):
        given = [f"--{name.replace('_', '-')}" for name in given]
    if given:
        raise UserError(f"{' and '.join(given)} would have no effect {where}", exit_code=2)


S = TypeVar("S", bound=CommandSettings)


@dataclass(frozen=True)
class Command:
    """One command of a package: its settings and the function that carries it out.

    The function returns what ``--json`` prints as the last line (plain data), or None for ``{}``. Where plugins add
    groups of settings, ``extended`` gives the settings with those of the plugins that the arguments name.
    """

    settings: type[CommandSettings]
    run: Callable[[Any], Mapping[str, Any] | Sequence[Any] | None]
    summary: str
    extended: Callable[[Sequence[str]], type[CommandSettings]] | None = None


def main(package: str, summary: str, commands: Mapping[str, Command], argv: Sequence[str] | None = None) -> int:
    """Run ``python -m PACKAGE COMMAND ...`` and return its exit code. The name of a command may be two words."""
    os.environ.update(_WITHOUT_TELEMETRY | os.environ)
    if os.environ.get("RAY_ADDRESS", "") in ("", "local"):
        os.environ.update(_RAY_OF_ITS_OWN | os.environ)
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        print(_overview(package, summary, commands), file=sys.stderr)
        return 2
    if arguments[0] in ("-h", "--help"):
        print(_overview(package, summary, commands))
        return 0
    name, *rest = arguments
    if rest and f"{name} {rest[0]}" in commands:
        name, rest = f"{name} {rest[0]}", rest[1:]
    if name not in commands:
        return _fail(f"unknown command {name!r}{nearest(name, commands)}; commands: {', '.join(commands)}", 2)
    command = commands[name]
    try:
        model = command.extended(rest) if command.extended else command.settings
        settings = read_settings(model, rest, prog=f"python -m {package} {name}", summary=command.summary)
        if settings.print_config:
            print(yaml.safe_dump(settings.resolved(), sort_keys=False), end="")
            return 0
        with _ending_in_order():
            result = command.run(settings)
        if settings.json_line:
            print(json.dumps(result if result is not None else {}), flush=True)
    except UserError as error:
        return _fail(str(error), error.exit_code)
    except _Terminated as error:
        return _fail(f"stopped by {error}", 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 1)
    except BrokenPipeError:
        # the reader of our output (head, less) has left: not an error, but nothing more can be written
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


class _Terminated(KeyboardInterrupt):
    """A signal that asks for the end, such as that of a batch system at the end of the time."""


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does, so that nothing half-written stays.

    What is ignored stays so (``nohup``), and so does what somebody else has chosen.
    """

    def end(number: int, _: object) -> None:
        raise _Terminated(signal.Signals(number).name)

    in_main_thread = threading.current_thread() is threading.main_thread()
    asked = (signal.SIGTERM, signal.SIGHUP) if in_main_thread else ()
    replaced = [number for number in asked if signal.getsignal(number) is signal.SIG_DFL]
    for number in replaced:
        signal.signal(number, end)
    try:
        yield
    except SystemExit as error:
        # Ray's own way to end, while a process is connected to it
        if error.code == signal.SIGTERM:
            raise _Terminated("SIGTERM") from None
        raise
    finally:
        for number in replaced:
            signal.signal(number, signal.SIG_DFL)


def read_settings(model: type[S], arguments: Sequence[str], prog: str = "", summary: str = "") -> S:
    """Settings from command-line arguments, environment, YAML and defaults.

    Raises :class:`UserError` (exit code 2) that names each bad key and, for an unknown one, the nearest valid one.
    """
    arguments = _switches([_kebab(argument) for argument in arguments], model)
    yaml_file = _config_path(arguments)

    class FromEverywhere(model):  # type: ignore[misc, valid-type]
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], **sources: PydanticBaseSettingsSource
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            chosen = [sources["init_settings"], sources["env_settings"]]
            if yaml_file is not None:
                chosen.append(_yaml_source(settings_cls, yaml_file))
            return tuple(chosen)

    FromEverywhere.__doc__ = summary
    cli: CliSettingsSource[Any] = CliSettingsSource(
        FromEverywhere, cli_prog_name=prog, cli_parse_args=False, cli_exit_on_error=False
    )
    try:
        parsed = FromEverywhere(_cli_settings_source=cli(args=arguments))
    except ValidationError as error:
        raise UserError(_describe(error, model), exit_code=2) from None
    except SettingsError as error:
        raise UserError(_unrecognised(str(error), model), exit_code=2) from None
    if parsed.config != yaml_file:
        raise UserError(f"config: {parsed.config} would not be read; name one file, with --config", exit_code=2)
    # back to the plain class, so that settings compare and pickle as what they are
    return cast(S, model.model_construct(_fields_set=parsed.model_fields_set, **parsed.__dict__))


def _config_path(arguments: Sequence[str]) -> Path | None:
    for position, argument in enumerate(arguments):
        if argument.startswith("--config="):
            return Path(argument.removeprefix("--config="))
        if argument == "--config" and position + 1 < len(arguments):
            return Path(arguments[position + 1])
    return None


def _yaml_source(settings: type[BaseSettings], path: Path) -> YamlConfigSettingsSource:
    try:
        if not path.is_file():
            raise UserError(f"no such file: --config {path}", exit_code=2)
        # a subclass of the safe loader
        content = yaml.load(path.read_text(), Loader=_YamlLoader)  # noqa: S506
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {one_line(error)}", exit_code=2) from None
    except OSError as error:
        raise UserError(f"--config {path}: {error.strerror}", exit_code=2) from None
    if content is not None and not isinstance(content, dict):
        raise UserError(f"{path} holds {type(content).__name__}, not settings (key: value)", exit_code=2)
    if content and "config" in content:
        raise UserError(f"{path}: config names another file, which would not be read", exit_code=2)
    if unnamed := [key for key in content or {} if not isinstance(key, str)]:
        raise UserError(f"{path}: {unnamed[0]!r} is not the name of a setting", exit_code=2)
    return YamlConfigSettingsSource(settings, yaml_file=path)


class _YamlLoader(yaml.SafeLoader):
    """Refuses a mapping with the same key twice, of which the first would be without effect."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in names:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} stands twice", key.start_mark)
            names.add(key.value if isinstance(key, yaml.ScalarNode) else "")
        return super().construct_mapping(node, deep)


def _kebab(argument: str) -> str:
    """Accept ``--micro_batch 4`` for ``--micro-batch 4``: YAML keys can be typed as they stand."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value


def _switches(arguments: Sequence[str], model: type[BaseModel]) -> list[str]:
    """Accept ``--model.compile true`` and ``--model.compile=false`` beside ``--model.compile``, as YAML has them."""
    accepted: list[str] = []
    waiting = list(arguments)
    while waiting:
        name, equals, value = waiting.pop(0).partition("=")
        if name.startswith("--") and _is_switch(name.removeprefix("--"), model):
            if not equals and waiting and waiting[0].lower() in ("true", "false"):
                value = waiting.pop(0)
            if value.lower() in ("", "true", "false"):
                accepted.append(f"--no-{name.removeprefix('--')}" if value.lower() == "false" else name)
                continue
        accepted.append(f"{name}{equals}{value}")
    return accepted


def _is_switch(name: str, model: type[BaseModel]) -> bool:
    *groups, leaf = name.replace("-", "_").split(".")
    fields: type[BaseModel] | None = model
    for group in groups:
        fields = _nested(fields, group) if fields is not None else None
    return fields is not None and leaf in fields.model_fields and fields.model_fields[leaf].annotation is bool


def _describe(error: ValidationError, model: type[BaseModel]) -> str:
    parts = []
    for issue in error.errors():
        name = ".".join(str(part) for part in issue["loc"])
        if issue["type"] == "extra_forbidden":
            parts.append(f"unknown setting {name}{_valid_names(name, model)}")
        elif issue["type"] == "missing":
            parts.append(f"setting {name} is missing: give --{name.replace('_', '-')}")
        else:
            message = issue["msg"].removeprefix("Value error, ")
            given = "" if issue["type"] == "value_error" else f" (given: {issue['input']!r})"
            parts.append(f"{name}: {message}{given}" if name else message)
    return "; ".join(parts)


def _unrecognised(message: str, model: type[BaseModel]) -> str:
    text = message.removeprefix("error parsing CLI: ")
    if unread := re.match(r'error parsing value for field "(\w+)"', text):
        group = _nested(model, unread[1])
        valid = f"; it is a group of settings: {', '.join(sorted(group.model_fields))}" if group else ""
        return f"{unread[1]}: its value cannot be read{valid}"
    unknown = [word for word in text.partition("unrecognized arguments:")[2].split() if word.startswith("--")]
    if not unknown:
        return text
    name = unknown[0].removeprefix("--").partition("=")[0].replace("-", "_")
    return f"unknown setting {name}{_valid_names(name, model)}"


def _valid_names(name: str, model: type[BaseModel]) -> str:
    """The nearest valid name, and all names of the group that ``name`` stands in."""
    group, _, leaf = name.rpartition(".")
    fields: type[BaseModel] | None = model
    for part in group.split(".") if group else ():
        if part.isdigit():
            continue
        fields = _nested(fields, part) if fields is not None else None
    if fields is None:
        return ""
    names = sorted(field.alias or key for key, field in fields.model_fields.items())
    return f"{nearest(leaf, names)}; valid: {', '.join(names)}"


def _nested(model: type[BaseModel], field: str) -> type[BaseModel] | None:
    if field not in model.model_fields:
        return None
    waiting = [model.model_fields[field].annotation]
    while waiting:
        candidate = waiting.pop()
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
        waiting.extend(get_args(candidate))
    return None


def nearest(name: str, names: Mapping[str, Any] | Sequence[str]) -> str:
    """A suggestion to put behind an unknown name: the closest valid one, or nothing."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _overview(package: str, summary: str, commands: Mapping[str, Command]) -> str:
    width = max(len(name) for name in commands)
    lines = [f"usage: python -m {package} COMMAND [options]", "", summary, "", "commands:"]
    lines += [f"  {name:<{width}}  {command.summary}" for name, command in commands.items()]
    lines += ["", f"python -m {package} COMMAND --help lists the options of a command."]
    return "\n".join(lines)


def _fail(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr, flush=True)
    return code
