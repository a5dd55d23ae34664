"""Several passes, time points or reconstructions under one SeriesInstanceUID: slices of two of them are never mixed."""

# V volumes

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import phantoms
import pytest
from enhanced import enhanced_dataset
from pydicom.dataset import Dataset

from rsna_e2e.cli import main
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import prepare
from rsna_e2e.store.pseudonyms import Pseudonyms
from rsna_e2e.store.series_order import series_key
from rsna_e2e.store.volumes import ORDERS, QUIET, SPEAKING, divide_volumes
from rsna_e2e.tasks.ich import ICH

N = 12
STEP_MM = 5.0


def steps(begin_mm: float = 0.0, n: int = N, step_mm: float = STEP_MM) -> list[float]:
    return [begin_mm + step_mm * i for i in range(n)]


SECOND_PASSES = {
    "the same places": steps(),
    "half a step further": steps(STEP_MM / 2),
    "a part of it again": steps(20.0, 4),
    "beyond it": steps(STEP_MM * 8),
    "wider steps": steps(0.0, N // 2, 2 * STEP_MM),
}


def divided(passes_mm: Sequence[Sequence[float]], *, seed: int = 0, **told: Sequence[Any]) -> tuple[list[str], Any]:
    """Return of which passes the slices of each volume are, and what came of the division. told: a value for each
    pass, or a list with one for each of its slices."""
    position_mm = np.concatenate(passes_mm)
    number = np.repeat(np.arange(len(passes_mm)), [len(one) for one in passes_mm])
    shuffled = np.random.default_rng(seed).permutation(len(number))
    columns = {}
    for name, values in told.items():
        spread = [v if isinstance(v, list) else [v] * len(p) for v, p in zip(values, passes_mm, strict=True)]
        columns[name] = np.array([value for one in spread for value in one])[shuffled]
    found = divide_volumes(position_mm[shuffled], columns)
    assert all((np.diff(position_mm[shuffled][rows]) >= 0).all() for rows in found.volumes)
    assert sorted(np.concatenate([found.untold, *found.volumes]).tolist()) == list(range(len(number)))
    return ["".join(chr(ord("0") + number[shuffled[row]]) for row in rows) for rows in found.volumes], found


@pytest.mark.parametrize("second", SECOND_PASSES)
@pytest.mark.parametrize("name", SPEAKING)
def test_passes_that_say_so_are_volumes_wherever_they_lie(name: str, second: str) -> None:
    values = [("B30f", "B60f"), ("2", "1")]["Kernel" not in name]
    for seed in range(3):
        volumes, found = divided([steps(), SECOND_PASSES[second]], seed=seed, **{name: values})
        assert sorted(volumes) == ["0" * N, "1" * len(SECOND_PASSES[second])]
        assert found.told_by == [name]


@pytest.mark.parametrize("second", [name for name in SECOND_PASSES if name != "half a step further"])
@pytest.mark.parametrize("name", QUIET)
def test_other_differences_tell_passes_apart_where_they_share_places(name: str, second: str) -> None:
    volumes, found = divided([steps(), SECOND_PASSES[second]], **{name: ("a", "b")})
    assert sorted(volumes) == ["0" * N, "1" * len(SECOND_PASSES[second])]
    assert found.told_by == [name]


def test_what_may_differ_within_a_volume_divides_none() -> None:
    thickness = [[5.0, 4.99] * (N // 2)]
    assert divided([steps()], SliceThickness=thickness)[0] == ["0" * N]


@pytest.mark.parametrize("second", SECOND_PASSES)
@pytest.mark.parametrize("name", ORDERS)
def test_the_order_of_slices_is_asked_last(name: str, second: str) -> None:
    n_second = len(SECOND_PASSES[second])
    keys = [[f"{i:03d}" for i in range(N)], [f"{N + i:03d}" for i in range(n_second)]]
    volumes, _ = divided([steps(), SECOND_PASSES[second]], **{name: keys})
    if second == "half a step further" and not ORDERS[name]:  # times of writing may run side by side
        assert volumes == ["01" * N]
    else:
        assert volumes == ["0" * N, "1" * n_second]


@pytest.mark.parametrize("second", [name for name in SECOND_PASSES if name != "half a step further"])
@pytest.mark.parametrize("seed", range(3))
def test_where_nothing_tells_none_of_them_is_taken(second: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_second = len(SECOND_PASSES[second])
    nonsense = [rng.permutation(1000)[:n].tolist() for n in (N, n_second)]
    volumes, found = divided([steps(), SECOND_PASSES[second]], seed=seed, InstanceNumber=nonsense)
    assert volumes == []
    assert len(found.untold) == N + n_second


SCANS_IN_STEPS = {
    "a slice": [[i] for i in range(N)],
    "four slices": [list(range(i, i + 4)) for i in range(0, N, 4)],
    "two parts": [list(range(5)), list(range(5, N))],
}


@pytest.mark.parametrize("scan", SCANS_IN_STEPS)
@pytest.mark.parametrize("name", SPEAKING)
def test_a_scan_in_steps_is_one_volume(scan: str, name: str) -> None:
    """Each rotation may have its AcquisitionNumber; the base of a skull may have its own kernel."""
    values = np.empty(N, dtype=int)
    for number, slices in enumerate(SCANS_IN_STEPS[scan]):
        values[slices] = number
    assert divided([steps()], **{name: [values.tolist()]})[0] == ["0" * N]


@pytest.mark.parametrize("scan", SCANS_IN_STEPS)
def test_a_scan_in_steps_that_was_done_twice_is_two(scan: str) -> None:
    values = np.empty(N, dtype=int)
    for number, slices in enumerate(SCANS_IN_STEPS[scan]):
        values[slices] = number
    both = [values.tolist(), (values + 100).tolist()]
    assert divided([steps(), steps()], AcquisitionNumber=both)[0] == ["0" * N, "1" * N]


ONE_PASS: dict[str, dict[str, Sequence[Any]]] = {
    "numbers that start anew in each rotation": {"InstanceNumber": [float(i % 4) for i in range(N)]},
    "numbers that start anew in three blocks": {"InstanceNumber": [float(i % (N // 3)) for i in range(N)]},
    "numbers that some lack": {"InstanceNumber": [float(i) if i % 3 else np.nan for i in range(N)]},
    "no number": {"InstanceNumber": [np.nan] * N},
    "one number": {"InstanceNumber": [1.0] * N},
    "times that some lack": {"AcquisitionTime": [f"{i:06d}" if i % 3 else "" for i in range(N)]},
    "diameters that are rounded": {"ReconstructionDiameter": [250.0 - 0.02 * (i % 2) for i in range(N)]},
}


@pytest.mark.parametrize("case", ONE_PASS)
def test_one_pass_stays_whole(case: str) -> None:
    assert divided([steps()], **{name: [values] for name, values in ONE_PASS[case].items()})[0] == ["0" * N]


def alternating(n: int) -> list[list[float]]:
    """Return numbers of two passes in rotations of n slices, one of each pass in turn."""
    return [[float(2 * (i // n) + one) for i in range(N)] for one in (0, 1)]


@pytest.mark.parametrize("n", [1, 2, 4])
def test_two_energies_in_turn_are_two_volumes(n: int) -> None:
    """A rotation of each energy at one place of the table, then the next place; each has its AcquisitionNumber."""
    volumes, found = divided([steps(), steps()], AcquisitionNumber=alternating(n), KVP=(80.0, 140.0))
    assert sorted(volumes) == ["0" * N, "1" * N]
    assert found.told_by == ["KVP"]


@pytest.mark.parametrize("n", [2, 4])
def test_rotations_are_not_joined_when_it_is_in_doubt_how(n: int) -> None:
    assert sorted(divided([steps(), steps()], AcquisitionNumber=alternating(n))[0]) == sorted(
        ["0" * n, "1" * n] * (N // n)
    )


def test_names_say_nothing_of_which_part_follows_which() -> None:
    """Two passes of base and vertex, each with a kernel of its own, and numbers of stacks, which are names."""
    for name, values in {"ConvolutionKernel": "ADCB", "StackID": ["1", "10", "11", "2"]}.items():
        one, other = [[values[2 * p]] * (N // 2) + [values[2 * p + 1]] * (N // 2) for p in range(2)]
        assert sorted(divided([steps(), steps()], **{name: [one, other]})[0]) == sorted(
            ["0" * (N // 2), "1" * (N // 2)] * 2
        )
        volumes, _ = divided([steps(), steps()], **{name: [one, other], "AcquisitionNumber": (1.0, 2.0)})
        assert volumes == ["0" * N, "1" * N]


@pytest.mark.parametrize("place_mm", [20.0, 22.0])
def test_a_place_that_is_watched_stays_out_of_the_scan(place_mm: float) -> None:
    """The arrival of contrast is awaited at one place."""
    for numbers in (2.0, [float(i) for i in range(2, 11)]):
        volumes, _ = divided([steps(), [place_mm] * 9], AcquisitionNumber=(20.0, numbers))
        assert volumes[-1] == "0" * N


@pytest.mark.parametrize("second", ["half a step further", "beyond it", "the same places"])
def test_passes_up_and_down(second: str) -> None:
    down = SECOND_PASSES[second][::-1]
    numbers = [[float(i) for i in range(N)], [float(N + i) for i in range(N)]]
    assert divided([steps(), down], InstanceNumber=numbers)[0] == ["0" * N, "1" * N]


@pytest.mark.parametrize("name", [name for name in SPEAKING if name != "KVP"])
def test_two_energies_in_turn_are_told_by_what_differs_between_them_alone(name: str) -> None:
    """Each rotation has a number of its own; neighbours by number are of both, so these numbers divide nothing."""
    in_turn = [list(range(0, 2 * N, 2)), list(range(1, 2 * N, 2))]
    volumes, found = divided([steps(), steps()], KVP=(80.0, 140.0), **{name: in_turn})
    assert (volumes, found.told_by) == (["0" * N, "1" * N], ["KVP"])
    volumes, _ = divided([steps(), steps()], InstanceNumber=in_turn, **{name: in_turn})
    assert all(len(set(one)) == 1 for one in volumes)


def test_three_scans_in_steps_of_which_two_share_places_are_three() -> None:
    """Places of the third lie on those of the first, those of the second between them."""
    numbers = [[100 * scan + i // 3 for i in range(N)] for scan in range(3)]
    passes_mm = [steps(), steps(STEP_MM / 2), steps(STEP_MM)]
    assert divided(passes_mm, AcquisitionNumber=numbers)[0] == ["0" * N, "1" * N, "2" * N]


def test_a_series_of_very_many_parts_takes_no_time() -> None:
    n = 4096
    began_s = time.process_time()
    assert divided([steps(n=n)], FrameAcquisitionNumber=[list(range(n))])[0] == ["0" * n]
    assert time.process_time() - began_s < 1  # measured: 0.04 s


def test_slices_written_side_by_side_stay_together() -> None:
    """Of a reconstruction on two processors, which write in the same second."""
    assert divided([steps()], ContentTime=[["120000", "120001"] * (N // 2)])[0] == ["0" * N]


def test_a_slice_taken_again_does_not_divide_a_volume() -> None:
    volumes, _ = divided([steps(), [20.0]], AcquisitionNumber=(1, 2), InstanceNumber=(list(range(N)), [N]))
    assert sorted(volumes[0]) == ["0"] * N + ["1"]
    assert len(volumes) == 1


def test_a_time_series_at_one_place_is_one() -> None:
    volumes, _ = divided([[20.0]] * 9, AcquisitionNumber=range(9))
    assert len(volumes) == 1


def test_every_time_point_of_a_perfusion_is_a_volume() -> None:
    volumes, found = divided([steps(n=4)] * 30, TemporalPositionIndex=range(30))
    assert volumes == [4 * chr(ord("0") + point) for point in range(30)]
    assert found.told_by == ["TemporalPositionIndex"]


@pytest.mark.parametrize("seed", range(40))
def test_passes_are_never_mixed(seed: int) -> None:
    """Passes of any length, step and place, told apart by one thing or by their order: a volume is of one."""
    rng = np.random.default_rng(seed)
    n_passes = int(rng.integers(2, 5))
    passes_mm = [
        steps(float(rng.integers(0, 8)) * 2.5, int(rng.integers(12, 24)), float(rng.choice([2.5, 5.0])))
        for _ in range(n_passes)
    ]
    numbers = np.split(np.arange(sum(map(len, passes_mm))), np.cumsum([len(one) for one in passes_mm])[:-1])
    told: dict[str, Sequence[Any]] = {"InstanceNumber": [one.tolist() for one in numbers]}
    if rng.random() < 0.7:
        told[str(rng.choice(SPEAKING))] = rng.permutation(n_passes).tolist()
    volumes, _ = divided(passes_mm, seed=seed, **told)
    assert all(len(set(one)) == 1 for one in volumes)


# From files


def write_passes(raw: Path, tell: Callable[[Dataset, int], None], *, z_mm: Sequence[Sequence[float]]) -> None:
    """Write passes of one series, the p-th of which holds HU of 100 p. tell: marks a slice of a pass."""
    number = 0
    for p, heights_mm in enumerate(z_mm):
        for z in heights_mm:
            number += 1
            dataset = phantoms.slice_dataset(
                np.full((8, 8), 100 * p, dtype="<i2"),
                SOPInstanceUID=f"1.2.3.{(number * 37) % 101}",
                ImagePositionPatient=[-60.0, -60.0, z],
            )
            tell(dataset, p)
            phantoms.write_dicom(raw / f"{(number * 53) % 101}.dcm", dataset)


def hu_of_series(store: Store) -> list[set[int]]:
    return [
        {int(store.read_slice(row).max()) for row in range(span.rows.start, span.rows.stop)} for span in store.series
    ]


def mark(name: str, *values: Any) -> Callable[[Dataset, int], None]:
    return lambda dataset, p: setattr(dataset, name, values[p])


TOLD_IN_FILES = {
    "AcquisitionNumber": mark("AcquisitionNumber", 1, 2),
    "TemporalPositionIdentifier": mark("TemporalPositionIdentifier", 1, 2),
    "ConvolutionKernel": mark("ConvolutionKernel", "H31s", ["H60f", "2"]),
    "ReconstructionDiameter": mark("ReconstructionDiameter", 180.5, 250.0),
    "ImageType": mark("ImageType", ["DERIVED", "PRIMARY", "AXIAL"], ["ORIGINAL", "PRIMARY", "AXIAL"]),
    "KVP": mark("KVP", 80, 140),
    "SliceThickness": mark("SliceThickness", 1.25, 5),
    "AcquisitionTime": mark("AcquisitionTime", "100000", "100130.5"),
    "ContentTime": mark("ContentTime", "100000", "100130.5"),
}


@pytest.mark.parametrize("name", TOLD_IN_FILES)
def test_two_passes_in_files_are_two_series(name: str, tmp_path: Path) -> None:
    write_passes(tmp_path / "raw", TOLD_IN_FILES[name], z_mm=[steps(n=5), steps(n=4)])
    report = prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1)
    store = Store.open(tmp_path / "store")
    assert hu_of_series(store) == [{0}, {100}]
    assert [span.n_slices for span in store.series] == [5, 4]
    assert report.volumes == {"divided": 1, "into": 2, f"by {name}": 1}
    assert report.refusals == {}
    assert store.series[0].series_key == series_key(("ID_patient", "1.2.826.2", "1.2.826.3"))
    assert store.series[1].series_key == series_key(("ID_patient", "1.2.826.2", "1.2.826.3"), volume=1)


def test_two_passes_that_nothing_tells_apart_are_refused(tmp_path: Path) -> None:
    write_passes(tmp_path / "raw", lambda dataset, p: None, z_mm=[steps(n=5), steps(n=5)])
    phantoms.write_series(tmp_path / "raw", name="other", n_slices=4)
    report = prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1)
    assert report.refusals == {"untold_volumes": 10}
    assert report.n_slices == 4


def test_a_series_sent_twice_under_other_uids_is_taken_once(tmp_path: Path) -> None:
    write_passes(tmp_path / "raw", lambda dataset, p: None, z_mm=[steps(n=5)])
    for path in sorted((tmp_path / "raw").iterdir()):
        dataset = phantoms.read(path)
        dataset.SOPInstanceUID = f"1.9.{path.stem}"
        dataset.save_as(path.with_name(f"again{path.stem}.dcm"))
    report = prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1)
    assert (report.n_series, report.n_slices, report.refusals) == (1, 5, {"same_position": 5})


GROUPS_THAT_TELL = {
    "TemporalPositionIndex": ("FrameContentSequence", (1, 2)),
    "FrameAcquisitionNumber": ("FrameContentSequence", (1, 2)),
    "StackID": ("FrameContentSequence", ("1", "2")),
    "ConvolutionKernel": ("CTReconstructionSequence", ("H31s", "H60f")),
}


@pytest.mark.parametrize("name", GROUPS_THAT_TELL)
@pytest.mark.parametrize("seed", range(2))
def test_time_points_of_enhanced_ct_are_volumes(name: str, seed: int, tmp_path: Path) -> None:
    group, values = GROUPS_THAT_TELL[name]
    point_F = np.random.default_rng(seed).permutation([0, 1] * 6)
    dataset = enhanced_dataset(np.tile(100 * point_F[:, None, None], (1, 8, 8)).astype("<i2"))
    places = {0: iter(steps(n=6)), 1: iter(steps(n=6))}
    for frame, point in zip(dataset.PerFrameFunctionalGroupsSequence, point_F.tolist(), strict=True):
        frame.PlanePositionSequence[0].ImagePositionPatient = [-60, -60, next(places[point])]
        item = Dataset()
        setattr(item, name, values[point])
        setattr(frame, group, [item])
    phantoms.write_dicom(tmp_path / "raw" / "perfusion.dcm", dataset)
    report = prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1)
    assert hu_of_series(Store.open(tmp_path / "store")) == [{0}, {100}]
    assert report.volumes == {"divided": 1, "into": 2, f"by {name}": 1}


ODD = {
    "AcquisitionNumber": (0x00200012, "LO", "none"),
    "InstanceNumber": (0x00200013, "FL", 1.5),
    "KVP": (0x00180060, "OB", bytes(100_000)),
    "TemporalPositionIndex": (0x00209128, "OB", b"abc"),
    "AcquisitionTime": (0x00080032, "SQ", [Dataset()]),
}


@pytest.mark.parametrize("name", ODD)
def test_advice_in_any_form_refuses_nothing(name: str, tmp_path: Path) -> None:
    tag, vr, value = ODD[name]
    write_passes(tmp_path / "raw", lambda dataset, p: dataset.add_new(tag, vr, value), z_mm=[steps(n=5)])
    report = prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1)
    assert (report.n_slices, report.refusals, report.volumes) == (5, {}, {})


def test_keys_of_volumes_follow_from_hashed_names(tmp_path: Path) -> None:
    write_passes(tmp_path / "raw", TOLD_IN_FILES["AcquisitionNumber"], z_mm=[steps(n=5), steps(n=4)])
    prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1, pseudonyms=Pseudonyms(b"k" * 32))
    store = Store.open(tmp_path / "store")
    ids = {(span.patient_id, span.study_uid, span.series_uid) for span in store.series}
    assert len(ids) == 1
    assert [span.series_key for span in store.series] == [series_key(*ids), series_key(*ids, volume=1)]
    assert hu_of_series(store) == [{0}, {100}]


def test_volumes_and_lonely_slices_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_passes(tmp_path / "raw", TOLD_IN_FILES["ConvolutionKernel"], z_mm=[steps(n=5), steps(n=4)])
    for i in range(6):
        phantoms.write_series(tmp_path / "raw", name=f"lonely{i}", n_slices=1)
        (path,) = (tmp_path / "raw").glob(f"ID_lonely{i}_*")
        dataset = phantoms.read(path)
        dataset.StudyInstanceUID = "1.2.826.77"
        dataset.save_as(path)
    assert main(["prepare", str(tmp_path / "raw"), str(tmp_path / "store"), "--jobs", "1"]) == 0
    told = capsys.readouterr()
    assert "volumes                 divided 1, into 2, by ConvolutionKernel 1" in told.out
    assert "studies_with_a_series_for_every_slice 1" in told.out
    assert "in 1 of the studies each slice has a SeriesInstanceUID of its own" in told.err
    for source in ("raw", "store"):
        out = tmp_path / f"{source}-inspection"
        assert main(["inspect", str(tmp_path / source), "--out", str(out)]) == 0
        content = json.loads((out / "inspection.json").read_text())
        titles = {finding["title"] for finding in content["findings"]}
        assert {"Several volumes in a series", "A series for every slice"} <= titles
        assert content["counts"]["further_volumes"] == 1
