"""What is said of labels that cannot be learned, against counts by hand."""

import numpy as np

from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.label_counts import count_labels

NAN = np.nan

# epidural, intraparenchymal, intraventricular, subarachnoid, subdural, any
LABELS = np.array(
    [
        [0, 1, NAN, 0.25, 0, 1],
        [0, 0, NAN, NAN, 0, 0],
        [NAN, 1, NAN, NAN, 0, 0],  # contradicts itself
        [0, NAN, NAN, 0, 0, NAN],  # any may be either
        [0, 0, NAN, 0.5, 0, 0],  # as well, if probabilities are labels
        [0, 0, NAN, 0, 0, 1],  # a bleed of none of these kinds
    ],
    dtype=np.float32,
)


def test_counts_by_hand() -> None:
    counts = count_labels(LABELS, ICH)
    assert list(counts.known.values()) == [5, 5, 0, 4, 6, 5]
    assert list(counts.positive.values()) == [0, 2, 0, 2, 0, 2]
    assert counts.n_contradictory == 2
    assert counts.unknown == ("intraventricular",)
    assert counts.without_positive == ("epidural", "subdural")
    assert str(counts) == "epidural 0 of 5, intraparenchymal 2 of 5, subarachnoid 2 of 4, subdural 0 of 6, any 2 of 5"


def test_what_cannot_be_learned_is_said() -> None:
    assert count_labels(LABELS, ICH).warnings("the store") == [
        "no slice of the store has a label for intraventricular: a model does not learn these, and its predictions of "
        "them mean nothing",
        "no slice of the store is positive for epidural, subdural: a model only learns to predict 0 for these",
    ]


def test_where_there_are_no_labels_or_all_nothing_is_said() -> None:
    none, full = count_labels(np.full((3, 6), NAN), ICH), count_labels(np.eye(6), ICH)
    assert (none.warnings("the store"), str(none)) == ([], "none")
    assert full.warnings("the store") == []
    assert full.n_contradictory == 5
