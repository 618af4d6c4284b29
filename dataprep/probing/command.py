"""The command `dataprep probe`: the sources of a build file that fit some files, to be read by a person."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from dataprep.config import ProbeSettings
from dataprep.probing.guess import SAY, Guess
from dataprep.probing.recognise import recognise
from dataprep.runtime.addresses import plain_address
from dataprep.runtime.command_line import UserError
from dataprep.runtime.terminal import write_result
from dataprep.sources.text_files import name_without_suffix

_HEAD = f"""\
# Guessed from the beginning of each file. Read every line before you build: {SAY} is for you to decide, and units are
# what you say they are; `dataprep build` checks them over whole files.
"""


def probe(settings: ProbeSettings) -> dict[str, Any]:
    """Write the YAML to standard output; return the preset by file, None where none fits or nothing is known.

    Raises :class:`UserError` where no file is known.
    """
    guesses: list[tuple[list[str], Guess]] = []
    unknown: dict[str, str] = {}
    for file in dict.fromkeys(settings.files):
        try:
            _add(guesses, file, recognise(plain_address(file)))
        except UserError as error:
            unknown[file] = str(error)
    if not guesses:
        raise UserError("; ".join(unknown.values()))
    paths = [_pattern(files) or files[0] for files, _ in guesses]
    lines = [_HEAD, "sources:\n"]
    for name, path, (files, guess) in zip(_names(paths), paths, guesses, strict=True):
        lines += _source(name, path, files, guess)
    lines += [f"# not known: {reason}\n" for reason in unknown.values()]
    if not settings.json_line:
        write_result("".join(lines))
    presets = {file: guess.preset for files, guess in guesses for file in files}
    return {"presets": presets | dict.fromkeys(unknown), "unknown": unknown, "yaml": "".join(lines)}


def _add(guesses: list[tuple[list[str], Guess]], file: str, guess: Guess) -> None:
    """Files of one sample each, of the same form and settings, are one source where a pattern has them all."""
    for files, other in guesses:
        if guess.one_sample and other == guess and _pattern([*files, file]) is not None:
            files.append(file)
            return
    guesses.append(([file], guess))


def _pattern(files: Sequence[str]) -> str | None:
    """The path with one wildcard that all files match, or None."""
    parts = [PurePosixPath(file).parts for file in files]
    if len({len(part) for part in parts}) > 1:
        return None
    levels = [number for number, level in enumerate(zip(*parts, strict=True)) if len(set(level)) > 1]
    if len(levels) > 1:
        return None
    if not levels:
        return files[0]
    varying = [part[levels[0]] for part in parts]
    end = _common([name[::-1] for name in varying])[::-1] if levels[0] == len(parts[0]) - 1 else ""
    return str(PurePosixPath(*parts[0][: levels[0]], f"*{end}", *parts[0][levels[0] + 1 :]))


def _common(words: Sequence[str]) -> str:
    length = 0
    while all(len(word) > length and word[length] == words[0][length] for word in words):
        length += 1
    return words[0][:length]


def _names(paths: Sequence[str]) -> list[str]:
    """A name for each source: its file's, or its folder's where several files are called the same."""
    stems = [_stem(path) for path in paths]
    folders = [PurePosixPath(path).parent.name for path in paths]
    chosen = [f if stems.count(s) > 1 and f else s for s, f in zip(stems, folders, strict=True)]
    names: list[str] = []
    for name in chosen:
        numbered = (f"{name}_{number}" for number in itertools.count(2))
        names.append(next(free for free in itertools.chain([name], numbered) if free not in names))
    return names


def _stem(path: str) -> str:
    """S1 from a/S1.tsv.gz; of a pattern the folder before its wildcard."""
    before = path.partition("*")[0].rstrip("/")
    return (PurePosixPath(before).name if "*" in path else name_without_suffix(PurePosixPath(path).name)) or "source"


def _source(name: str, path: str, files: Sequence[str], guess: Guess) -> list[str]:
    lines = [f"  # {guess.form}" + (f", {len(files):,} files" if len(files) > 1 else "") + "\n"]
    lines += [f"  # in doubt: {doubt}\n" for doubt in guess.doubts]
    lines.append(f"  - name: {_scalar(name)}\n    path: {_scalar(path)}\n")
    if len(files) > 1:
        lines.append("    # every file that matches is read\n")
    lines += [f"    {key}: {_scalar(value)}  # {_plain(reason)}\n" for key, value, reason in guess.settings]
    if guess.preset != "archs4":
        lines.append(f"    study: {_scalar(name)}  # no file says it; or samples: FILE and study_column\n")
    return lines


def _scalar(value: str | float) -> str:
    """As YAML reads it again; JSON is YAML."""
    plain = isinstance(value, str) and value.replace("_", "").isalnum() and value[0].isalpha()
    return str(value) if plain and str(value).lower() not in _WORDS else json.dumps(value)


_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


def _plain(text: str) -> str:
    return " ".join(text.split())
