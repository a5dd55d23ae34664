"""Order in space: tilted and reversed series, strangers, duplicates and ties."""

import time

import numpy as np
import phantoms
import pytest

from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import SliceRecord
from rsna_e2e.store.series_order import SeriesMembers, SeriesOrder, Volume, order_series, slice_normal

ROUNDING = 1e-9  # mm; float64 on coordinates of some hundred mm


def record(
    *,
    position: tuple[float, float, float],
    orientation: tuple[float, ...] = phantoms.AXIAL,
    sop_uid: str = "",
    image_id: str = "",
    series_uid: str = "s",
    patient_id: str = "p",
) -> SliceRecord:
    name = "{:.3f}_{:.3f}_{:.3f}".format(*position)
    a, b, c, d, e, f = orientation
    return SliceRecord(
        image_id=image_id or name,
        patient_id=patient_id,
        study_uid="study",
        series_uid=series_uid,
        sop_uid=sop_uid or name,
        rows=16,
        columns=16,
        image_position_mm=position,
        image_orientation=(a, b, c, d, e, f),
        pixel_spacing_mm=(0.5, 0.5),
        slope=1.0,
        intercept=0.0,
        bits_stored=16,
        pixel_representation=1,
        window_center_hu=None,
        window_width_hu=None,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
    )


def in_order(records: list[SliceRecord]) -> SeriesOrder:
    return order_series(
        SeriesMembers(
            [r.sop_uid for r in records],
            [r.image_id for r in records],
            np.array([r.image_position_mm for r in records]),
            np.array([r.image_orientation for r in records]),
        )
    )


def only(order: SeriesOrder) -> Volume:
    (volume,) = order.volumes
    return volume


def stack(orientation: tuple[float, ...] = phantoms.AXIAL, n: int = 6) -> list[SliceRecord]:
    """Slices 5 mm apart along z, feet first."""
    return [record(position=(-120.0, -100.0, 5.0 * i), orientation=orientation) for i in range(n)]


@pytest.mark.parametrize("orientation", [phantoms.AXIAL, phantoms.TILTED, phantoms.REVERSED])
@pytest.mark.parametrize("seed", range(3))
def test_slices_come_feet_first_however_files_and_columns_run(orientation: tuple[float, ...], seed: int) -> None:
    shuffled = [stack(orientation)[i] for i in np.random.default_rng(seed).permutation(6)]
    order = in_order(shuffled)
    assert [shuffled[i].image_position_mm[2] for i in only(order).rows] == [0.0, 5.0, 10.0, 15.0, 20.0, 25.0]
    assert order.refused == ()


def test_positions_are_measured_along_the_normal_of_a_tilted_series() -> None:
    order = in_order(stack((1.0, 0.0, 0.0, 0.0, 0.8, -0.6)))
    # Normal (0, 0.6, 0.8) by hand; y = -100 everywhere, z = 5 i.
    np.testing.assert_allclose(only(order).position_mm, -60.0 + 0.8 * 5.0 * np.arange(6), atol=ROUNDING, rtol=0)


def test_drifting_x_and_y_do_not_scramble_the_order() -> None:
    drift = np.random.default_rng(3).normal(0, 2, size=(20, 2))
    records = [record(position=(float(x), float(y), float(z))) for z, (x, y) in enumerate(drift)]
    assert only(in_order(records)).rows.tolist() == list(range(20))


@pytest.mark.parametrize(
    ("orientation", "normal"),
    [
        ((1, 0, 0, 0, 1, 0), (0, 0, 1)),
        ((1, 0, 0, 0, -1, 0), (0, 0, 1)),
        ((0, 1, 0, 0, 0, -1), (1, 0, 0)),  # sagittal
        ((1, 0, 0, 0, 0, -1), (0, 1, 0)),  # coronal
        ((1, 0, 0, 0, 0.8, -0.6), (0, 0.6, 0.8)),
        ((-1, 0, 0, 0, 0.8, -0.6), (0, 0.6, 0.8)),
    ],
)
def test_normal_points_one_way(orientation: tuple[float, ...], normal: tuple[float, ...]) -> None:
    np.testing.assert_allclose(slice_normal(orientation), normal, atol=ROUNDING, rtol=0)


def test_slices_of_another_orientation_are_refused_and_the_rest_kept() -> None:
    records = stack()
    records.insert(2, record(position=(0.0, 0.0, 7.0), orientation=(0, 1, 0, 0, 0, -1)))
    order = in_order(records)
    assert [(i, reason) for i, reason, _ in order.refused] == [(2, Reason.MIXED_ORIENTATION)]
    assert only(order).rows.tolist() == [0, 1, 3, 4, 5, 6]


def test_digits_lost_in_direction_cosines_make_no_other_orientation() -> None:
    records = [
        record(position=(0.0, 0.0, float(i)), orientation=(1, 0, 0, 0, 0.97 + 0.001 * i, -0.24)) for i in range(4)
    ]
    assert only(in_order(records)).rows.tolist() == [0, 1, 2, 3]


def test_of_one_instance_in_two_files_the_first_by_name_stays() -> None:
    records = [*stack(), record(position=(-120.0, -100.0, 5.0), sop_uid=stack()[1].sop_uid, image_id="!")]
    order = in_order(records)
    assert [(i, reason) for i, reason, _ in order.refused] == [(1, Reason.DUPLICATE_SOP_UID)]
    assert only(order).rows.tolist() == [0, 6, 2, 3, 4, 5]


def test_of_two_slices_at_one_position_one_stays_whatever_the_order_of_files() -> None:
    records = [*stack(), record(position=(-120.0, -100.0, 10.0), sop_uid="zzz")]
    for seed in range(5):
        shuffled = [records[i] for i in np.random.default_rng(seed).permutation(7)]
        order = in_order(shuffled)
        assert [(shuffled[i].sop_uid, reason) for i, reason, _ in order.refused] == [("zzz", Reason.SAME_POSITION)]
        assert len(only(order).rows) == 6


@pytest.mark.parametrize("n", [400, 1000])
def test_long_series_are_ordered_at_once(n: int) -> None:
    rng = np.random.default_rng(n)
    files = rng.permutation(n)
    place_N3 = np.stack([np.full(n, -120.0), np.full(n, -100.0), 0.3 * files], axis=1)
    members = SeriesMembers(
        [f"1.2.{rng.integers(1 << 40)}" for _ in files],
        [f"ID_{i}" for i in files],
        place_N3,
        np.tile(np.array(phantoms.TILTED), (n, 1)),
    )
    began_s = time.process_time()
    order = order_series(members)
    assert time.process_time() - began_s < 0.1  # measured: 2 ms
    assert files[only(order).rows].tolist() == list(range(n))
    assert order.refused == ()


def test_a_series_of_one_slice() -> None:
    order = in_order([record(position=(1.0, 2.0, 3.0))])
    assert (only(order).rows.tolist(), only(order).position_mm.tolist(), order.refused) == ([0], [3.0], ())
