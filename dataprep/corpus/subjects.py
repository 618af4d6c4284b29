"""Whose sample a profile is (patient, donor, cell line), by the labels of a corpus or the form of a sample's name."""

from __future__ import annotations

import re

import pyarrow as pa

# Labels that name a subject, in any case and with any signs between the words.
_COLUMNS = ("patient", "patientid", "donor", "donorid", "subject", "subjectid", "individual", "cellline", "lineid")
# TCGA-XX-YYYY-... and GTEX-XXXXX-...: what names the person is the same in every study that uses these people.
_BARCODE = re.compile(r"\b(?:(TCGA)[-.](\w{2})[-.](\w{4})|(GTEX)[-.](\w{4,5}))(?![A-Za-z0-9])", re.IGNORECASE)


def subjects_of(samples: pa.Table) -> list[str | None]:
    """For each row of a samples table the subject, or None where nothing names one.

    A barcode of TCGA or GTEx, in the sample's name or in a label, stands for the person everywhere; any other name only
    inside its study, since two studies may both have a patient 1.
    """
    rows = samples.num_rows
    found: list[str | None] = [_person(name) for name in samples.column("sample_id").to_pylist()]
    studies = samples.column("study_id").to_pylist()
    named = [
        samples.column(name).to_pylist()
        for name in samples.column_names
        if re.sub(r"(:ch1$)|[^a-z]", "", name.lower()) in _COLUMNS
    ]
    for row in range(rows):
        for values in named:
            if found[row] is None and values[row] not in (None, ""):
                found[row] = _person(str(values[row])) or f"{studies[row]}/{values[row]}"
    return found


def _person(name: str) -> str | None:
    match = _BARCODE.search(name)
    return "-".join(part.upper() for part in match.groups() if part) if match else None
