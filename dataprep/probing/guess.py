"""What is guessed of a file: settings, each with its reason, and what stays in doubt."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dataprep.genes.identifiers import strip_version
from dataprep.genes.row_names import is_summary
from dataprep.genes.vocabulary import gene_reference

# Stands where a person has to decide; a build refuses it by name.
SAY = "SAY_WHICH"
# The smallest value of log2(TPM + 0.001).
_XENA_ZERO = -9.9658
# Above this no value is a logarithm of a count or of TPM.
_LARGEST_LOGARITHM = 30.0
_GENE, _TRANSCRIPT = re.compile(r"ENSG\d{11}"), re.compile(r"ENST\d{11}")
_PAIR = re.compile(r"[^|(]+(\|\d+|\s*\(\d+\))")


@dataclass(frozen=True)
class Guess:
    """Settings of a source as (key, value, reason), in the order in which they are written.

    ``form`` says in words what the file is; ``preset`` names one that fits, None where none does; ``one_sample`` says
    that there will be a file for every sample.
    """

    form: str
    settings: Sequence[tuple[str, str | float, str]]
    preset: str | None = None
    doubts: Sequence[str] = field(default_factory=tuple)
    one_sample: bool = False


def gene_id_setting(row_names: Sequence[str]) -> tuple[str, str, str]:
    """How genes are named, from some row names."""
    shares = kinds_of(row_names)
    kind, share = max(shares.items(), key=lambda pair: pair[1])
    if share < 0.5:
        return "gene_id", SAY, f"names such as {row_names[0]!r} are neither Ensembl ids nor symbols"
    if kind == "ensembl" and shares["symbol"] > 0.05:
        kind = "mixed"
    return "gene_id", kind, f"{share:.0%} of {len(row_names):,} names, e.g. {row_names[-1]!r}"


def kinds_of(row_names: Sequence[str]) -> dict[str, float]:
    """The share of names that are Ensembl ids of genes, symbols with Entrez ids, and symbols."""
    symbols = gene_reference().ensembl_id_of
    named = [name.strip() for name in row_names if name.strip() and not is_summary(name.strip())] or [""]
    found = {
        "ensembl": sum(bool(_GENE.fullmatch(strip_version(name))) for name in named),
        "symbol_entrez": sum(bool(_PAIR.fullmatch(name)) for name in named),
        "symbol": sum(name in symbols for name in named),
    }
    return {kind: count / len(named) for kind, count in found.items()}


def are_transcripts(row_names: Sequence[str]) -> bool:
    """Whether most names are those of transcripts."""
    return 2 * sum(bool(_TRANSCRIPT.match(name)) for name in row_names) > len(row_names)


def units_settings(values: Sequence[float], name: str) -> tuple[list[tuple[str, str | float, str]], list[str]]:
    """Settings of units that would not be refused for these values, and doubts. ``name`` is that of the file."""
    looked = f"of {len(values):,} values looked at"
    smallest, largest = min(values), max(values)
    if smallest < 0:
        if smallest >= _XENA_ZERO - 0.01 and largest <= _LARGEST_LOGARITHM:
            settings: list[tuple[str, str | float, str]] = [
                (
                    "units",
                    "log2_tpm_plus_1",
                    f"the smallest {looked} is {smallest:g}: log2(TPM + 0.001) begins at -9.97",
                ),
                ("log_offset", 0.001, "what was added before the logarithm"),
            ]
            doubt = [] if smallest < _XENA_ZERO + 0.01 else ["values below 0 could also be ratios or z-scores"]
            return settings, doubt
        reason = f"the smallest {looked} is {smallest:g}: ratios or z-scores, of which no profile can be made"
        return [("units", SAY, reason)], []
    if all(value == round(value) for value in values):
        doubt = ["whole numbers can also be rounded TPM, which the build notices, or base coverage"]
        return [("units", "counts", f"all {looked} are whole numbers")], doubt
    if largest <= _LARGEST_LOGARITHM:
        return [("units", SAY, f"log2_tpm_plus_1 or log1p_tpm? the largest {looked} is {largest:g}")], []
    told = {"tpm": "tpm", "fpkm": "fpkm", "rpkm": "fpkm"}
    word = next((word for word in told if word in name.lower()), None)
    if word:
        return [("units", told[word], f"the file's name has {word!r}; the build checks TPM's sum of a million")], []
    return [("units", SAY, "estimated_counts, tpm or fpkm? not all values are whole numbers")], []


def by_preset(form: str, preset: str, reason: str, **more: object) -> Guess:
    """A guess that a preset says all of."""
    return Guess(form, [("preset", preset, reason)], preset, **more)  # type: ignore[arg-type]


def with_settings(guess: Guess, added: Mapping[str, tuple[str | float, str]], doubts: Sequence[str] = ()) -> Guess:
    """The guess with further settings and doubts."""
    settings = [*guess.settings, *((key, value, reason) for key, (value, reason) in added.items())]
    return Guess(guess.form, settings, guess.preset, [*guess.doubts, *doubts], guess.one_sample)
