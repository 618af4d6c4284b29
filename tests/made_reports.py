"""What a report is made of, small, with names that only somebody who means harm would give."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

HARMFUL = "<script>document.title='taken'</script>"
RUNS = Path(__file__).parent / "compatibility" / "made_by_7aa1c51" / "runs"
METHODS = ["BulkFormer", "rectified Gaussian", "probabilistic PCA", "gene mean"]


def score(method: str, metric: str, value: float | None, half: float | None = None) -> dict[str, Any]:
    low, high = (None, None) if value is None or half is None else (value - half, value + half)
    return {"method": method, "metric": metric, "value": value, "low": low, "high": high}


def made_results(model: str = "s3://user:hunter2@bucket/runs/first/export") -> dict[str, Any]:
    """Results of an evaluation with two tasks and every curve that is known."""
    errors = dict(zip(METHODS, (0.31, 0.33, 0.36, 0.92), strict=True))
    imputation = {
        "task": "imputation",
        "subject": "",
        "facts": {"profiles": 120, "studies": 5, "mask_rate": 0.15, "intervals": "Student's t over studies"},
        "baselines": METHODS[1:],
        "verdict": "the error (MSE) of BulkFormer is under that of gene mean: 95 % intervals of paired differences",
        "scores": [
            *(score(method, "mse", error, 0.05) for method, error in errors.items()),
            *(score(method, "pearson", 1 - error, 0.04) for method, error in errors.items()),
            *(score(method, "pearson_per_gene_mean", None) for method in METHODS),
            *(score(METHODS[0], f"mse_minus_{name}", 0.31 - errors[name], 0.03) for name in METHODS[1:]),
        ],
        "by_study": [
            {"study": study, "profiles": 24, "method": method, "pearson": 0.9, "mse": 0.3}
            for study in ("GSE1", HARMFUL) for method in METHODS
        ],
        "curves": {
            "mask_rates": [
                {"mask_rate": rate, "method": method, "mse": errors[method] * (1 + rate), "pearson": 0.9 - rate / 3}
                for method in METHODS for rate in (0.05, 0.15, 0.5)
            ],
            "expression_levels": [
                {"from": level, "to": level + 1, "genes": 400, "method": method, "mse": errors[method] / (level + 1)}
                for level in range(5) for method in METHODS
            ],
        },
    }  # fmt: skip
    shares = np.linspace(0, 1, 12)
    classes = ["liver", HARMFUL, "brain & nerve"]
    classification = {
        "task": "classification",
        "subject": HARMFUL,
        "facts": {"samples": 90, "classes": dict.fromkeys(classes, 30), "folds": "5 folds of whole studies",
                  "leak_audit": "BulkFormer: 4 of 90 profiles were trained on"},
        "baselines": ["raw expression -> logistic regression"],
        "audit": [{"model": "BulkFormer", "scored": 90, "same_profile": 4}],
        "scores": [
            score("BulkFormer -> logistic regression", "accuracy", 0.91, 0.05),
            score("raw expression -> logistic regression", "accuracy", 0.89, 0.06),
            score("BulkFormer -> logistic regression", "auroc", 0.97, 0.02),
            score("raw expression -> logistic regression", "auroc", 0.96, 0.02),
        ],
        "curves": {
            "roc": [
                {"method": method, "false_positive_rate": share, "true_positive_rate": share**power}
                for method, power in (("BulkFormer", 0.3), ("raw expression", 0.5)) for share in shares.tolist()
            ],
            "calibration": [
                {"method": "BulkFormer", "predicted": share, "observed": share**1.2} for share in shares.tolist()
            ],
            "confusion": [
                {"method": "BulkFormer", "actual": one, "predicted": other, "count": 25 if one == other else 3}
                for one in classes for other in classes
            ],
            "kaplan_meier": [
                {"method": "BulkFormer", "group": group, "time": time, "survival": np.exp(-rate * time), "low": None}
                for group, rate in (("low risk", 0.0004), ("high risk", 0.0013)) for time in range(0, 2000, 200)
            ],
            "learning_curve": [
                {"method": method, "share": share, "training_samples": 80 * share, "weighted_f1": 0.5 + share / 3,
                 "weighted_f1_low": 0.4, "weighted_f1_high": 0.9}
                for method in ("BulkFormer", "raw expression") for share in (0.1, 0.5, 1.0)
            ],
            "c_index_by_study": [
                {"study": study, "profiles": 30, "events": events, "median_time": 400.0, "BulkFormer": 0.6, "age": c}
                for study, events, c in (("GSE1", 4, None), (HARMFUL, 19, 0.55))
            ],
            "something_new": [{"what": HARMFUL, "value": 1.5}],
        },
    }  # fmt: skip
    about = {"bulkformer.model": model, "bulkformer.model_sha256": "ab" * 32, "bulkformer.corpus": "s3://bucket/corpus"}
    settings = {"seed": 0, "api_token": "do-not-show", "tracking": {"experiment": "evaluation"}}
    return {"about": about, "settings": settings, "results": [imputation, classification]}


def made_scaling() -> dict[str, Any]:
    sizes = [("1e6", 0.4), ("4e6", 0.33), ("16e6", 0.29), ("64e6", 0.265)]
    points = [
        {"parameters": float(size), "profiles": profiles, "loss": loss + 10 / profiles}
        for size, loss in sizes for profiles in (500.0, 2000.0)
    ]  # fmt: skip
    interval = {"value": 0.2, "low": 0.1, "high": 0.3}
    bounds = {"slope": [-0.12, -0.08], "intercept": None}
    unbounded = {"value": 12.0, "low": None, "high": None}
    return {
        "points": len(points), "points_table": points,
        "log_log": {"slope": -0.1, "intercept": -0.4, "r2": 0.97, "intervals": bounds},
        "power_law": {"E": interval, "A": unbounded, "a": interval, "B": {"value": None}},
        "identifiable": {"B": "two amounts of profiles do not tell it"},
        "largest_size": {"parameters": 6.4e7, "relative_error": 0.03}, "compute_optimal": None,
    }  # fmt: skip


def write_json(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(json.dumps(content))
    return path


def write_embeddings(path: Path, sample_ids: list[str], width: int = 16, seed: int = 0) -> Path:
    values = np.random.default_rng(seed).normal(size=(len(sample_ids), width)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), width)
    pq.write_table(pa.table({"sample_id": sample_ids, "embedding": column}), path)
    return path
