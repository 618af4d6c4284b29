"""The report in headless Chromium: it loads nothing, complains of nothing, and fits a phone as well as a desk."""

import os
from pathlib import Path

import pytest
from browser import CHROMIUM, visit
from made_corpora import make_corpus
from made_reports import HARMFUL, RUNS, made_results, made_scaling, write_embeddings, write_json

from dataprep.__main__ import COMMANDS as DATAPREP_COMMANDS
from dataprep.runtime.command_line import main
from evaluation.__main__ import COMMANDS

# CI installs it; who runs the tests at home may not have it.
pytestmark = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("BULKFORMER_TEST_NEEDS_BROWSER"),
    reason="no Chromium on this machine (Debian's package: chromium)",
)
WIDTHS = (375, 1400)
FITS = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
PICTURES = "document.querySelectorAll('svg').length"
SILENT_PICTURES = (
    "[...document.querySelectorAll('svg, img')].filter(one => !(one.getAttribute('aria-label') || one.alt)).length"
)
# what is wider than the page, but for what scrolls in a box of its own
TOO_WIDE = (
    "[...document.querySelectorAll('body *')].filter(one => !one.closest('.scroll, pre, svg, .skip') && "
    "one.getBoundingClientRect().right > document.documentElement.clientWidth + 1)"
    ".map(one => one.outerHTML.slice(0, 80))"
)
# Text whose colour is nearer to what is behind it than WCAG 2.2 has it at level AA: 4.5, or 3 for large letters
PALE = """(() => {
  const channels = colour => (colour.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const light = colour => channels(colour).slice(0, 3).map(part => part / 255)
    .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = one => {
    for (; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor, parts = channels(colour);
      if (parts.length < 4 || parts[3] > 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const written = one => [...one.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
  return [...document.querySelectorAll("body *")].filter(one => written(one) && !one.closest("svg")).filter(one => {
    const style = getComputedStyle(one), [a, b] = [light(style.color), light(behind(one))];
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < (large ? 3 : 4.5);
  }).map(one => one.outerHTML.slice(0, 80));
})()"""
# Of tables: heads that say neither column nor row, and tables without a name
UNREADABLE_TABLES = (
    "[...document.querySelectorAll('th')].filter(one => !['col', 'row'].includes(one.scope)).length + "
    "[...document.querySelectorAll('table')].filter(one => !one.caption?.textContent.trim()).length"
)
# On paper everything is there: what is folded on a screen, and what scrolls there in a box
HIDDEN_ON_PAPER = (
    "[...document.querySelectorAll('details > *:not(summary)')].filter(one => !one.checkVisibility()).length"
)
CUT_ON_PAPER = (
    "[...document.querySelectorAll('.scroll, pre')].filter(one => getComputedStyle(one).overflowX !== 'visible').length"
)
OPEN_ALL = "document.querySelectorAll('details').forEach(one => one.open = true)"


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """A report with everything in it, and long and harmful names."""
    folder = tmp_path_factory.mktemp("report")
    labels = {
        "tissue": [["liver", "an exceedingly-long-name_without_any_blank" * 3, HARMFUL][row % 3] for row in range(140)]
    }
    corpus = make_corpus(str(folder / "corpus"), labels=labels)
    inputs = {
        "run": f"{RUNS / 'two_workers'},{RUNS / 'resized'}",
        "results": write_json(folder / "r.json", made_results()),
        "scaling": write_json(folder / "s.json", made_scaling()),
        "embeddings": write_embeddings(folder / "e.parquet", [f"S{row}" for row in range(140)]),
        "corpus": corpus.folder.uri,
    }
    arguments = [part for name, value in inputs.items() for part in (f"--{name}", str(value))]
    assert main("evaluation", "", COMMANDS, ["report", "--output", str(folder / "report.html"), *arguments]) == 0
    return folder / "report.html"


def test_the_report_is_whole_silent_and_fits_every_screen(page):
    for seen in visit(
        page,
        WIDTHS,
        [
            FITS,
            SILENT_PICTURES,
            PICTURES,
            TOO_WIDE,
            OPEN_ALL,
            FITS,
            TOO_WIDE,
            "document.title",
            PALE,
            UNREADABLE_TABLES,
        ],
    ):
        fits, silent, pictures, too_wide, _, fits_opened, too_wide_opened, title, pale, unreadable = seen.values
        assert seen.console == [], seen.width
        assert seen.requests == [], seen.width
        assert pictures > 20
        assert silent == 0
        assert (too_wide, too_wide_opened) == ([], []), seen.width
        assert (fits, fits_opened) == (True, True), seen.width
        # a name in the files would have changed it, had it been run
        assert title == "Model report"
        assert pale == []
        assert unreadable == 0


def test_on_paper_nothing_is_folded_or_cut(page):
    (seen,) = visit(page, [720], [HIDDEN_ON_PAPER, CUT_ON_PAPER, TOO_WIDE], media="print")
    assert seen.values == [0, 0, []]


def test_the_page_of_a_corpus_is_as_well(page):
    output = page.with_name("corpus.html")
    arguments = ["inspect", str(page.with_name("corpus")), "--html", str(output)]
    assert main("dataprep", "", DATAPREP_COMMANDS, arguments) == 0
    for seen in visit(output, WIDTHS, [FITS, SILENT_PICTURES, PICTURES, TOO_WIDE]):
        assert (seen.console, seen.requests) == ([], []), seen.width
        assert seen.values[:2] == [True, 0], seen.width
        assert seen.values[2] >= 5
        assert seen.values[3] == [], seen.width


def test_the_check_sees_what_it_looks_for(tmp_path):
    """A page that does all that a report must not do."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<p style='color:#999'>pale</p><table><tr><th>no scope</table>"
        "<details><summary>more</summary><p>folded</p></details>"
        "<svg></svg><div style='width:3000px'>wide</div><script>console.error('no')</script>"
        "<link rel=icon href='data:,'><img src='http://127.0.0.1:9/x.png'>"
    )
    (seen,) = visit(bad, [375], [FITS, SILENT_PICTURES, TOO_WIDE, PALE, UNREADABLE_TABLES, HIDDEN_ON_PAPER])
    assert seen.values[0] is False
    assert seen.values[1] == 2
    assert len(seen.values[2]) == 1
    assert seen.values[3:] == [['<p style="color:#999">pale</p>'], 2, 1]
    assert seen.console
    assert "http://127.0.0.1:9/x.png" in seen.requests
