"""Commands that are printed in the documentation are ones that the programs take.

All of them, also those that cannot be run here, go through the parsers of the commands that they name.
"""

import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataprep.runtime.command_line import UserError, read_settings

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))
sys.path.insert(0, str(ROOT / "docs" / "site"))

from printed_commands import Block, blocks, script  # noqa: E402 - needs the path above
from settings_reference import commands_of  # noqa: E402

PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PACKAGES = ("cluster", "dataprep", "evaluation", "pretrain")
# Pages whose commands are run as they stand there, with the target of make that does, and what of them it leaves out.
RUN = {
    "README.md": ("readme", {"CI runs these targets by themselves": ["make demo", "make down"]}),
    "docs/tutorials/counts-to-report.md": ("demo", {}),
}


def programs(text: str) -> Iterator[list[str]]:
    """The words of each ``python -m PACKAGE COMMAND ...``, also where another one submits it."""
    for line in re.sub(r"\$\{?\w+\}?", "x", text).replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>")
        lexer.whitespace_split = True
        words = list(lexer)
        while "python" in words:
            words = words[words.index("python") + 1 :]
            end = next((place for place, word in enumerate(words) if set(word) <= set(";&|<>")), len(words))
            if words[:1] == ["-m"] and words[1:2] and words[1] in PACKAGES:
                own = words[1:end]
                yield own[: own.index("--")] if "--" in own else own


def complaint(words: list[str]) -> str:
    """What the parser of a command says of its words; nothing where it takes them."""
    package, *arguments = words
    commands = commands_of(package)
    name = " ".join(arguments[:2]) if " ".join(arguments[:2]) in commands else arguments[0]
    if name not in commands:
        return f"unknown command {package} {name}"
    arguments = [argument for argument in arguments[len(name.split()) :] if argument != "..."]
    if "--plugins" in arguments:
        # of which the reader is to write one first
        return ""
    if "--config" in arguments:
        place = arguments.index("--config")
        del arguments[place : place + 2]
    command = commands[name]
    try:
        read_settings(command.extended([]) if command.extended else command.settings, arguments)
    except UserError as error:
        # what a page leaves out, or a file says that the reader has
        return "; ".join(part for part in str(error).split("; ") if not re.search("is missing|no such file", part))
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_parsers_take_the_commands_of_a_page(page, monkeypatch):
    for name in [name for name in os.environ if name.startswith("BULKFORMER_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(ROOT)
    said = {" ".join(words): complaint(words) for block in blocks(page) for words in programs(block.text)}
    assert {command: problem for command, problem in said.items() if problem} == {}


@pytest.mark.parametrize("page", RUN)
def test_a_page_that_is_run_leaves_out_what_ci_runs_by_itself_and_nothing_else(page):
    target, expected = RUN[page]
    left_out = {block.not_run: block.text for block in blocks(ROOT / page, ("sh", "python")) if block.not_run}
    commands = {reason: re.findall(r"^make \w+", text, re.MULTILINE) for reason, text in left_out.items()}
    assert commands == expected
    of_ci = (ROOT / ".ci" / "run").read_text()
    assert [command for listed in expected.values() for command in listed if f"timed {command}\n" not in of_ci] == []
    recipe = re.search(rf"^{target}: install\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe, f"no target {target}"
    assert page in recipe[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_programs_of_a_page_can_be_parsed(page):
    for block in blocks(page, ("python",)):
        compile(block.text, str(page), "exec")


def test_an_option_that_does_not_exist_is_found():
    (words,) = programs("python -m pretrain run --corpus a --storage b --name c --model.sise 37M")
    assert "unknown setting model.sise" in complaint(words)
    (words,) = programs("python -m pretrain walk")
    assert complaint(words) == "unknown command pretrain walk"


def test_a_submitted_command_is_one_of_its_own():
    line = "cd x; python -m cluster submit --name a -- \\\n  python -m pretrain run --name b > log  # note"
    assert list(programs(line)) == [
        ["cluster", "submit", "--name", "a"],
        ["pretrain", "run", "--name", "b"],
    ]


def test_blocks_of_commands_are_found_with_their_headings_and_reasons(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One\n```sh\na\n```\n```text\nno\n```\n```python\nx = 1\n```\n1. x\n\n"
        "   <!-- not run: takes a cloud -->\n   ```sh\n   b\n     c\n   ```\n"
        "## Two\n\n```sh\nd\n```\n"
    )
    assert blocks(page) == [Block("One", "a", ""), Block("One", "b\n  c", "takes a cloud"), Block("Two", "d", "")]
    assert blocks(page, ("python",)) == [Block("One", "x = 1", "", "python")]
    assert "\na\npython - <<'PROGRAM'\nx = 1\nPROGRAM\n" in script(page)
    assert re.findall(r"^[a-d]$", script(page), re.MULTILINE) == ["a", "d"]
