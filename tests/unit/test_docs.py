"""What the pages of the project point to exists: a page that names a moved file is worse than none."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "NOTICE")] + sorted(
    (ROOT / "docs").rglob("*.md")
)
CODE = ("benchmarks", "cluster", "dataprep", "docs", "evaluation", "examples", "pretrain", "tests")
PATH = re.compile(rf"(?<![\w/.])(?:{'|'.join(CODE)})/[\w./-]*\w")
DOTTED = re.compile(r"\b(?:cluster|dataprep|evaluation|pretrain)(?!\.md\b)(?:\.\w+)+")
LINK = re.compile(r"\]\(([^)#\s]+)")


def dangling_name(dotted: str) -> bool:
    """Whether ``package.module.name`` is neither a module nor a name that stands in one."""
    place, parts = ROOT, dotted.split(".")
    while parts and (place / parts[0]).is_dir():
        place /= parts.pop(0)
    module = place / f"{parts[0]}.py" if parts else place
    if parts and module.is_file():
        place = module
        parts.pop(0)
    source = place if place.is_file() else place / "__init__.py"
    return bool(parts) and not re.search(rf"\b{parts[0]}\b", source.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_modules_and_links_of_a_page_exist(page):
    text = page.read_text()
    links = [link for link in LINK.findall(text) if "://" not in link]
    dangling = [path for path in PATH.findall(text) if not (ROOT / path).exists()]
    dangling += [link for link in links if not (page.parent / link).exists()]
    dangling += [name for name in DOTTED.findall(text) if dangling_name(name)]
    assert dangling == []


def test_comments_point_to_pages_that_exist():
    sources = [path for package in CODE if package != "tests" for path in (ROOT / package).rglob("*.py")]
    assert sources
    pages = {(path.name, page) for path in sources for page in re.findall(r"docs/[\w/-]+\.md", path.read_text())}
    assert [pair for pair in sorted(pages) if not (ROOT / pair[1]).exists()] == []
    assert [path.name for path in sources if re.search(r"\bREFERENCE\b|\bDESIGN\b|see docs\b", path.read_text())] == []
