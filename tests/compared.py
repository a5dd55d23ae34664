"""The table of a comparison, computed again by scikit-learn from the saved predictions and the truth beside them."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from sklearn import metrics as judge


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "comparison.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def check_table(out: Path, label: str) -> list[dict[str, str]]:
    """Hold every row of the table in `out` against its run's predictions of a label; return the rows."""
    rows = rows_of(out)
    for row in rows:
        submission = out / "predictions" / f"{row['run']}.csv"
        table = pyarrow.parquet.read_table(f"{submission}.predictions.parquet").to_pydict()
        truth_of = dict(csv.reader(Path(f"{submission}.truth.csv").read_text().splitlines()))
        truth = np.array([float(truth_of[f"{image_id}_{label}"]) for image_id in table["image_id"]])
        found, threshold = np.array(table[label]), float(row["threshold"])
        points = json.loads((out / "runs" / row["run"] / "operating_points.json").read_text())
        assert threshold == points["thresholds"][label]
        called = found >= threshold
        (n_tn, n_fp), (n_fn, n_tp) = judge.confusion_matrix(truth, called)
        counts = ("true_negatives", "false_positives", "false_negatives", "true_positives")
        assert [int(row[name]) for name in counts] == [n_tn, n_fp, n_fn, n_tp]
        for average in ("binary", "macro", "micro", "weighted"):
            name = "f1" if average == "binary" else f"f1_{average}"
            assert float(row[name]) == pytest.approx(judge.f1_score(truth, called, average=average), rel=1e-12)
        assert float(row["auc"]) == pytest.approx(judge.roc_auc_score(truth, found), rel=1e-12)
        assert float(row["seconds"]) > 0
    return rows
