"""The forms of files that can be read, by name: ``format`` in a build file chooses one."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import PlainValidator, SerializeAsAny

from dataprep.runtime.command_line import nearest
from dataprep.sources.source import Source

# What a source of a build file is that names no format.
DEFAULT_FORMAT = "table"

S = TypeVar("S", bound=Source)
_FORMATS: dict[str, type[Source]] = {}


def register_source(source: type[S]) -> type[S]:
    """Class decorator: files of the form that the class's field ``format`` names are read by it from now on."""
    name = source.model_fields["format"].default
    assert isinstance(name, str), f"{source.__name__} gives its field format no default"
    known = _FORMATS.get(name)
    if known is not None and known.__qualname__ != source.__qualname__:
        raise ValueError(f"format {name!r} is taken by {known.__module__}.{known.__qualname__}")
    _FORMATS[name] = source
    return source


def source_of(given: Any) -> Source:
    """The source that a build file describes; ``format`` says of which class it is. Raises ValueError."""
    if isinstance(given, Source):
        return given
    if not isinstance(given, dict):
        raise ValueError(f"a source is settings (key: value), not {type(given).__name__}")
    name = given.get("format", DEFAULT_FORMAT)
    chosen = _FORMATS.get(name) if isinstance(name, str) else None
    if chosen is None:
        raise ValueError(f"unknown format {name!r}{nearest(str(name), _FORMATS)}; there are {', '.join(_FORMATS)}")
    valid = sorted(chosen.model_fields)
    unknown = [key for key in given if key not in chosen.model_fields]
    if unknown:
        key = unknown[0]
        raise ValueError(
            f"unknown setting {key!r}{nearest(str(key), valid)}; valid for format {name}: {', '.join(valid)}"
        )
    return chosen.model_validate(given)


# A field of settings that holds any registered source. The class is looked up when settings are read, so that plugins
# can register theirs until then.
AnySource = Annotated[SerializeAsAny[Source], PlainValidator(source_of)]
