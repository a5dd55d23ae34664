"""Any name that a file can have goes from raw files to scores and back: in a folder, a zip, a zip with backslashes."""

import csv
from collections.abc import Callable
from pathlib import Path

import archives
import numpy as np
import phantoms
import pytest

from rsna_e2e.cli import main
from rsna_e2e.core.records import printable
from rsna_e2e.dicom.image_ids import SUFFIXES
from rsna_e2e.evaluation.evaluate import evaluate
from rsna_e2e.inference.average import bag, smooth
from rsna_e2e.inference.predict import make_table
from rsna_e2e.inference.submission import write_submission
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import prepare
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import read_labels

# Pieces of names: what CSV, shells, terminals, pages, spreadsheets and our own rules might trip over
PIECES = (
    *("a", "B", "ID_", "0", "7.1", "é", "e\u0301", "日本", "\u202e", "\u2028", "\xa0", "\ufeff", "\U0001f9e0"),
    *(",", ";", '"', "'", "\n", "\r", "\r\n", "\t", " ", "\x1b[31m", "\x07", "\x7f", "\\", "\\n", "~1", "^", "|"),
    *("=1+1", "+", "-", "@SUM(A1)", "<script>", "&lt;", "{{7*7}}", "%s", "[bold]", "NA", "null", "nan", "#"),
    *(".", ".dcm", ".v2", ".csv", "_any", "_subdural", "_1", "ID,Label\n", "\udcff"),
)
FORMULAS = ("=", "+", "-", "@")


def draw_stems(rng: np.random.Generator, n: int, *, without: str) -> list[str]:
    """Return names without a suffix of DICOM files, of which no two look alike once they are escaped.

    without: what the form cannot hold, or takes for something else.
    """
    stems: dict[str, str] = {}
    while len(stems) < n:
        pieces = [piece for piece in rng.choice(PIECES, size=int(rng.integers(1, 6))) if not set(without) & set(piece)]
        stem = "".join(map(str, pieces))
        if stem.strip(".") and stem.rpartition(".")[2].lower() not in SUFFIXES:
            stems.setdefault(printable(stem), stem)
    return list(stems.values())


def as_folder(raw: Path) -> Path:
    return raw


def as_zip(raw: Path) -> Path:
    return archives.zip_folder(raw, raw.with_name("raw.zip"))


def as_zip_with_backslashes(raw: Path) -> Path:
    return archives.zip_with_backslashes(raw, raw.with_name("raw.zip"))


def write_slices(raw: Path, stems: list[str]) -> None:
    for number, stem in enumerate(stems):
        series, index = divmod(number, 8)
        phantoms.write_numbered(raw / f"folder {series}" / f"{stem}.dcm", series=series, index=index, side=8)


def write_truth(path: Path, stems: list[str], truth_NL: np.ndarray) -> Path:
    """Write labels as anybody would: names as they are, by a CSV writer."""
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(("ID", "Label"))
        for stem, values in zip(stems, truth_NL.tolist(), strict=True):
            writer.writerows((f"{stem}_{name}", value) for name, value in zip(ICH.slices.names, values, strict=True))
    return path


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("form", "without"),
    [(as_folder, "/"), (as_zip, "\udcff"), (as_zip_with_backslashes, "\udcff\\")],
    ids=["folder", "zip", "zip_with_backslashes"],
)
def test_any_name_survives(tmp_path: Path, form: Callable[[Path], Path], without: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    stems = draw_stems(rng, 64, without=without)
    write_slices(tmp_path / "raw", stems)
    truth_NL = rng.integers(0, 2, size=(len(stems), 6))
    truth = write_truth(tmp_path / "truth.csv", stems, truth_NL)
    report = prepare(form(tmp_path / "raw"), tmp_path / "store", task=ICH, labels=truth, n_folds=2, n_jobs=1)
    assert (report.n_slices, report.n_unlabelled, report.n_labels_without_image) == (len(stems), 0, 0)
    store = Store.open(tmp_path / "store")
    assert store.index["image_id"].tolist() == [printable(stem) for stem in stems]
    np.testing.assert_array_equal(store.labels, truth_NL)

    tables = []
    for name in ("a.csv", "b.csv.gz"):
        tables.append(make_table(store, np.arange(len(store)), rng.random((len(store), 6))))
        write_submission(tmp_path / name, ICH, tables[-1])
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["ID", "Label"]
    assert [row[0] for row in rows[1:]] == [f"{printable(stem)}_{name}" for stem in stems for name in ICH.slices.names]
    assert [float(value) for _, value in rows[1:]] == tables[0].probability.ravel().tolist()
    bag([tmp_path / "a.csv", tmp_path / "b.csv.gz"], task=ICH, out=tmp_path / "bag.csv")
    smooth(tmp_path / "bag.csv", task=ICH, out=tmp_path / "smooth.csv.gz")
    for name in ("a.csv", "b.csv.gz", "bag.csv", "smooth.csv.gz"):
        scored = evaluate(tmp_path / name, truth, task=ICH, n_bootstrap=2)
        assert scored.image_ids == sorted(printable(stem) for stem in stems)
        assert scored.layout is not None
    mean = (tables[0].probability + tables[1].probability) / 2
    order = np.argsort([printable(stem) for stem in stems])
    np.testing.assert_allclose(
        read_labels(tmp_path / "bag.csv", ICH).values, mean.clip(1e-5, 1 - 1e-5)[order], atol=1e-12
    )


def test_names_that_a_spreadsheet_would_run_are_refused_by_a_switch(tmp_path: Path) -> None:
    stems = [f"{begin}1" for begin in FORMULAS] + ["a=1", "ID_7"]
    write_slices(tmp_path / "raw", stems)
    for options, image_ids in (([], stems), (["--refuse-formulas"], stems[-2:])):
        store = tmp_path / f"store{len(options)}"
        assert main(["prepare", str(tmp_path / "raw"), str(store), "--jobs", "1", *options]) == 0
        assert Store.open(store).index["image_id"].tolist() == image_ids
        refused = Store.open(store).read_refusals()
        assert [refusal.reason for refusal in refused] == ["formula_name"] * (len(stems) - len(image_ids))
