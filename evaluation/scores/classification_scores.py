"""Scores and tables of predicted probabilities. N samples, C classes.

Rows are scored together, whichever fold they come from: a score of a small fold says little, and may not be defined.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    roc_auc_score,
    roc_curve,
)

from evaluation.scores.comparison import Metric, Statistic
from evaluation.scores.intervals import SHARE

_BINS = 10
# Points of a curve in the file of results, at the most.
_MOST_POINTS = 200

_METRICS = (
    Metric("weighted_f1", SHARE),
    Metric("macro_f1", SHARE),
    Metric("accuracy", SHARE),
    Metric("auroc", SHARE),
    Metric("auprc", SHARE),
    Metric("brier", SHARE, higher_is_better=False),
    Metric("calibration_error", SHARE, higher_is_better=False),
)


def metrics_of(classes: int) -> list[Metric]:
    """Those that are defined for so many classes: precision over recall only for two, of which 1 is positive."""
    return [metric for metric in _METRICS if classes == 2 or metric.name != "auprc"]


def statistics_of(class_of: np.ndarray, repeats: Sequence[np.ndarray]) -> dict[str, Statistic]:
    """Scores by metric for the sets of probabilities N x C that ``repeats`` of cross-validation gave: their mean."""

    def averaged(score: Callable[[np.ndarray, np.ndarray], float]) -> Statistic:
        return lambda rows: float(np.mean([score(class_of[rows], probability[rows]) for probability in repeats]))

    return {metric.name: averaged(_SCORES[metric.name]) for metric in metrics_of(repeats[0].shape[1])}


def auroc(truth: np.ndarray, probability: np.ndarray) -> float:
    """Of class 1 for two classes, else the mean over classes of each against all others; NaN for one class only."""
    classes = [1] if probability.shape[1] == 2 else range(probability.shape[1])
    values = [
        roc_auc_score(truth == number, probability[:, number])
        for number in classes
        if 0 < (truth == number).sum() < len(truth)
    ]
    return float(np.mean(values)) if values else float("nan")


def brier(truth: np.ndarray, probability: np.ndarray) -> float:
    """Mean over samples of half the summed squared error of the probabilities: 0 to 1, for two classes as usual."""
    labels = list(range(probability.shape[1]))
    return float(brier_score_loss(truth, probability, labels=labels, scale_by_half=True))


def calibration_error(truth: np.ndarray, probability: np.ndarray) -> float:
    """Expected calibration error: predicted and observed share of a bin apart, in the mean over samples."""
    return sum(abs(row["predicted"] - row["observed"]) * row["samples"] for row in reliability(truth, probability)) / (
        len(truth)
    )


def reliability(truth: np.ndarray, probability: np.ndarray) -> list[dict[str, float]]:
    """In bins of equal width: mean ``predicted`` probability, ``observed`` share, and number of ``samples``.

    For two classes of class 1, for several of the class that is predicted.
    """
    if probability.shape[1] == 2:
        predicted, came_true = probability[:, 1], truth == 1
    else:
        predicted, came_true = probability.max(axis=1), probability.argmax(axis=1) == truth
    bins = np.minimum((predicted * _BINS).astype(int), _BINS - 1)
    return [
        {
            "predicted": float(predicted[bins == number].mean()),
            "observed": float(came_true[bins == number].mean()),
            "samples": int((bins == number).sum()),
        }
        for number in np.unique(bins)
    ]


def curves_of(
    classes: Sequence[str], class_of: np.ndarray, probability_of: Mapping[str, np.ndarray]
) -> dict[str, Sequence[Mapping[str, object]]]:
    """Tables of every method: calibration, confusion and, for two classes, the ROC curve."""
    curves: dict[str, Sequence[Mapping[str, object]]] = {
        "calibration": [
            {"method": method, **row}
            for method, probability in probability_of.items()
            for row in reliability(class_of, probability)
        ],
        "confusion": [
            {"method": method, **row}
            for method, probability in probability_of.items()
            for row in _confusion(classes, class_of, probability)
        ],
    }
    if len(classes) == 2:
        curves["roc"] = [
            {"method": method, "false_positive_rate": float(x), "true_positive_rate": float(y)}
            for method, probability in probability_of.items()
            for x, y in _roc(class_of, probability)
        ]
    return curves


def _confusion(classes: Sequence[str], class_of: np.ndarray, probability: np.ndarray) -> list[dict[str, object]]:
    counts = confusion_matrix(class_of, probability.argmax(axis=1), labels=list(range(len(classes))))
    return [
        {"actual": classes[actual], "predicted": classes[predicted], "count": int(count)}
        for (actual, predicted), count in np.ndenumerate(counts)
        if count
    ]


def _roc(class_of: np.ndarray, probability: np.ndarray) -> np.ndarray:
    false_positive, true_positive, _ = roc_curve(class_of, probability[:, 1])
    points = np.stack([false_positive, true_positive], axis=1)
    kept = np.unique(np.linspace(0, len(points) - 1, min(_MOST_POINTS, len(points))).astype(int))
    return points[kept]


def _f1(average: str) -> Callable[[np.ndarray, np.ndarray], float]:
    return lambda truth, probability: float(
        f1_score(truth, probability.argmax(axis=1), average=average, zero_division=0)
    )


def _auprc(truth: np.ndarray, probability: np.ndarray) -> float:
    return float(average_precision_score(truth, probability[:, 1])) if len(np.unique(truth)) == 2 else float("nan")


_SCORES: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "weighted_f1": _f1("weighted"),
    "macro_f1": _f1("macro"),
    "accuracy": lambda truth, probability: float(accuracy_score(truth, probability.argmax(axis=1))),
    "auroc": auroc,
    "auprc": _auprc,
    "brier": brier,
    "calibration_error": calibration_error,
}
