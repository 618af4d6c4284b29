"""Make the pictures of the documentation: a report, MLflow's charts of a run, and a terminal.

    python -m evaluation report --output report.html ...
    script --quiet --command "python -m pretrain run ..." recording.txt
    . .local/env && python docs/make_pictures.py --report report.html --run RUN_ID --recording recording.txt
    python docs/make_pictures.py --page corpus.html --at "Scatter plot" --name tutorial-corpus

Any of them alone will do. The last shows the section of a page with the first picture whose description begins so.
Takes Chromium (Debian's package chromium), and for MLflow the server of MLFLOW_TRACKING_URI.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import re
import sys
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from tests.browser import visit  # noqa: E402 - needs the path above

_COLOURS = 64
_LARGEST_BYTES = 200_000
_TERMINAL_COLUMNS = 110
# rich's own frame, without the fonts that it would load from the network
_TERMINAL = """<!doctype html><meta charset="utf-8"><body style="margin:0;background:#1b1f24;color:#e6e6e6">
<pre style="margin:0;padding:16px 20px;font:14px/1.4 'DejaVu Sans Mono',monospace">{code}</pre>"""


# Without the panes beside the charts and the tools that a pointer brings up, at the groups about learning.
_CHARTS_ARE_THERE = """(() => {
  document.querySelector('[aria-label="Close"]')?.click();
  document.querySelectorAll('.modebar').forEach(one => one.remove());
  const group = [...document.querySelectorAll('div')].findLast(one => /^train\\s*\\(\\d+\\)$/.test(one.textContent));
  group?.scrollIntoView();
  return group && document.querySelectorAll('.js-plotly-plot .trace').length > 2;
})()"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--report", type=Path, help="page that evaluation report wrote")
    parser.add_argument("--run", help="id of an MLflow run, whose charts to show")
    parser.add_argument("--recording", type=Path, help="what script(1) recorded of a command")
    parser.add_argument("--page", type=Path, help="page with pictures, of which to show one part")
    parser.add_argument("--at", help="how the description of a picture in this part begins")
    parser.add_argument("--name", help="what to call the picture of this part")
    parser.add_argument("--height", type=int, default=760, help="of it, in pixels")
    parser.add_argument("--output", type=Path, default=HERE / "pictures", help="folder of the pictures")
    given = parser.parse_args()
    if given.page and not (given.at and given.name):
        parser.error("--page takes --at and --name")
    given.output.mkdir(parents=True, exist_ok=True)
    if given.report:
        show_report(given.report.resolve(), given.output)
    if given.page:
        show_part(given.page.resolve(), given.at, given.output / f"{given.name}.png", 1100, given.height)
    if given.run:
        show_charts(given.run, given.output / "mlflow-charts.png")
    if given.recording:
        show_terminal(given.recording, given.output / "terminal.png")


def show_report(page: Path, output: Path) -> None:
    """Curves of training and the first forest plots at a desk, and the plots on a phone."""
    for name, width, height, first in (
        ("report-training", 1100, 760, "Line chart. Loss"),
        ("report-scores", 1100, 900, "Forest plot"),
        ("report-phone", 375, 760, "Forest plot"),
    ):
        show_part(page, first, output / f"{name}.png", width, height)


def show_part(page: Path, first: str, place: Path, width: int, height: int) -> None:
    """The section with the picture whose description begins with ``first``, from its top."""
    there = f"document.querySelector('svg[aria-label^=\"{first}\"]')"
    (seen,) = visit(page, [width], [f"{there}?.closest('section').scrollIntoView()"], with_picture=True, height=height)
    write(seen.picture, place)


def show_charts(run_id: str, output: Path) -> None:
    """MLflow's page of the run's metrics, as `pretrain run` prints its address."""
    # the client takes a second, and other pictures do without a server
    from pretrain.monitoring.mlflow_run import mlflow_client

    server = os.environ["MLFLOW_TRACKING_URI"].rstrip("/")
    login = f"{os.environ.get('MLFLOW_TRACKING_USERNAME', '')}:{os.environ.get('MLFLOW_TRACKING_PASSWORD', '')}"
    experiment = mlflow_client().get_run(run_id).info.experiment_id
    (charts,) = visit(
        f"{server}/#/experiments/{experiment}/runs/{run_id}/model-metrics", [1300], with_picture=True, height=900,
        headers={"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"},
        when=_CHARTS_ARE_THERE,
    )  # fmt: skip
    write(charts.picture, output)


def show_terminal(recording: Path, output: Path) -> None:
    """The recorded lines as a terminal shows them; of a line that was written over, what it was in the end."""
    content = recording.read_text(errors="replace")
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in content.split("\n") if not line.startswith("Script ")]
    text = Text.from_ansi(re.sub(r"\x1b\[\?\d+[hl]|\x1b\[[0-9]*[A-K]", "", "\n".join(lines)).strip("\n"))
    console = Console(record=True, width=_TERMINAL_COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(text, soft_wrap=False)
    page = output.with_suffix(".html")
    page.write_text(console.export_html(code_format=_TERMINAL, inline_styles=True))
    try:
        (seen,) = visit(page.resolve(), [960], ["document.querySelector('pre').offsetHeight"])
        (shown,) = visit(page.resolve(), [960], with_picture=True, height=min(seen.values[0], 1200))
    finally:
        page.unlink()
    write(shown.picture, output)


def write(picture: bytes, place: Path) -> None:
    """Write a picture in few colours, which drawings and letters need no more than."""
    image = Image.open(io.BytesIO(picture)).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
    image.save(place, optimize=True)
    size = place.stat().st_size
    print(f"{place}: {image.width} x {image.height}, {size / 1000:,.0f} kB")
    if size > _LARGEST_BYTES:
        raise SystemExit(f"{place} is over {_LARGEST_BYTES / 1000:,.0f} kB: show less of it")


if __name__ == "__main__":
    main()
