"""The data report: numbers worked out by hand, the same of a store and of raw files, on a page that names nobody."""

import copy
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import phantoms
import pyarrow.parquet as pq
import pytest
import small
from pages import assert_numbers_are_those_of, assert_self_contained, parsed, pictures
from stores import edit_set, sign

from rsna_e2e.cli import main
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import Refusal
from rsna_e2e.evaluation.inspection import inspect_raw, inspect_store, who_is, write_inspection
from rsna_e2e.evaluation.inspection.content import is_no_image
from rsna_e2e.evaluation.inspection.findings import find
from rsna_e2e.evaluation.inspection.geometry import describe_geometry
from rsna_e2e.evaluation.inspection.sheets import contact_sheets
from rsna_e2e.evaluation.inspection.slices import Slices
from rsna_e2e.evaluation.inspection.tally import common, distribution, whole_numbers
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import prepare
from rsna_e2e.store.tables import write_table
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import write_labels

Content = dict[str, Any]

# Labels of a slice: none, subdural, subdural and epidural; each with the any-label.
NONE, ONE, TWO = [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1], [1, 0, 0, 0, 1, 1]
LABELS = {"gap": [NONE, ONE, TWO, NONE, ONE], "tilted": [ONE, ONE, NONE], "twin": [NONE, NONE, TWO]}
WRAPPED = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0, "RescaleIntercept": 0}


def write_raw(raw: Path) -> None:
    """Four patients, five series, 15 slices; what is odd about each is said by its name."""
    write(raw, "gap", [0, 5, 10, 25, 30], patient="ID-p1", sizes=[(16, 16)] * 4 + [(20, 24)])
    write(
        raw, "tilted", [0, 5, 10], patient="ID-p1", orientation=phantoms.TILTED, WindowCenter=[40, 50], WindowWidth=None
    )
    # the second slice is the last one of "gap", in another patient and with other labels
    write(raw, "twin", [0, 4, 8], patient="ID-p2", seeds=[70, 4, 72], sizes=[(16, 16), (20, 24), (16, 16)])
    write(raw, "wrapped", [0, 2.5, 5], patient="ID-p3", form=WRAPPED, PixelSpacing=[0.5, 0.25])
    write(
        raw, "single", [7], patient="ID-p1", StudyInstanceUID=uid(2, "gap"), SeriesInstanceUID="1.2.826.3.1", seeds=[90]
    )
    for name in ("Doe^John.TXT", "note.dcm"):
        (raw / name).write_text("no image")
    ids = [f"ID_{name}_{i}" for name, values in LABELS.items() for i in range(len(values))]
    write_labels(raw / "stage_2_train.csv", ICH, ids, np.concatenate([np.array(v) for v in LABELS.values()]))


def uid(kind: int, name: str) -> str:
    return f"1.2.826.{kind}.{sum(name.encode())}"


def write(
    raw: Path,
    name: str,
    z_mm: list[float],
    *,
    patient: str,
    sizes: list[tuple[int, int]] | None = None,
    seeds: list[int] | None = None,
    orientation: tuple[float, ...] = phantoms.AXIAL,
    form: dict[str, int] = phantoms.SIGNED_16,
    **tags: Any,
) -> None:
    for i, z in enumerate(z_mm):
        shape = sizes[i] if sizes else (16, 16)
        stored = phantoms.stored_image(*shape, seed=seeds[i] if seeds else i, form=form)
        dataset = phantoms.slice_dataset(
            stored,
            **{
                "SOPInstanceUID": f"{uid(9, name)}.{i}",
                "PatientID": patient,
                "StudyInstanceUID": uid(2, name),
                "SeriesInstanceUID": uid(3, name),
                "ImagePositionPatient": [-125.0, -125.0, float(z)],
                "ImageOrientationPatient": list(orientation),
            }
            | form
            | tags,
        )
        phantoms.write_dicom(raw / f"ID_{name}_{i}.dcm", dataset)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspection") / "raw"
    write_raw(folder)
    return folder


@pytest.fixture(scope="module")
def store(raw: Path) -> Store:
    prepare(raw, raw.parent / "store", task=ICH, n_folds=2, n_jobs=1)
    return Store.open(raw.parent / "store")


@pytest.fixture(scope="module")
def inspected(store: Store) -> tuple[Content, Slices]:
    return inspect_store(store)


@pytest.fixture(scope="module")
def content(inspected: tuple[Content, Slices]) -> Content:
    return inspected[0]


@pytest.fixture(scope="module")
def of_raw(raw: Path) -> tuple[Content, Slices]:
    return inspect_raw(raw, task=ICH, n_jobs=1)


@pytest.fixture(scope="module")
def folder(inspected: tuple[Content, Slices], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inspection(*inspected, out=tmp_path_factory.mktemp("report")).parent


def key_of(store: Store, name: str) -> str:
    return next(span.series_key[:8] for span in store.series if span.series_uid == uid(3, name))


def test_counts_by_hand(content: Content) -> None:
    counts = content["counts"]
    assert [counts[name] for name in ("patients", "studies", "series", "slices")] == [3, 4, 5, 15]
    assert (counts["train_series"], counts["train_slices"], counts["test_slices"]) == (3, 11, 4)
    # ID-p1 has the studies "gap" (with "single" in it) and "tilted"
    assert (counts["patients_with_several_studies"], counts["studies_with_several_series"]) == (1, 1)
    assert counts["studies_per_patient"]["counts"] == [0, 2, 1]
    assert counts["single_slice_series"] == 1
    assert counts["slices_per_series"]["counts"] == [0, 1, 0, 3, 0, 1]
    assert counts["patients_in_train_and_test"] == 1  # ID-p1's "single" has no label


def test_geometry_by_hand(content: Content, store: Store) -> None:
    geometry = content["geometry"]
    assert geometry["matrix"]["values"] == [
        {"value": [16, 16], "n": 13, "share": 13 / 15},
        {"value": [20, 24], "n": 2, "share": 2 / 15},
    ]
    assert geometry["n_series_of_mixed_sizes"] == 2
    assert geometry["n_not_square"] == 3
    assert geometry["planes"]["values"][0]["value"] == ["axial"]
    # of steps 5, 5, 15, 5 the third has room for two slices
    assert (geometry["n_series_with_gaps"], geometry["n_missing_slices"]) == (1, 2)
    assert geometry["widest_gaps"] == [{"series": key_of(store, "gap"), "slice_index": 2, "mm": 15.0}]
    spacing = geometry["slice_spacing_mm"]
    assert (spacing["n"], spacing["n_unknown"], spacing["min"], spacing["max"]) == (4, 1, 2.5, 5.0)


def test_tilt_and_shear_by_hand(content: Content) -> None:
    """Columns (0, 0.968, -0.25) under rows along x: the normal leans by atan(0.25 / 0.968) while only z moves."""
    geometry, lean_deg = content["geometry"], np.degrees(np.arctan2(0.25, 0.968))
    assert (geometry["n_tilted"], geometry["n_sheared"]) == (1, 1)
    for name in ("tilt_deg", "shear_deg"):
        np.testing.assert_allclose([geometry[name]["max"], geometry[name]["min"]], [lean_deg, 0], atol=1e-9)
    assert geometry["shear_deg"]["n_unknown"] == 1  # a single slice goes nowhere


def test_a_tilted_head_on_a_table_that_follows_is_not_sheared(inspected: tuple[Content, Slices]) -> None:
    slices = inspected[1]
    along = {  # positions along the normal (0, 0.25, 0.968) of the tilted slices
        f"ipp_{axis}_mm": np.where(
            slices["iop_column_z"] < 0, slices["slice_index"] * 5.0 * step, slices[f"ipp_{axis}_mm"]
        )
        for axis, step in (("x", 0.0), ("y", 0.25), ("z", 0.968))
    }
    moved = describe_geometry(replace(slices, columns=slices.columns | along))
    assert (moved["n_tilted"], moved["n_sheared"]) == (1, 0)


def test_labels_by_hand(content: Content) -> None:
    truth = content["truth"]
    by_name = {one["label"]: one for one in truth["labels"]}
    assert truth["n_labelled"] == 11
    assert by_name["any"]["slices"] == {"n": 11, "n_positive": 6, "prevalence": 6 / 11}
    assert by_name["epidural"]["slices"]["n_positive"] == 2
    assert by_name["epidural"]["series"] == {"n": 3, "n_positive": 2, "prevalence": 2 / 3}
    epidural, subdural = (ICH.slices.names.index(name) for name in ("epidural", "subdural"))
    assert truth["together"][epidural][subdural] == truth["together"][subdural][epidural] == 2
    assert truth["together"][subdural][subdural] == 6
    assert truth["n_unlabelled_in_train"] == 0


def test_runs_and_folds_by_hand(content: Content, store: Store) -> None:
    order = content["truth"]["order"]
    # 0 1 1 0 1 has two runs, the others one; k (n - k + 1) / n of each is 9/5, 4/3, 1
    assert order["runs_per_series"]["counts"] == [0, 2, 1]
    np.testing.assert_allclose([order["runs"], order["shuffled_runs"]], [4 / 3, (9 / 5 + 4 / 3 + 1) / 3])
    folds = content["truth"]["folds"]
    assert [fold["fold"] for fold in folds] == [0, 1]
    assert sorted((fold["slices"], fold["positive"]["any"]) for fold in folds) == [(3, 1), (8, 5)]
    assert sum(fold["patients"] for fold in folds) == 2


def test_values_by_hand(content: Content) -> None:
    values = content["values"]
    signed, unsigned = values["bits"]
    assert (signed["bits_stored"], signed["is_signed"], signed["n"]) == (16, True, 12)
    assert (unsigned["bits_stored"], unsigned["is_signed"], unsigned["n"]) == (12, False, 3)
    assert signed["prevalence"]["any"] == 6 / 11
    assert unsigned["prevalence"]["any"] is None
    assert values["n_wrapped_12bit"] == 3
    assert values["repairs"] == [{"name": "wrapped_12bit", "n_slices": 3}]
    assert [one["value"] for one in values["windows"]["values"]] == [["40", "80"], ["unknown", "unknown"]]
    assert values["intercepts"]["values"] == [{"value": [0.0], "n": 15, "share": 1.0}]


def test_extremes_are_those_of_the_pixels(content: Content, store: Store) -> None:
    lowest = min((int(store.read_slice(row).min()), row) for row in range(len(store)))
    found = content["values"]["lowest"][0]
    assert found["hu"] == lowest[0]
    place = (store.index["series_key"][lowest[1]][:8], int(store.index["slice_index"][lowest[1]]))
    assert (found["series"], found["slice_index"]) == place
    assert content["values"]["highest"][0]["hu"] == max(int(store.read_slice(r).max()) for r in range(len(store)))


def test_the_histogram_counts_every_pixel(content: Content, store: Store) -> None:
    hu = np.concatenate([store.read_slice(row).ravel() for row in range(len(store))])
    found = content["hu"]
    assert (found["n_slices"], found["n_pixels"]) == (15, len(hu))
    expected, _ = np.histogram(hu, bins=[*found["edges_hu"][:-1], found["edges_hu"][-1] - 0.5])  # half-open bins
    assert found["counts"] == expected.tolist()
    assert (found["n_below"], found["n_above"]) == ((hu < -1100).sum(), (hu >= 3100).sum())
    assert found["tissue_shares"]["bone"] == (hu >= 100).mean()
    np.testing.assert_allclose(sum(found["tissue_shares"].values()), 1)


def test_mean_and_deviation_are_those_of_the_windowed_pixels(content: Content, store: Store) -> None:
    hu = np.concatenate([store.read_slice(row).ravel() for row in range(len(store))]).astype(np.float64)
    found = content["hu"]["windows"]
    assert [(one["center_hu"], one["width_hu"]) for one in found] == list(ICH.inputs.windows_hu)
    for one in found:
        windowed = np.clip((hu - one["center_hu"] + one["width_hu"] / 2) / one["width_hu"], 0, 1)
        assert (one["mean"], one["std"]) == pytest.approx((windowed.mean(), windowed.std()), rel=1e-9)


def test_a_sample_is_drawn_by_its_seed(store: Store) -> None:
    one, again, other = (inspect_store(store, n_sampled=5, seed=seed)[0]["hu"] for seed in (1, 1, 2))
    assert one == again
    assert one["counts"] != other["counts"]
    assert one["n_slices"] == 5


def test_equal_slices_in_different_patients_are_found(content: Content) -> None:
    """The last slice of "gap" is the second of "twin": subdural there, and nothing here."""
    assert content["copies"] == {"n_groups": 1, "n_slices": 2, "n_groups_of_other_labels": 1}


def test_headers_alone_say_the_same(content: Content, of_raw: tuple[Content, Slices]) -> None:
    found = of_raw[0]
    for name in ("counts", "geometry", "refusals", "n_refused", "task"):
        assert found[name] == content[name], name
    assert found["truth"] == content["truth"] | {"folds": []}
    assert found["values"] == {name: content["values"][name] for name in found["values"]}
    assert (found["hu"], found["copies"], found["data_hash"]) == (None, None, None)
    assert not {"repairs", "lowest", "pixels"} & set(found["values"])


def test_refusals_come_without_paths(content: Content, of_raw: tuple[Content, Slices], store: Store) -> None:
    refusals = content["refusals"]
    assert [(one["reason"], one["n"]) for one in refusals] == [("not_dicom", 2)]
    assert set(refusals[0]) == {"reason", "n", "example"}
    assert (content["n_refused"], content["n_no_images"]) == (2, 1)
    for made_of in (content, of_raw[0]):
        assert "Doe" not in json.dumps(made_of)


FINDINGS = {
    "Patients in train and test",
    "Equal slices in different patients",
    "Labels without a positive slice",
    "Many refusals",
    "Wrapped 12-bit values",
    "Gaps",
    "Mixed sizes",
}


def test_what_was_planted_is_found_and_nothing_else(content: Content, of_raw: tuple[Content, Slices]) -> None:
    assert {finding["title"] for finding in content["findings"]} == FINDINGS
    assert {finding["title"] for finding in of_raw[0]["findings"]} == FINDINGS - {"Equal slices in different patients"}
    levels = [finding["level"] for finding in content["findings"]]
    assert levels == sorted(levels, reverse=True)  # warnings before notes


def test_files_that_are_no_images_by_their_names_are_no_refusals_to_worry_about(content: Content) -> None:
    """Beside one that may have been an image."""
    by_name = content | {"n_refused": 100, "n_no_images": 100}
    assert "Many refusals" not in {finding["title"] for finding in find(by_name)}
    (text,) = [one["text"] for one in find(content) if one["title"] == "Many refusals"]
    assert text.startswith("1 of 16 files or slices (6.2%)")
    for path in ("a/truth.json", "labels.csv", "labels.csv.gz", "x.YAML"):
        assert is_no_image(Refusal(path, Reason.NOT_DICOM, ""))
    for path in ("a.dcm", "truth", "x.json.dcm", "x.gz"):
        assert not is_no_image(Refusal(path, Reason.NOT_DICOM, ""))
    assert not is_no_image(Refusal("slice.txt", Reason.TRUNCATED, ""))  # a DICOM file, whatever its name


@pytest.mark.parametrize(
    ("path", "value", "title", "says"),
    [
        ("values.n_burned_in", 1, "Burned-in annotation", "1 slice with burned-in annotation by (0028,0301)"),
        ("truth.order.looks_shuffled", True, "Slices look shuffled", "1.33 runs of positive slices"),
        ("truth.n_labelled", 0, "No labels", "--labels"),
        ("truth.n_unlabelled_in_train", 3, "Partly labelled series", "3 slices without a label in labelled series"),
        ("values.n_constant", 4, "Slices of one value", "4 slices"),
    ],
)
def test_other_findings(path: str, value: Any, title: str, says: str, content: Content) -> None:
    assert title not in {finding["title"] for finding in content["findings"]}
    changed = copy.deepcopy(content)
    *folders, name = path.split(".")
    place = changed
    for key in folders:
        place = place[key]
    place[name] = value
    (text,) = [finding["text"] for finding in find(changed) if finding["title"] == title]
    assert says in text


def test_every_number_on_the_page_is_that_of_the_json(folder: Path) -> None:
    content = json.loads((folder / "inspection.json").read_text())
    numbers = parsed((folder / "inspection.html").read_text()).numbers
    assert len(numbers) > 120
    assert_numbers_are_those_of(content, numbers)
    paths = {path for path, _, _ in numbers}
    assert {"counts.slices", "truth.order.runs", "values.bits.0.prevalence.any", "hu.tissue_shares.bone"} <= paths


def test_the_page_is_self_contained_and_names_nobody(folder: Path, raw: Path, store: Store) -> None:
    page = (folder / "inspection.html").read_text()
    assert_self_contained(page)
    assert "For research use only" in page
    text = page + (folder / "inspection.json").read_text()
    for name in ("patient_id", "study_uid", "series_uid", "image_id"):
        for value in set(store.index[name]):
            assert value not in text
    for word in (str(raw.parent), "Doe", "note.dcm"):
        assert word not in text


def test_equal_input_gives_equal_bytes(store: Store, folder: Path, tmp_path: Path) -> None:
    write_inspection(*inspect_store(store), out=tmp_path)
    for name in ("inspection.html", "inspection.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_contact_sheets_show_series_from_end_to_end(inspected: tuple[Content, Slices], store: Store) -> None:
    sheets = contact_sheets(inspected[1], store, seed=0)
    assert [sheet["n_positive"] > 0 for sheet in sheets] == [True, True, True, False, False]
    by_name = {sheet["name"]: sheet for sheet in sheets}
    gap = by_name[key_of(store, "gap")]
    assert [image["position_mm"] for image in gap["images"]] == [0.0, 5.0, 10.0, 25.0, 30.0]
    assert [image["is_positive"] for image in gap["images"]] == [False, True, True, False, True]
    assert gap["images"][2]["others"] == ["epidural", "subdural"]
    assert all(image["uri"].startswith("data:image/jpeg;base64,") for image in gap["images"])
    others = [sheet["name"] for sheet in contact_sheets(inspected[1], store, seed=1)]
    assert others != [sheet["name"] for sheet in sheets]


def test_pictures_are_windowed_one_below_the_other(tmp_path: Path) -> None:
    """50 HU are 50 / 80 of brain (from 0), 70 / 200 of subdural (from -20), 200 / 380 of soft tissue (from -150)."""
    store = small.make_store_of(tmp_path, [[np.full((32, 32), 50)]])
    page = write_inspection(*inspect_store(store), out=tmp_path / "out").read_text()
    (picture,) = [picture for picture in pictures(page) if not picture.startswith(b"<svg")]
    grey = matplotlib.image.imread(io.BytesIO(picture), format="jpg")[..., 0] / 255
    thirds = [grey[start + 32 : start + 96, 32:96].mean() for start in (0, 128, 256)]
    np.testing.assert_allclose(thirds, [50 / 80, 70 / 200, 200 / 380], atol=0.01)  # JPEG, 8 bits


def test_without_labels_pages_say_so(raw: Path, tmp_path: Path) -> None:
    shutil.copytree(raw, tmp_path / "raw", ignore=shutil.ignore_patterns("*.csv"))
    prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1)
    for content, slices in (
        inspect_store(Store.open(tmp_path / "store"), task=ICH),
        inspect_raw(tmp_path / "raw", task=ICH, n_jobs=1),
    ):
        page = write_inspection(content, slices, out=tmp_path / "out").read_text()
        assert "No slice has a label." in page
        assert "No labels" in {finding["title"] for finding in content["findings"]}


def test_a_folder_without_slices_is_refused_with_reasons(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.txt").write_text("x")
    with pytest.raises(BadInputError, match="no CT slice in DICOM form found there: 1 not_dicom"):
        inspect_raw(tmp_path / "raw", task=ICH, n_jobs=1)


def test_tallies_by_hand() -> None:
    found = distribution(np.array([1.0, np.nan, 3.0, 2.0]), bins=2)
    assert found == {
        "n": 3,
        "n_unknown": 1,
        "min": 1.0,
        "median": 2.0,
        "max": 3.0,
        "mean": 2.0,
        "edges": [1.0, 2.0, 3.0],
        "counts": [1, 2],
    }
    assert distribution(np.array([5.0, 5.0000001]))["counts"] == []
    assert distribution(np.array([np.nan]))["median"] is None
    assert whole_numbers(np.array([1, 1, 3, 9]), at_most=4)["counts"] == [0, 2, 0, 1, 1]
    one = common(np.array([2, 1, 2]), np.array(["a", "b", "a"], dtype=object), at_most=1)
    assert one == {"n_distinct": 2, "values": [{"value": [2, "a"], "n": 2, "share": 2 / 3}]}


def test_the_command_writes_where_it_says(
    raw: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", str(store.path)]) == 0
    assert main(["inspect", str(raw), "--jobs", "1", "--out", "of raw"]) == 0
    said = capsys.readouterr().out
    assert "3 patients, 4 studies, 5 series, 15 slices" in said
    assert "note: Gaps." in said
    assert "report: store-inspection/inspection.html" in said
    for name in ("store-inspection", "of raw"):
        assert {path.name for path in (tmp_path / name).iterdir()} == {"inspection.html", "inspection.json"}


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["missing"], 3, "missing: no such folder"),
        (["store", "--out", "store/report"], 2, "must not lie inside"),
        (["store", "--out", "file"], 3, "file: is a file. Give a folder for inspection.html"),
        (["store", "--labels", "a.csv"], 2, "which holds its labels"),
        (["store", "--key", "k"], 2, "--raw and --key go with --who"),
        (["store", "--who", "12", "--out", "report"], 2, "--out, --sample and --seed are for a report"),
        (["store", "--who", "12", "--sample", "all"], 2, "--out, --sample and --seed are for a report"),
        (["raw", "--sample", "5"], 2, "raw: no store; --sample and --seed choose slices of a store"),
        (["raw", "--seed", "0"], 2, "raw: no store; --sample and --seed choose slices of a store"),
        (["store", "--who", "xyz"], 2, "'xyz' is no hash of a series"),
        (["store", "--who", "0123456789abcdef"], 3, "has no series 0123456789abcdef"),
    ],
)
def test_misuse_is_named(
    arguments: list[str],
    code: int,
    says: str,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "store").symlink_to(store.path)
    (tmp_path / "file").write_text("mine")
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", *arguments]) == code
    assert says in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"
    assert not (store.path / "report").exists()


def test_who_asks_for_the_index_alone(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "store"
    prepare(raw, path, task=ICH, n_folds=2, n_jobs=1)
    span = Store.open(path).series[0]
    shutil.rmtree(path / "shards")
    assert main(["inspect", str(path), "--who", span.series_key[:8]]) == 0
    assert span.series_uid in capsys.readouterr().out
    with (path / "index.parquet").open("r+b") as file:
        file.seek(100)
        file.write(b"damaged")
    assert main(["inspect", str(path), "--who", span.series_key[:8]]) == 3
    assert "index.parquet: missing or damaged" in capsys.readouterr().err


def test_labels_that_are_not_those_of_the_task(store: Store, tmp_path: Path) -> None:
    shutil.copytree(store.path, tmp_path / "store")
    place = tmp_path / "store" / "tasks" / "ich"
    columns = {name: np.asarray(column) for name, column in pq.read_table(place / "slices.parquet").to_pydict().items()}
    columns = {name: columns[name] for name in ("image_id", "split", "fold", "csv_place", "any")}
    columns |= {"fold": columns["fold"].astype(np.int32), "any": columns["any"].astype(np.float32)}
    write_table(place / "slices.parquet", columns)
    edit_set(tmp_path / "store", slices={"names": ["any"]})
    sign(tmp_path / "store")
    with pytest.raises(
        BadInputError, match=r"its slices.names is \('any',\), not \('epidural', .*--task ich --replace"
    ):
        inspect_store(Store.open(tmp_path / "store"))


def test_help_has_examples_of_both_uses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["inspect", "--help"])
    assert end.value.code == 0
    examples = capsys.readouterr().out.split("examples:")[-1]
    assert "rsna-e2e inspect store --out report" in examples
    assert "--who" in examples


def test_an_ambiguous_hash_asks_for_more_digits(tmp_path: Path) -> None:
    columns = {
        name: np.array(["a", "b"], dtype=object) for name in ("patient_id", "study_uid", "series_uid", "image_id")
    }
    keys = {"series_key": np.array(["12ab000000000000", "12cd000000000000"], dtype=object)}
    with pytest.raises(UsageError, match=r"12 is the beginning of 2 series keys.*: 12ab000000000000, 12cd000000000000"):
        who_is(columns | keys, "12", where=tmp_path)
    assert who_is(columns | keys, "12c", where=tmp_path).patient_id == "b"
