"""Simulated CT pulmonary angiography: files as the competition has them, and tables that agree with them."""

import csv
import json
import warnings
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsna_e2e import dicom
from rsna_e2e.cli import main
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.records import Int16Image, Refusal, SliceRecord
from rsna_e2e.tools.synth.chest.data_set import CTPA
from rsna_e2e.tools.synth.chest.geometry import MAX_THICK_SLICES, MIN_THICK_SLICES, THICK_MM
from rsna_e2e.tools.synth.common.plan import Request, plan_studies
from rsna_e2e.tools.synth.preview import preview
from rsna_e2e.tools.synth.simulate import KINDS, SynthReport, simulate

ARGUMENTS: dict[str, Any] = {
    "n_studies": 2, "seed": 186, "kind": "ctpa", "prevalence": "demo", "test_fraction": 0.5, "is_thick": True
}  # fmt: skip
COLUMNS = (  # of the competition's train.csv
    "StudyInstanceUID,SeriesInstanceUID,SOPInstanceUID,pe_present_on_image,negative_exam_for_pe,qa_motion,qa_contrast,"
    "flow_artifact,rv_lv_ratio_gte_1,rv_lv_ratio_lt_1,leftsided_pe,chronic_pe,true_filling_defect_not_pe,rightsided_pe,"
    "acute_and_chronic_pe,central_pe,indeterminate"
).split(",")
SCORED = (  # per study, in the competition's sample submission
    "negative_exam_for_pe", "indeterminate", "chronic_pe", "acute_and_chronic_pe", "central_pe", "leftsided_pe",
    "rightsided_pe", "rv_lv_ratio_gte_1", "rv_lv_ratio_lt_1",
)  # fmt: skip
Row = dict[str, str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SynthReport]:
    out = tmp_path_factory.mktemp("chest") / "raw"
    return out, simulate(out, n_jobs=2, **ARGUMENTS)


def _rows(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _files(out: Path, split: str) -> dict[tuple[str, ...], Path]:
    """Files by the ids that their paths spell: study, series, image."""
    return {(*path.parts[-3:-1], path.stem): path for path in sorted((out / split).glob("*/*/*.dcm"))}


def _read(path: Path) -> tuple[SliceRecord, Int16Image]:
    found = dicom.read_slice(path)
    assert not isinstance(found, Refusal), found
    return found


def test_files_are_read_and_agree_with_their_paths(made: tuple[Path, SynthReport]) -> None:
    """No file is refused or repaired; both directions, and both forms of storage, occur."""
    out, report = made
    directions, signs = set(), set()
    for split in ("train", "test"):
        files = _files(out, split)
        heights = []
        for (study, series, image), path in files.items():
            record, hu = _read(path)
            assert (record.study_uid, record.series_uid, record.sop_uid) == (study, series, image)
            assert record.repair == ""
            assert hu.shape == (512, 512)
            assert hu[0, 0] == (-3024 if record.pixel_representation else -1024)  # outside the field of view
            heights.append((record.image_position_mm[2], image))
            signs.add(record.pixel_representation)
        assert MIN_THICK_SLICES <= len(files) <= MAX_THICK_SLICES
        np.testing.assert_allclose(np.diff(sorted(h for h, _ in heights)), THICK_MM, rtol=0, atol=0.002)
        order = {image: height for height, image in heights}
        truth = next(s for s in _truth(out) if s["split"] == split)
        directions.add(order[truth["image_ids"][0]] < order[truth["image_ids"][-1]])
    assert directions == {True, False}
    assert signs == {0, 1}
    assert report.n_slices == len(_files(out, "train")) + len(_files(out, "test"))


def _truth(out: Path) -> list[dict[str, Any]]:
    studies: list[dict[str, Any]] = json.loads((out / "truth.json").read_text())["studies"]
    return studies


def test_tables_have_the_competitions_layout(made: tuple[Path, SynthReport]) -> None:
    out, _ = made
    ids = COLUMNS[:3]
    for name, split in (("train.csv", "train"), ("test_truth.csv", "test")):
        rows = _rows(out / name)
        assert list(rows[0]) == COLUMNS
        assert {tuple(row[c] for c in ids) for row in rows} == set(_files(out, split))
        assert len(rows) == len(_files(out, split))
        assert all(len(row[c]) == 12 and int(row[c], 16) >= 0 for row in rows for c in ids)
        assert {row[c] for row in rows for c in COLUMNS[3:]} <= {"0", "1"}
        assert len({tuple(row[c] for c in COLUMNS[4:]) for row in rows}) == 1  # of the one study there
        truth = next(s for s in _truth(out) if s["split"] == split)
        assert {row["SOPInstanceUID"] for row in rows if row["pe_present_on_image"] == "1"} == set(
            truth["positive_image_ids"]
        )
        order = [truth["image_ids"].index(row["SOPInstanceUID"]) for row in rows]
        assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 0.4  # shuffled: 3.5 standard errors of 80
    test = _rows(out / "test.csv")
    assert list(test[0]) == ids
    assert [tuple(row.values()) for row in test] == [
        tuple(row[c] for c in ids) for row in _rows(out / "test_truth.csv")
    ]
    sample = _rows(out / "sample_submission.csv")
    study = test[0]["StudyInstanceUID"]
    assert {row["id"] for row in sample[:9]} == {f"{study}_{label}" for label in SCORED}
    assert {row["id"] for row in sample[9:]} == {row["SOPInstanceUID"] for row in test}
    assert {row["label"] for row in sample} == {"0.5"}


def test_one_study_is_positive_and_one_negative(made: tuple[Path, SynthReport]) -> None:
    out, report = made
    first = {split: _rows(out / name)[0] for split, name in (("train", "train.csv"), ("test", "test_truth.csv"))}
    assert first["train"]["negative_exam_for_pe"] == "0"
    assert first["test"]["negative_exam_for_pe"] == "1"
    assert report.label_rates["negative_exam_for_pe"] == 0.5
    assert 0.0 < report.label_rates["pe_present_on_image"] < 0.5
    assert report.n_test_studies == 1


def _digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_a_study_has_the_same_bytes_in_another_process(made: tuple[Path, SynthReport], tmp_path: Path) -> None:
    plan = plan_studies(Request(n_studies=2, seed=186, prevalence="demo", test_fraction=0.5, is_thick=True))[1]
    CTPA.make_study(plan, tmp_path)
    again, before = _digests(tmp_path), _digests(made[0])
    assert len(again) == len(_files(made[0], "test")) > 0
    assert again.items() <= before.items()


@pytest.mark.slow
def test_same_bytes_for_any_number_of_processes(made: tuple[Path, SynthReport], tmp_path: Path) -> None:
    simulate(tmp_path / "raw", n_jobs=1, **ARGUMENTS)
    assert _digests(tmp_path / "raw") == _digests(made[0])


def test_preview_draws_a_sheet(made: tuple[Path, SynthReport], tmp_path: Path) -> None:
    png = tmp_path / "sheet.png"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        preview(made[0], png, n_studies=1, columns=3)
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    (made[0] / "truth.json").rename(made[0] / "kept.json")
    try:
        with pytest.raises(BadInputError, match="not the truth of simulated studies"):
            preview(made[0], png)
    finally:
        (made[0] / "kept.json").rename(made[0] / "truth.json")


def test_thick_slices_are_for_chests(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"thick slices are an option of chests"):
        simulate(tmp_path / "raw", n_studies=1, seed=0, is_thick=True, n_jobs=1)


def test_the_command_line_knows_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["synth", "--help"])
    assert f"--kind {{{','.join(KINDS)}}}" in capsys.readouterr().out


def test_the_documents_picture_is_small() -> None:
    assert 0 < (Path(__file__).parents[2] / "docs/figures/ctpa_preview.png").stat().st_size < 600_000
