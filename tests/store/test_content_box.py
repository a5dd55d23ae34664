"""The NumPy twin itself, against values worked out by hand."""

import numpy as np
import pytest

from rsna_e2e.store.content_box import CONTENT_FROM_HU, content_box, content_threshold_hu
from rsna_e2e.tasks.ich import ICH


@pytest.mark.parametrize(
    ("windows_hu", "threshold_hu"),
    [
        (((40.0, 80.0),), 1),  # lower 0, level 1 at 0.31
        (((40.0, 255.0),), -86),  # lower -87.5, level 1 at -86.5
        (((127.5, 255.0),), 1),  # lower 0, level 1 at exactly 1
        (ICH.inputs.windows_hu, -148),  # (40, 380) is the lowest: -150 + 1.49
    ],
)
def test_content_threshold(windows_hu: tuple[tuple[float, float], ...], threshold_hu: int) -> None:
    assert content_threshold_hu(windows_hu) == threshold_hu


def test_the_content_of_a_store_is_what_the_windows_of_hemorrhage_show() -> None:
    def level(hu: np.ndarray, center: float, width: float) -> np.ndarray:  # LINEAR_EXACT, PS3.3 C.11.2.1.3.2
        return np.floor(255 * (hu - (center - width / 2)) / width)

    hu = np.arange(-2048, 2048)
    is_shown = np.any([level(hu, *window) >= 1 for window in ICH.inputs.windows_hu], axis=0)
    assert hu[is_shown][0] == CONTENT_FROM_HU == content_threshold_hu(ICH.inputs.windows_hu)


def test_content_box_encloses_exactly_what_reaches_grey_level_one() -> None:
    hu = np.full((7, 9), -1000, dtype=np.int16)
    hu[2, 5] = -148
    hu[4, 3] = 60
    hu[6, 8] = -149  # one HU below: not content
    assert content_box(hu, ICH.inputs.windows_hu) == (3, 2, 6, 5)


def test_content_box_of_the_whole_slice_and_of_air() -> None:
    assert content_box(np.zeros((4, 6), dtype=np.int16), ICH.inputs.windows_hu) == (0, 0, 6, 4)
    assert content_box(np.full((4, 6), -1000, dtype=np.int16), ICH.inputs.windows_hu) is None
