"""``python -m dataprep COMMAND``."""

from __future__ import annotations

import sys
from typing import Any

from dataprep.command_line import Command, main
from dataprep.config import BuildSettings, ExportSettings, GraphSettings, InspectSettings, SimulateSettings
from dataprep.inspection import inspect_corpus
from dataprep.simulate import simulate


def _build(settings: BuildSettings) -> dict[str, Any]:
    # Ray takes a second to import; the other commands do without it
    from dataprep.build import build

    return build(settings)


COMMANDS = {
    "build": Command(BuildSettings, _build, "turn sources into a corpus"),
    "inspect": Command(InspectSettings, inspect_corpus, "check a corpus and summarise it"),
    "simulate": Command(SimulateSettings, simulate, "make up a cohort of raw counts with known structure"),
}

if __name__ == "__main__":
    sys.exit(main("dataprep", "Raw bulk RNA-seq to a corpus of normalised profiles.", COMMANDS))
