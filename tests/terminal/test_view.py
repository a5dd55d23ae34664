"""What is looked at and what is said of it, worked out by hand."""

from dataclasses import replace

import consoles
import numpy as np
import pytest

from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.evaluation.report.thumbnails import windowed
from rsna_e2e.loader.present import shown_slice
from rsna_e2e.serving.result import LabelResult
from rsna_e2e.store import Store
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.pe import PE
from rsna_e2e.tasks.pneumonia import PNEUMONIA
from rsna_e2e.tasks.windows import named_windows
from rsna_e2e.terminal.patients import Study
from rsna_e2e.terminal.picture import half_blocks, plain_picture
from rsna_e2e.terminal.session import Answer, Session
from rsna_e2e.terminal.texts import columns_of, label_lines, strip, true_columns, truth_word
from rsna_e2e.terminal.view import View, best_place, frame

NAN = float("nan")


@pytest.fixture(scope="module")
def session(made: consoles.Made) -> Session:
    """Without a model."""
    return Session(store=Store.open(made.store), task=ICH, models=[])


def _study(session: Session, patient: str = consoles.PATIENT) -> Study:
    (study,) = (study for study in session.studies if study.patient == patient)
    return study


def test_a_strip_has_a_column_for_each_slice_or_several_in_one() -> None:
    assert columns_of(3, 10).tolist() == [0, 1, 2]
    assert columns_of(7, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert strip(np.array([0.0, 0.125, 0.5, 1.0]), 10) == " ▁▄█"
    assert strip(np.array([0.0, 0.5, 0.25, 0.0, 0.0, 1.0]), 3) == "▄▂█"
    assert true_columns(np.array([0, 1, NAN, 0, 0, 0]), 3) == [True, False, False]
    assert len(strip(np.full(1000, 0.3), 31)) == 31


@pytest.mark.parametrize(("truth", "word"), [(1.0, "yes"), (0.0, "no"), (NAN, "unknown")])
def test_truth_in_a_word(truth: float, word: str) -> None:
    assert truth_word(truth) == word


@pytest.mark.parametrize(
    ("labels", "expected"), [([0, 0, 1], 1.0), ([0, NAN, 1], 1.0), ([0, 0, 0], 0.0), ([0, NAN, 0], NAN)]
)
def test_a_study_has_what_one_of_its_slices_has(labels: list[float], expected: float, session: Session) -> None:
    study = _study(session)
    rows = study.spans[0].rows
    before = session.store.labels.copy()
    try:
        session.store.labels[rows, 2] = 0
        session.store.labels[rows.start : rows.start + 3, 2] = labels
        np.testing.assert_equal(session.truth(study, ("slice", 2)), expected)
    finally:
        session.store.labels[:] = before


def test_keys_move_the_view(session: Session) -> None:
    first = View.first(session, _study(session).spans[0])
    assert (first.place, first.label, first.window, first.model) == (3, ICH.headline_index, "brain", 0)
    assert [first.at(place).place for place in (-5, 0, 5, 99)] == [0, 0, 5, 5]
    assert [first.of_label(number, 6).label for number in (0, 5, 6, -1)] == [0, 5, first.label, first.label]
    windows = [first]
    for _ in named_windows(ICH):
        windows.append(windows[-1].next_window(session))
    assert [view.window for view in windows] == [*named_windows(ICH), "brain"]
    assert [first.next_model(n).model for n in (0, 1, 2)] == [0, 0, 1]
    assert replace(first, model=1).next_model(2).model == 0
    assert first.mapped_by(2) == ()
    assert replace(first, has_map=True, model=1).mapped_by(2) == (1,)
    assert replace(first, is_overlay=True, has_map=True).mapped_by(2) == (0, 1)
    assert replace(first, has_map=True).mapped_by(0) == ()


def test_the_best_slice_is_the_most_probable() -> None:
    probability = np.array([[0.1, 0.9], [0.3, 0.2], [0.2, 0.4]])
    assert [best_place(probability, label, 1) for label in (("slice", 0), ("slice", 1), ("series", 7))] == [1, 0, 0]


def test_a_frame_is_the_slice_in_its_window(session: Session) -> None:
    span = _study(session).spans[0]
    view = View.first(session, span).at(1).next_window(session)
    found = frame(session, span, view, (), side=24)
    hu = shown_slice(session.store, span.first_row + 1)
    expected = windowed(hu, [named_windows(ICH)[view.window]], side=24)[0]
    np.testing.assert_array_equal(found.grey, expected)
    upper, lower = half_blocks(found.picture())
    np.testing.assert_array_equal(upper[..., 0], np.rint(255 * expected[0::2]))
    np.testing.assert_array_equal(lower[..., 2], np.rint(255 * expected[1::2]))
    np.testing.assert_array_equal(found.picture(), plain_picture(expected))
    assert [len(line) for line in found.characters()] == [24] * 12


def test_labels_have_numbers_and_strips(session: Session) -> None:
    study = _study(session)
    span = study.spans[0]
    labels = [
        LabelResult(
            name=name, level="slices", probability=0.625, threshold=0.1 * number + 0.3, is_learned=True,
            above=number < 4, key_slices=[],
        )
        for number, name in enumerate(ICH.slices.names)
    ]  # fmt: skip
    probability = np.tile(np.array([0.0, 0.25, 0.5, 0.625, 0.0, 0.0])[:, None], (1, 6))

    class Said:
        def __init__(self) -> None:
            self.labels = labels

    answer = Answer(result=Said(), slices={span.series_key: probability})  # type: ignore[arg-type]
    lines = label_lines(session, study, span, answer, View.first(session, span).at(5), width=3)
    truth = session.truth_of_slices(span)
    assert [line.name for line in lines] == list(ICH.slices.names)
    assert [line.key for line in lines] == list("123456")
    assert {line.bars for line in lines} == {"▂▅ "}
    assert {line.cursor for line in lines} == {2}
    for column, line in enumerate(lines):
        of_slices = truth[:, column].reshape(3, 2).max(axis=1) == 1
        assert line.is_true == tuple(of_slices)
        sign = ">" if column < 4 else "<"
        assert line.numbers == f" 0.62 {sign} {0.1 * column + 0.3:.2f}  {'yes' if of_slices.any() else 'no'}"
        assert line.is_chosen == (column == ICH.headline_index)
        assert line.is_above == (column < 4)


def test_without_an_answer_strips_are_of_the_truth(session: Session) -> None:
    study = _study(session)
    lines = label_lines(session, study, study.spans[0], None, View.first(session, study.spans[0]), width=10)
    for column, line in enumerate(lines):
        expected = "".join(" █"[int(x)] for x in session.truth_of_slices(study.spans[0])[:, column])
        assert (line.bars, line.numbers.split()[:2]) == (expected, ["-", "-"])


def test_a_store_of_something_else_is_refused(made: consoles.Made) -> None:
    store = Store.open(made.store)
    with pytest.raises(UsageError, match="holds Hounsfield units of CT, and task pneumonia is for radiographs"):
        Session(store=store, task=PNEUMONIA, models=[])
    with pytest.raises(BadInputError, match="are not those of task pe"):
        Session(store=store, task=PE, models=[])
