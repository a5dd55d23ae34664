"""Whole series with planted defects, from files to store: what is kept, in which order, what is refused and reported.

The policy is the table of docs/series.md.
"""

# z: position along the patient's axis towards the head, mm

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import phantoms
import pyarrow.parquet as pq
import pytest
import small
import torch

from rsna_e2e.core.limits import FARTHEST_MM
from rsna_e2e.loader.image_loader import ImageLoader
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import PrepareReport, prepare
from rsna_e2e.store.series_order import SAME_POSITION_MM, SeriesGeometry, series_geometry
from rsna_e2e.tasks.ich import ICH

CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
GANTRY_TILT = (1.0, 0.0, 0.0, 0.0, 0.968, -0.25)  # as in files of 2019; 14.5 degrees

Step = tuple[float, ...]


class SeriesFiles:
    """Writes the slices of one series, one call each; file names and UIDs say nothing of the order."""

    def __init__(self, folder: Path, name: str, *, study: str = "") -> None:
        self.folder, self.name, self.study = folder, name, study or name
        self.hu: dict[str, np.ndarray] = {}
        self._rng = np.random.default_rng(sum(name.encode()))

    def add(self, ipp: Sequence[float], orientation: Step = phantoms.AXIAL, *, side: int = 8, **tags: object) -> str:
        """Write a slice and return its image id."""
        number = int(self._rng.integers(1 << 40))
        image_id = f"ID_{self.name}_{number:011x}"
        stored = phantoms.stored_image(side, side, seed=number, form=phantoms.SIGNED_16)
        dataset = phantoms.slice_dataset(
            stored,
            **{
                "SOPInstanceUID": f"1.2.3.{number}",
                "PatientID": f"ID_{self.study}",
                "StudyInstanceUID": f"1.2.4.{sum(self.study.encode())}",
                "SeriesInstanceUID": f"1.2.5.{sum(self.name.encode())}",
                "ImagePositionPatient": [float(v) for v in ipp],
                "ImageOrientationPatient": list(orientation),
                **tags,
            },
        )
        phantoms.write_dicom(self.folder / f"{image_id}.dcm", dataset)
        self.hu[image_id] = stored.astype(np.int64)
        return image_id

    def stack(self, heights_mm: Sequence[float], orientation: Step = phantoms.AXIAL, **tags: object) -> None:
        """Write slices along z, from the last to the first."""
        for z in reversed(heights_mm):
            self.add((-60.0, -60.0, z), orientation, **tags)

    def copy(self, image_id: str, name: str, **tags: object) -> None:
        """Write a slice again, with other tags."""
        dataset = phantoms.read(self.folder / f"{image_id}.dcm")
        for keyword, value in tags.items():
            setattr(dataset, keyword, value)
        dataset.save_as(self.folder / f"{name}.dcm")


@dataclass(frozen=True)
class Case:
    """A series, where its slices lie in the end, what is refused of it, and what its geometry is reported to be."""

    write: Callable[[SeriesFiles], None]
    z_mm: Sequence[float]
    refused: dict[str, int]
    reported: dict[str, object]


def _steps(n: int, step_mm: float = 5.0) -> list[float]:
    return [step_mm * i for i in range(n)]


def _reversed_acquisition(files: SeriesFiles) -> None:
    for z in _steps(6):  # InstanceNumber runs against z
        files.add((-60.0, -60.0, z), phantoms.REVERSED, InstanceNumber=str(100 - int(z)))


def _drifting(files: SeriesFiles) -> None:
    rng = np.random.default_rng(5)
    for z in _steps(20, 2.5):
        files.add((*rng.normal(-60.0, 3.0, 2), z + rng.uniform(-0.1, 0.1)))


def _coronal(files: SeriesFiles) -> None:
    for y in (40.0, 10.0, 30.0, 20.0):
        files.add((-60.0, y, 60.0), CORONAL)


def _localizers(files: SeriesFiles) -> None:
    files.stack(_steps(5))
    files.add((-60.0, 0.0, 200.0), CORONAL)
    files.add((0.0, -60.0, 200.0), (0.0, 1.0, 0.0, 0.0, 0.0, -1.0))
    files.add((-60.0, -60.0, 99.0), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])


def _two_orientations(files: SeriesFiles) -> None:
    files.stack(_steps(6))
    for y in (0.0, 5.0, 10.0, 15.0):
        files.add((-60.0, y, 60.0), CORONAL)


def _same_bytes(files: SeriesFiles) -> None:
    files.stack(_steps(5))
    files.copy(list(files.hu)[1], "ID_zz_copy")
    files.copy(list(files.hu)[1], "ID_zz_copy2")


def _other_pixels(files: SeriesFiles) -> None:
    files.stack(_steps(5))
    files.copy(list(files.hu)[2], "ID_zz_other", PixelData=bytes(128))  # z = 10


def _other_place(files: SeriesFiles) -> None:
    files.stack(_steps(5))
    files.copy(next(iter(files.hu)), "ID_zz_moved", ImagePositionPatient=[-60.0, -60.0, 22.5])  # z = 20


def _same_place(files: SeriesFiles) -> None:
    files.stack(_steps(5))
    files.add((-60.0, -60.0, 10.0), SOPInstanceUID="1.2.9")  # comes after 1.2.3... by name
    files.add((-60.0, -60.0, 10.004), SOPInstanceUID="1.2.9.1")  # nearer than any two slices


def _mixed_pixels(files: SeriesFiles) -> None:
    files.stack(_steps(3))
    files.stack([15.0, 20.0], PixelSpacing=[0.4, 0.4])


def _mixed_sizes(files: SeriesFiles) -> None:
    files.stack(_steps(3), side=8)
    files.stack([15.0, 20.0], side=12)


EVEN = {"n_gaps": 0, "n_missing": 0, "is_uneven": False, "is_tilted": False, "spacing_mm": 5.0}
CASES = {
    "reversed": Case(_reversed_acquisition, _steps(6), {}, EVEN),
    "tilted": Case(
        lambda files: files.stack(_steps(6), GANTRY_TILT),
        _steps(6),
        {},
        EVEN | {"is_tilted": True, "spacing_mm": 4.841, "tilt_deg": 14.48, "shear_deg": 14.48},  # 5 cos 14.48 degrees
    ),
    "drifting": Case(_drifting, _steps(20, 2.5), {}, {"n_gaps": 0, "shear_deg": 0.0}),
    "coronal": Case(_coronal, [60.0] * 4, {}, EVEN | {"spacing_mm": 10.0, "tilt_deg": 0.0}),
    "localizers": Case(_localizers, _steps(5), {"mixed_orientation": 2, "localizer": 1}, EVEN),
    "orientations": Case(_two_orientations, _steps(6), {"mixed_orientation": 4}, EVEN),
    "same_bytes": Case(_same_bytes, _steps(5), {"duplicate_sop_uid": 2}, EVEN),
    "other_pixels": Case(
        _other_pixels, [0.0, 5.0, 15.0, 20.0], {"conflicting_sop_uid": 2}, EVEN | {"n_gaps": 1, "n_missing": 1}
    ),
    "other_place": Case(_other_place, [0.0, 5.0, 10.0, 15.0], {"conflicting_sop_uid": 2}, EVEN),
    "same_place": Case(_same_place, _steps(5), {"same_position": 2}, EVEN),
    "gaps": Case(
        lambda files: files.stack([0.0, 5.0, 15.0, 20.0, 25.0, 45.0, 50.0]),  # 10, and 30 to 40, are missing
        [0.0, 5.0, 15.0, 20.0, 25.0, 45.0, 50.0],
        {},
        EVEN | {"n_gaps": 2, "n_missing": 4},
    ),
    "two_spacings": Case(
        lambda files: files.stack([*_steps(12, 2.5), 32.5, 37.5, 42.5, 47.5]),
        [*_steps(12, 2.5), 32.5, 37.5, 42.5, 47.5],
        {},
        {"n_gaps": 0, "n_missing": 0, "is_uneven": True, "spacing_mm": 2.5},
    ),
    "mixed_pixels": Case(_mixed_pixels, _steps(5), {}, EVEN | {"has_mixed_pixels": True}),
    "mixed_sizes": Case(_mixed_sizes, _steps(5), {}, EVEN | {"has_mixed_sizes": True}),
    "single": Case(lambda files: files.stack([7.0]), [7.0], {}, {"n_gaps": 0, "is_tilted": False}),
    "long": Case(lambda files: files.stack(_steps(400, 0.5), side=4), _steps(400, 0.5), {}, EVEN | {"spacing_mm": 0.5}),
}
REPORTED = {
    "tilted": 1,
    "with_gaps": 2,
    "missing_slices": 5,
    "uneven_spacing": 1,
    "mixed_sizes": 1,
    "mixed_pixel_spacing": 1,
    "of_one_slice": 1,
}


@dataclass(frozen=True)
class Prepared:
    """All cases in one store."""

    store: Store
    report: PrepareReport
    hu: dict[str, np.ndarray]
    raw: Path


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("geometry")
    hu: dict[str, np.ndarray] = {}
    for name, case in CASES.items():
        files = SeriesFiles(folder / "raw" / name, name)
        case.write(files)
        hu |= files.hu
    report = prepare(folder / "raw", folder / "store", task=ICH, n_jobs=1)
    return Prepared(Store.open(folder / "store"), report, hu, folder / "raw")


def rows_of_case(store: Store, name: str) -> slice:
    (span,) = (span for span in store.series if span.patient_id == f"ID_{name}")
    return span.rows


@pytest.mark.parametrize("name", CASES)
def test_what_is_kept_and_in_which_order(prepared: Prepared, name: str) -> None:
    index, case = prepared.store.index, CASES[name]
    rows = rows_of_case(prepared.store, name)
    heights = index["ipp_z_mm"][rows]
    np.testing.assert_allclose(heights, case.z_mm, atol=0.1 if name == "drifting" else 0, rtol=0)
    assert (np.diff(index["position_mm"][rows]) > 0).all()
    refusals = pq.read_table(prepared.store.path / "refusals.parquet").to_pylist()
    assert dict(Counter(r["reason"] for r in refusals if r["path"].startswith(f"{name}/"))) == case.refused


def test_coronal_slices_run_from_front_to_back(prepared: Prepared) -> None:
    rows = rows_of_case(prepared.store, "coronal")
    assert prepared.store.index["ipp_y_mm"][rows].tolist() == [10.0, 20.0, 30.0, 40.0]


@pytest.mark.parametrize("name", CASES)
def test_every_pixel_of_every_kept_slice(prepared: Prepared, name: str) -> None:
    rows = rows_of_case(prepared.store, name)
    for row in range(rows.start, rows.stop):
        image_id = prepared.store.index["image_id"][row]
        np.testing.assert_array_equal(prepared.store.read_slice(row), prepared.hu[image_id])


def test_nothing_is_lost_without_a_reason(prepared: Prepared) -> None:
    n_files = sum(path.is_file() for path in prepared.raw.rglob("*"))
    assert n_files == len(prepared.store) + sum(prepared.report.refusals.values())
    assert prepared.report.refusals == dict(sum((Counter(case.refused) for case in CASES.values()), Counter()))


@pytest.mark.parametrize("name", CASES)
def test_what_is_unusual_is_found_in_the_index(prepared: Prepared, name: str) -> None:
    found = series_geometry(prepared.store.index, rows_of_case(prepared.store, name))
    plain = {"has_mixed_sizes": False, "has_mixed_pixels": False}
    for key, expected in (plain | CASES[name].reported).items():
        assert getattr(found, key) == pytest.approx(expected, abs=0.02), key  # mm or degrees, written by hand


def test_the_report_counts_what_is_unusual(prepared: Prepared) -> None:
    assert prepared.report.geometry == REPORTED


def test_the_store_does_not_depend_on_where_files_lie(prepared: Prepared, tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    for path in rng.permutation(sorted(path for path in prepared.raw.rglob("*") if path.is_file())):
        folder = tmp_path / "raw" / f"{rng.integers(7)}" / f"{rng.integers(1 << 30)}"
        folder.mkdir(parents=True)
        shutil.copy(path, folder)
    report = prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1)
    assert report.data_hash == prepared.report.data_hash
    assert report.refusals == prepared.report.refusals


def test_two_series_of_a_study_stay_apart(tmp_path: Path) -> None:
    for name in ("one", "two"):  # same study, same places
        SeriesFiles(tmp_path / "raw", name, study="both").stack(_steps(4))
    report = prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1)
    store = Store.open(tmp_path / "store")
    assert [span.n_slices for span in store.series] == [4, 4]
    assert len({span.series_uid for span in store.series}) == 2
    assert len({span.study_uid for span in store.series}) == 1
    assert (report.refusals, report.n_patients) == ({}, 1)


def test_slices_of_another_matrix_show_the_same_picture_at_the_same_place(tmp_path: Path) -> None:
    small_disc = _disc(64)
    large_disc = np.kron(small_disc, np.ones((2, 2), dtype=np.int16))
    store = small.make_store_of(tmp_path, [[small_disc, large_disc, small_disc], [small_disc] * 3])
    config = small.config("image.size=32", "loader.backend=torch")
    loader = ImageLoader(store, config, task=ICH, device=torch.device("cpu"), dtype=torch.float32)
    (mixed,), (plain,) = (list(loader.load([(position,)], epoch=None)) for position in (0, 1))
    assert torch.equal(mixed.images[[0, 2]], plain.images[[0, 2]])
    difference = (mixed.images[1] - plain.images[1]).abs()
    assert float(difference.max()) < 0.5 * float(plain.images.max() - plain.images.min())  # at the rim, half a pixel
    assert float(difference.mean()) < 0.05  # of images with a standard deviation of 1


def _disc(side: int) -> np.ndarray:
    """A disc off the centre."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    return np.where((x - 0.4) ** 2 + (y - 0.55) ** 2 < 0.25**2, 60, -1000).astype(np.int16)


def index_of(z_mm: Sequence[float], **columns: float) -> dict[str, np.ndarray]:
    """Columns of an index for axial slices at these places."""
    n = len(z_mm)
    plain = {"ipp_x_mm": 0.0, "ipp_y_mm": 0.0, "rows": 8, "columns": 8, "spacing_row_mm": 1, "spacing_column_mm": 1}
    plain |= {f"iop_{way}_{axis}": 0.0 for way in ("row", "column") for axis in "xyz"}
    plain |= {"iop_row_x": 1.0, "iop_column_y": 1.0} | columns
    index = {name: np.full(n, value) for name, value in plain.items()}
    return index | {"position_mm": np.array(z_mm), "ipp_z_mm": np.array(z_mm)}


def geometry(z_mm: Sequence[float]) -> SeriesGeometry:
    return series_geometry(index_of(z_mm), slice(0, len(z_mm)))


@pytest.mark.parametrize(
    "z_mm", [[0, 0.1, 0.2, 1e308], [-1e308, 0, 5, 1e308], [0, 1e-320, 2e-320, 1], [1e307, 2e307, 1e308]], ids=str
)
def test_positions_that_are_no_places_give_numbers(z_mm: list[float]) -> None:
    found = geometry(z_mm)
    assert 0 <= found.n_missing <= 2 * FARTHEST_MM / SAME_POSITION_MM
    assert 0 <= found.spacing_mm <= 2 * FARTHEST_MM
    assert found.shear_deg == 0


@pytest.mark.parametrize(
    ("z_mm", "n_gaps", "n_missing", "is_uneven"),
    [
        ([0, 1], 0, 0, False),
        ([0, 1, 2, 4], 1, 1, False),
        ([0, 2, 3, 4], 1, 1, False),
        ([0, 1, 2, 4, 6, 7, 8, 9, 10], 2, 2, False),  # every other one of five
        ([0, 1, 2, 3, 4, 6, 8, 10], 0, 0, True),  # planned so: three steps of one size
        ([0, 1, 2, 3, 4, 6, 9, 11], 3, 4, False),  # three steps of different sizes are none that anybody plans
        ([0, 1, 2, 3, 4.4, 5.4], 0, 0, True),
        ([0, 1.04, 1.98, 3, 4.01], 0, 0, False),
        ([0, 5, 10, 15, 20, 22.5, 25, 27.5], 0, 0, True),
    ],
)
def test_gaps_by_hand(z_mm: list[float], n_gaps: int, n_missing: int, is_uneven: bool) -> None:
    found = geometry(z_mm)
    assert (found.n_gaps, found.n_missing, found.is_uneven) == (n_gaps, n_missing, is_uneven)


def test_too_few_slices_to_tell() -> None:
    found = geometry([3.0])
    assert np.isnan([found.spacing_mm, found.shear_deg]).all()
    assert (found.n_gaps, found.is_uneven, found.is_tilted, found.tilt_deg) == (0, False, False, 0.0)


def test_an_oblique_stack_along_its_normal_is_tilted_and_not_sheared() -> None:
    index = index_of([0.0, 8.0, 16.0], iop_column_y=0.8, iop_column_z=-0.6)  # normal (0, 0.6, 0.8)
    index["ipp_y_mm"] = np.array([0.0, 6.0, 12.0])
    found = series_geometry(index, slice(0, 3))
    assert found.tilt_deg == pytest.approx(36.87, abs=0.01)  # arccos 0.8
    assert found.shear_deg == pytest.approx(0.0, abs=1e-9)  # degrees; rounding
    assert not found.is_tilted
