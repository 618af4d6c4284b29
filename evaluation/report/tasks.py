"""The part of a report about evaluations: each task with its scores, baselines, differences and curves."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from dataprep.inspection.page import (
    Block,
    Facts,
    Folded,
    Paragraph,
    Picture,
    Pictures,
    Section,
    Table,
    missing,
    number,
    shown,
)
from dataprep.inspection.pictures import COLOURS, picture, wrapped
from evaluation.report.curves import curve_blocks
from evaluation.report.material import Estimate, Evaluation, ScoredTask
from pretrain.monitoring.mlflow_run import flattened

# In pictures; tables and the file of results have all of them.
_MOST_METRICS = 4
_DIFFERENCE = "_minus_"
_WITHOUT_SHARED = "_without_shared"


def evaluation_section(evaluations: Sequence[Evaluation]) -> Section:
    if not evaluations:
        said = missing(
            "no evaluation was given (--results FILE.json, or --experiment): how good a model is, is not known."
        )
        return Section("Evaluation", [said])
    return Section("Evaluation", sections=[_one(evaluation) for evaluation in evaluations])


def _one(evaluation: Evaluation) -> Section:
    about = {name.removeprefix("bulkformer."): value for name, value in evaluation.about.items()}
    blocks: list[Block] = [
        Facts(about | {"from": evaluation.origin}),
        Folded("All settings", [Facts(flattened(evaluation.settings))]),
    ]
    if not evaluation.results:
        blocks.append(missing("the file holds no task."))
    title = f"Evaluation of {about.get('model', 'an unnamed model')}"
    return Section(title, blocks, [_task(task) for task in evaluation.results])


def _task(task: ScoredTask) -> Section:
    blocks: list[Block] = [Paragraph(_sentence(task.verdict))] if task.verdict else []
    if not task.scores:
        blocks.append(missing("this task has no score."))
    else:
        blocks += _scores(task)
    blocks += curve_blocks(task)
    if task.by_study:
        columns = list(task.by_study[0])
        rows = [[shown(row.get(column)) for column in columns] for row in task.by_study]
        blocks.append(Folded("By study", [Table(f"{task.title}, by study", _spaced(columns), rows)]))
    if task.facts:
        blocks.append(Folded("How it was scored", [Facts(task.facts)]))
    return Section(_sentence(task.title).removesuffix("."), blocks)


def _sentence(text: str) -> str:
    text = f"{text[:1].upper()}{text[1:]}".replace(" -> ", " → ")
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _scores(task: ScoredTask) -> list[Block]:
    plain = [score for score in task.scores if _DIFFERENCE not in score.metric]
    differences = [score for score in task.scores if _DIFFERENCE in score.metric]
    methods, metrics = _names(plain, "method"), _names(plain, "metric")
    cells = {(score.method, score.metric): score for score in plain}
    rows = [
        [_named(method, task.baselines), *(_cell(cells.get((method, metric))) for metric in metrics)]
        for method in methods
    ]
    blocks: list[Block] = []
    defined = [score.metric for score in plain if score.value is not None]
    # scores without the profiles seen in training stand in the table, beside those with them
    pictured = [metric for metric in metrics if defined.count(metric) > 1 and not metric.endswith(_WITHOUT_SHARED)]
    if pictured:
        blocks.append(Pictures([_forest(task, metric, plain) for metric in pictured[:_MOST_METRICS]]))
    blocks.append(Table(f"{task.title}: scores, with 95 % intervals", ["method", *_spaced(metrics)], rows))
    return [*blocks, *_difference_blocks(task, differences)]


def _difference_blocks(task: ScoredTask, differences: Sequence[Estimate]) -> list[Block]:
    if not differences:
        return [missing("the task compares the methods by no paired differences.")] if task.baselines else []
    metrics = list(dict.fromkeys(score.metric.partition(_DIFFERENCE)[0] for score in differences))
    pictures = []
    for metric in metrics[:_MOST_METRICS]:
        own = [score for score in differences if score.metric.startswith(f"{metric}{_DIFFERENCE}")]
        pictures.append(_difference_picture(task, metric, own))
    rows = [
        [
            _compared(score),
            score.metric.partition(_DIFFERENCE)[0].replace("_", " "),
            _cell(score),
            _told(score),
            number(score.p_corrected),
        ]
        for score in differences
    ]
    columns = ["compared", "metric", "difference", "interval", "corrected p"]
    table = Table(f"{task.title}: paired differences, with 95 % intervals", columns, rows)
    return [Pictures(pictures), table if len(rows) <= 12 else Folded("Paired differences in numbers", [table])]


def _compared(score: Estimate) -> str:
    return f"{score.method} − {score.metric.partition(_DIFFERENCE)[2].replace('_', ' ')}"


def _told(score: Estimate) -> str:
    if score.low is None or score.high is None:
        return "no interval"
    return "includes zero" if score.low <= 0 <= score.high else "excludes zero"


def _forest(task: ScoredTask, metric: str, scores: Sequence[Estimate]) -> Picture:
    own = [score for score in scores if score.metric == metric]
    name = metric.replace("_", " ")
    caption = f"{task.title}: {name}. Filled circles: models; open squares: simple methods; bars: 95 % intervals."
    labels = [score.method for score in own]
    return forest(own, labels, [score.method in task.baselines for score in own], name, caption)


def _difference_picture(task: ScoredTask, metric: str, own: Sequence[Estimate]) -> Picture:
    name = metric.replace("_", " ")
    caption = (
        f"{task.title}: paired differences in {name}, model minus simple method, 95 % intervals. Dashed: no difference."
    )
    return forest(own, [_compared(score) for score in own], [False] * len(own), f"difference in {name}", caption, True)


def forest(
    scores: Sequence[Estimate],
    labels: Sequence[str],
    simple: Sequence[bool],
    axis: str,
    caption: str,
    around_zero: bool = False,
) -> Picture:
    """A forest plot: a row for each score, with its interval; those of ``simple`` methods as open squares."""
    shown_labels = [wrapped(label) for label in labels]

    def draw(axes: Axes) -> None:
        for place, (score, is_simple) in enumerate(zip(scores, simple, strict=True)):
            if score.value is None:
                continue
            colour = COLOURS[1] if is_simple else COLOURS[0]
            if score.low is not None and score.high is not None:
                axes.plot([score.low, score.high], [place, place], "-", color=colour)
            marker, face = ("s", "white") if is_simple else ("o", colour)
            axes.plot(score.value, place, marker, color=colour, markerfacecolor=face, markersize=5.5)
        if around_zero:
            axes.axvline(0, color="#1a1a1a", linestyle="--", linewidth=0.9)
        axes.set_yticks(range(len(labels)), shown_labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(axis)

    lines = len(labels) * max((0.75 * (label.count("\n") + 1) for label in shown_labels), default=0)
    said = "; ".join(
        f"{label}{' (simple method)' if is_simple else ''} {_cell(score)}"
        for label, score, is_simple in zip(labels, scores, simple, strict=True)
    )
    return picture(draw, f"Forest plot of {axis}: {said}.", caption, 0.75 + 0.2 * max(lines, 1.3 * len(labels)))


def _named(method: str, baselines: Sequence[str]) -> str:
    shown_as = method.replace(" -> ", " → ")
    return f"{shown_as} (simple)" if method in baselines else shown_as


def _cell(score: Estimate | None) -> str:
    if score is None:
        return "–"
    if score.low is None or score.high is None:
        return number(score.value)
    return f"{number(score.value)} [{number(score.low)}, {number(score.high)}]"


def _names(scores: Sequence[Estimate], attribute: str) -> list[str]:
    return list(dict.fromkeys(getattr(score, attribute) for score in scores))


def _spaced(names: Sequence[str]) -> list[str]:
    return [name.replace("_", " ") for name in names]
