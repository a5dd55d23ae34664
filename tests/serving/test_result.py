"""The sentence of a result: what is above its threshold, where, and that it is for research alone."""

import pytest

from rsna_e2e.serving.result import RESEARCH_ONLY, KeySlice, LabelResult, sentence
from rsna_e2e.serving.study_key import study_key

ALONE = {"5e485c6d00000000": 1}
ONE, TWO = {"5e485c6d00000000": 37}, {"5e485c6d00000000": 37, "90ab12cd00000000": 40}


def _label(
    name: str,
    probability: float,
    threshold: float = 0.5,
    *,
    at: int | None = 20,
    series: int = 0,
    n_boxes: int | None = None,
) -> LabelResult:
    return LabelResult(
        name=name,
        level="series" if at is None else "slices",
        probability=probability,
        threshold=threshold,
        is_learned=True,
        above=probability >= threshold,
        key_slices=[] if at is None else [KeySlice(series=[*TWO][series], place=at)],
        n_boxes=n_boxes,
    )


@pytest.mark.parametrize(
    ("labels", "n_slices", "said"),
    [
        (
            [_label("subdural", 0.93), _label("any", 0.4)],
            ONE,
            "Above threshold: subdural (probability 0.93, highest in slice 21 of 37). No other label is above its "
            "threshold.",
        ),
        (
            [_label("subdural", 0.93), _label("any", 0.97, at=0)],
            ONE,
            "Above threshold: any (probability 0.97, highest in slice 1 of 37); subdural (probability 0.93, highest in "
            "slice 21 of 37).",
        ),
        (
            [_label("subdural", 0.1), _label("any", 0.2, at=36)],
            ONE,
            "No label is above its threshold; the highest is any (probability 0.20, highest in slice 37 of 37).",
        ),
        (
            [_label("subdural", 0.3, 0.25), _label("any", 0.4, 0.45)],
            ONE,
            "Above threshold: subdural (probability 0.30, highest in slice 21 of 37). No other label is above its "
            "threshold.",
        ),
        (
            [_label("subdural", 0.25, 0.25)],
            ONE,
            "Above threshold: subdural (probability 0.25, highest in slice 21 of 37).",
        ),
        (
            [_label("any", 0.9, at=3, series=1)],
            TWO,
            "Above threshold: any (probability 0.90, highest in slice 4 of 40 of series 90ab12cd).",
        ),
        (
            [_label("any", 0.1, at=3, series=1)],
            TWO,
            "No label is above its threshold; the highest is any (probability 0.10, highest in slice 4 of 40 of series "
            "90ab12cd).",
        ),
        (
            [_label("any", 0.9, at=0, series=1)],
            {**TWO, [*TWO][1]: 1},
            "Above threshold: any (probability 0.90, highest in series 90ab12cd).",
        ),
        (
            [_label("pe_present", 0.8), _label("negative_exam", 0.2, at=None)],
            ONE,
            "Above threshold: pe present (probability 0.80, highest in slice 21 of 37). No other label is above its "
            "threshold.",
        ),
        (
            [_label("pe_present", 0.1), _label("negative_exam", 0.8, at=None)],
            ONE,
            "Above threshold: negative exam (probability 0.80). No other label is above its threshold.",
        ),
        (
            [_label("pe_present", 0.1), _label("negative_exam", 0.2, at=None)],
            ONE,
            "No label is above its threshold; the highest is negative exam (probability 0.20).",
        ),
        (
            [_label("a", 0.6), _label("b", 0.6, at=1)],
            ONE,
            "Above threshold: a (probability 0.60, highest in slice 21 of 37); b (probability 0.60, highest in slice "
            "2 of 37).",
        ),
        ([_label("a", 1.0)], ONE, "Above threshold: a (probability 1.00, highest in slice 21 of 37)."),
        (
            [_label("opacity", 0.8, at=0, n_boxes=2)],
            ALONE,
            "Above threshold: 2 boxes of opacity (score 0.80).",
        ),
        (
            [_label("opacity", 0.8, at=0, n_boxes=1), _label("lung_mass", 0.3, at=0, n_boxes=0)],
            ALONE,
            "Above threshold: 1 box of opacity (score 0.80). No other label is above its threshold.",
        ),
        (
            [_label("opacity", 0.2, at=0, n_boxes=0), _label("lung_mass", 0.3, at=0, n_boxes=0)],
            ALONE,
            "No box is above its threshold; the highest is of lung mass (score 0.30).",
        ),
        (
            [_label("opacity", 0.0, at=0, n_boxes=0), _label("lung_mass", 0.0, at=0, n_boxes=0)],
            ALONE,
            "No box of opacity or lung mass was found.",
        ),
    ],
)
def test_the_sentence_says_what_is_above_and_where(
    labels: list[LabelResult], n_slices: dict[str, int], said: str
) -> None:
    assert sentence(labels, n_slices) == f"{said} {RESEARCH_ONLY}"


def test_a_study_is_shown_by_digits_that_say_nothing_of_it() -> None:
    assert len({study_key(f"1.2.{n}") for n in range(100)}) == 100
    assert study_key("1.2.3") == study_key("1.2.3")
    assert set(study_key("1.2.3")) <= set("0123456789abcdef")
