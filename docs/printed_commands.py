"""The commands of a page of the documentation, as they are printed there, to be run or to be checked.

    bash -c "$(python docs/printed_commands.py README.md)"      # make readme

Blocks marked ``sh`` are commands, in order, of one shell in the root of the repository; blocks marked ``python`` are
programs that this shell runs between them. A comment in front of a block says why it is not run, where it cannot be:
``<!-- not run: takes a cloud -->``.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^(\s*)```(\w*)\s*$")
_NOT_RUN = re.compile(r"^\s*<!-- not run: (.+) -->\s*$")


@dataclass(frozen=True)
class Block:
    """Some lines of commands below a heading; ``not_run`` says why they are none to run, and is empty otherwise."""

    heading: str
    text: str
    not_run: str
    language: str = "sh"

    @property
    def command(self) -> str:
        """What a shell is given for it."""
        return self.text if self.language == "sh" else f"python - <<'PROGRAM'\n{self.text}\nPROGRAM"


def blocks(page: Path, languages: Collection[str] = ("sh",)) -> list[Block]:
    """All blocks of commands of a page in some languages, in order."""
    found, heading, reason, inside = [], "", "", None
    for line in page.read_text().splitlines():
        fence = _FENCE.match(line)
        if inside is not None and fence:
            language, indent, lines = inside
            if language in languages:
                text = "\n".join(one.removeprefix(indent) for one in lines)
                found.append(Block(heading, text, reason, language))
            inside, reason = None, ""
        elif inside is not None:
            inside[2].append(line)
        elif fence:
            inside = (fence[2], fence[1], [])
        elif line.startswith("#"):
            heading = line.lstrip("# ")
        elif marked := _NOT_RUN.match(line):
            reason = marked[1]
        elif line.strip():
            reason = ""
    return found


def script(page: Path) -> str:
    """A script for bash that runs the blocks of a page and says, before those of a heading, what it is."""
    lines, said = ["set -euo pipefail"], ""
    for block in blocks(page, ("sh", "python")):
        if block.not_run:
            continue
        if block.heading != said:
            said = block.heading
            lines.append(f"printf '\\n== %s\\n' {shlex.quote(said)} >&2")
        lines.append(block.command)
    return "\n".join(lines)


if __name__ == "__main__":
    print(script(Path(sys.argv[1])))
