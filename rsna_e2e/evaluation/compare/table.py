"""The table of a comparison, from the saved predictions of its runs alone."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsna_e2e.evaluation.compare.run import submission_of
from rsna_e2e.evaluation.evaluate import evaluate
from rsna_e2e.evaluation.levels import decisions_row, plain
from rsna_e2e.evaluation.scores import Evaluation
from rsna_e2e.inference.predictions import beside
from rsna_e2e.tasks.metrics import DECISION_THRESHOLD, Decisions, LabelDecisions
from rsna_e2e.tasks.task import Task


@dataclass(frozen=True, slots=True)
class Compared:
    """A run, what is known of it, and the evaluation of its predictions."""

    facts: Mapping[str, Any]
    evaluation: Evaluation

    @property
    def threshold(self) -> float:
        """The probability from which on the headline is called present."""
        return float(self.facts["thresholds"].get(self.evaluation.task.headline, DECISION_THRESHOLD))

    def row(self) -> dict[str, Any]:
        """Return its line of the table: counts and scores of the headline over slices, and what it took."""
        task, slices = self.evaluation.task, self.evaluation.slices
        label = task.headline_index
        scores, (truth_N, probability_N) = slices.scores[label], slices.known(label)
        thresholds = [float(self.facts["thresholds"].get(name, DECISION_THRESHOLD)) for name in slices.names]
        every = LabelDecisions.of(slices.truth, slices.probability, thresholds)
        return {
            "run": self.facts["name"],
            "n": scores.n,
            "n_positive": scores.n_positive,
            "threshold": self.threshold,
            **decisions_row(Decisions.of(truth_N, probability_N, threshold=self.threshold)),
            "auc": plain(scores.auc.value),
            "auc_low": plain(scores.auc.low),
            "auc_high": plain(scores.auc.high),
            "log_loss": plain(self.evaluation.weighted_log_loss.value),
            "labels_cell_accuracy": plain(every.cell_accuracy),
            "labels_f1_macro": plain(every.f1_macro),
            "labels_f1_micro": plain(every.f1_micro),
            "labels_f1_weighted": plain(every.f1_weighted),
            "epoch": self.facts["epoch"],
            "seconds": round(self.facts["seconds"], 1),
            "weights": self.facts["n_weights"],
            "learned": self.facts["n_learned"],
        }


def score_runs(out: Path, facts: Sequence[Mapping[str, Any]], task: Task, *, seed: int = 0) -> list[Compared]:
    """Score the predictions that the runs of a comparison left in the folder `out`.

    Each is scored against the truth that stands beside it, with intervals by resampling series; thresholds are those
    that its run chose on its held-out fold. Raises what `evaluate` raises.
    """
    compared = []
    for one in facts:
        submission = submission_of(out, one["folder"])
        truth = beside(submission, "truth.csv")
        compared.append(Compared(one, evaluate(submission, truth, task=task, allow_missing=True, seed=seed)))
    return compared


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table as CSV; an undefined number leaves its field empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
