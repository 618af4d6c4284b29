"""The forms of files that can be read, by name: ``format`` in a build file chooses one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import PlainValidator, SerializeAsAny

from dataprep.runtime.command_line import nearest
from dataprep.sources.source import Source

# What a source of a build file is that names no format.
DEFAULT_FORMAT = "table"

# Settings of the forms that many have, by name; what a source says itself goes before.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "archs4": {"format": "archs4", "gene_id": "ensembl"},
    "gtex_gct": {"format": "table", "gene_id": "ensembl", "units": "counts"},
    # TPM of the Toil project; the GDC's are with an offset of 1
    "xena_log2": {"format": "table", "gene_id": "ensembl", "units": "log2_tpm_plus_1", "log_offset": 0.001},
    # sums of base coverage: reads times read length, which TPM divide out
    "recount3": {"format": "table", "gene_id": "ensembl", "units": "base_coverage"},
    "star": {"format": "star", "gene_id": "ensembl"},
    "featurecounts": {"format": "featurecounts", "gene_id": "ensembl"},
    "htseq": {"format": "htseq", "gene_id": "ensembl"},
    "salmon": {"format": "salmon", "gene_id": "ensembl"},
    "kallisto": {"format": "kallisto", "gene_id": "ensembl"},
    "rsem": {"format": "rsem", "gene_id": "ensembl"},
    # RNASeqV2, normalised: genes are SYMBOL|Entrez
    "tcga_rsem": {"format": "table", "gene_id": "symbol_entrez", "units": "estimated_counts"},
}

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
    given = _with_preset(given)
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


def _with_preset(given: dict[str, Any]) -> dict[str, Any]:
    """The settings with those of their preset, which also makes a source of no other study one of its own name."""
    if "preset" not in given:
        return given
    preset = given["preset"]
    known = PRESETS.get(preset) if isinstance(preset, str) else None
    if known is None:
        raise ValueError(f"unknown preset {preset!r}{nearest(str(preset), PRESETS)}; there are {', '.join(PRESETS)}")
    if given.get("format", known["format"]) != known["format"]:
        raise ValueError(f"preset {preset} is for format {known['format']}, not {given['format']}")
    own = {key: value for key, value in given.items() if key != "preset"}
    if known["format"] != "archs4" and not {"study", "study_column"} & own.keys() and "name" in own:
        own["study"] = own["name"]
    units = {} if own.get("units", known.get("units")) == known.get("units") else {"log_offset"}
    return {key: value for key, value in known.items() if key not in units} | own


# A field of settings that holds any registered source. The class is looked up when settings are read, so that plugins
# can register theirs until then.
AnySource = Annotated[SerializeAsAny[Source], PlainValidator(source_of)]
