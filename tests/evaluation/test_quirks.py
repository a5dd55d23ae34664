"""What the published quirks do, on a store where it can be counted by hand."""

from pathlib import Path

import numpy as np
import pytest
import small

from rsna_e2e.cli.program import main
from rsna_e2e.evaluation.quirks import Quirk, measure_quirks
from rsna_e2e.loader.sampler import series_batches
from rsna_e2e.store import Store


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.make_store(tmp_path_factory.mktemp("quirks")).path


def by_name(store: Store) -> dict[str, Quirk]:
    return {f"{quirk.name}: {quirk.measure}": quirk for quirk in measure_quirks(store, small.config(), n_series=3)}


def only(quirks: dict[str, Quirk], text: str) -> Quirk:
    (found,) = [quirk for name, quirk in quirks.items() if text in name]
    return found


def grey_levels(store: Store) -> tuple[list[float], list[float]]:
    quirks = by_name(store)
    eight_bits, jpeg = (only(quirks, name).published.split(", ") for name in ("cut off", "JPEG"))
    return [float(gap) for gap in eight_bits], [float(gap) for gap in jpeg]


def test_where_there_is_air_less_than_a_grey_level_is_cut_off_and_jpeg_costs_more(tmp_path: Path) -> None:
    eight_bits, jpeg = grey_levels(small.make_store(tmp_path, sides=(48,)))
    assert all(0 < gap < 1 for gap in eight_bits)
    assert sum(jpeg) > 2 * sum(eight_bits)


def test_without_air_the_lowest_value_is_lost(path: Path) -> None:
    lowest_hu = 20  # of tissue in these images
    eight_bits, _ = grey_levels(Store.open(path))
    floors_and_widths = ((0, 80), (-20, 200), (-150, 380))
    lost = [255 * (lowest_hu - floor) / width for floor, width in floors_and_widths]
    assert eight_bits == pytest.approx(lost, abs=1.0)  # and up to a level is cut off


def test_padding_by_hand(path: Path) -> None:
    store = Store.open(path)
    lengths = np.array([span.n_slices for span in store.series if span.split == "train"])
    n_read = sum(4 * lengths[list(b)].max() if len(b) == 4 else len(b) * lengths[list(b)].max()
                 for b in series_batches(6, batch_size=4, seed=small.config().seed, epoch=1))  # fmt: skip
    assert only(by_name(store), "left").published == f"{100 * (1 - 21 / n_read):.1f}%"


def test_reversed_and_scrambled_series_are_counted(path: Path) -> None:
    store = Store.open(path)
    assert only(by_name(store), "x, then y").published.startswith("0, 0; ")
    store.index["ipp_x_mm"] = -store.index["ipp_z_mm"]  # x decides, and falls
    assert only(by_name(store), "x, then y").published.startswith("5, 0; ")  # one series has a single slice
    jitter = np.where(np.arange(len(store)) % 2 == 0, 0.0, 0.1)
    store.index["ipp_x_mm"] = jitter
    assert int(only(by_name(store), "x, then y").published.split(";")[0].split(", ")[1]) >= 4


def test_the_scale_of_single_slices_by_hand(path: Path) -> None:
    store = Store.open(path)
    for corner in ("x0", "y0"):
        store.index[f"content_{corner}"] = np.zeros(len(store))
    for corner in ("x1", "y1"):
        store.index[f"content_{corner}"] = np.where(store.index["slice_index"] == 0, 8, 16)
    ratios = [2.0 if span.n_slices > 1 else 1.0 for span in store.series if span.split == "train"]
    chosen = [ratios[0], ratios[2], ratios[5]]  # three of six, spread evenly
    assert only(by_name(store), "crop").published == f"{np.mean(chosen):.2f}"


def test_the_verb_prints_a_table(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quirks", str(path), "--series", "2", "--set", "image.size=32"]) == 0
    assert "batches padded on the left" in capsys.readouterr().out
