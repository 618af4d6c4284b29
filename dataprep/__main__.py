"""``python -m dataprep COMMAND``."""

from __future__ import annotations

import sys
from typing import Any

from dataprep.command_line import Command, main
from dataprep.config import BuildSettings


def _build(settings: BuildSettings) -> dict[str, Any]:
    # Ray takes a second to import; the other commands do without it
    from dataprep.build import build

    return build(settings)


COMMANDS = {
    "build": Command(BuildSettings, _build, "turn sources into a corpus"),
}

if __name__ == "__main__":
    sys.exit(main("dataprep", "Raw bulk RNA-seq to a corpus of normalised profiles.", COMMANDS))
