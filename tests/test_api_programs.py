"""The programs in docs/api.md, run as they stand there, each in a process of its own, beside files that it finds."""

# N slices, C channels, S side

import ast
import csv
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import phantoms
import pytest
import small
import torch

import rsna_e2e
from rsna_e2e.cli import main
from rsna_e2e.core.records import Float64Array, Int16Array
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.training.train import train

PAGE = (Path(__file__).parents[1] / "docs/api.md").read_text()
PROGRAMS = dict(re.findall(r"<!-- program: (\w+) -->\n```python\n(.*?)```", PAGE, re.DOTALL))
FLOAT32 = 1e-5  # of values up to 3


def run_program(name: str, folder: Path) -> list[str]:
    """The lines that a program prints in `folder`; a warning is an error."""
    (folder / f"{name}.py").write_text(PROGRAMS[name])
    command = [sys.executable, "-W", "error", f"{name}.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def head_in_air(shape: tuple[int, int], *, x0: int, y0: int, side: int, seed: int) -> Int16Array:
    """A slice [H, W] of air with a square in which all HU are above the black of some window."""
    hu = np.full(shape, -1000, dtype=np.int16)
    hu[y0 : y0 + side, x0 : x0 + side] = np.random.default_rng(seed).integers(-100, 300, size=(side, side))
    return hu


def halved(hu_HW: Int16Array) -> Float64Array:
    """Images [C, S, S] of half the side: windowed (LINEAR_EXACT, PS3.3 C.11.2.1.3.2), mean of 2 x 2, normalised."""
    channels = []
    for (center, width), mean, std in zip(ICH.inputs.windows_hu, ICH.inputs.mean, ICH.inputs.std, strict=True):
        windowed = np.clip((hu_HW - (center - width / 2)) / width, 0, 1)
        small = windowed.reshape(len(hu_HW) // 2, 2, -1, 2).mean(axis=(1, 3))
        channels.append((small - mean) / std)
    return np.stack(channels)


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_program_has_at_most_thirty_lines(program: str) -> None:
    assert len(program.splitlines()) <= 30


def test_the_constants_are_those_of_the_task() -> None:
    rows = [row.split("|")[2:-1] for row in re.findall(r"^\| \d .*", PAGE, re.MULTILINE)]
    shown = [[float(word) for cell in row for word in cell.split(" to ")] for row in rows]
    windows = zip(ICH.inputs.windows_hu, ICH.inputs.mean, ICH.inputs.std, strict=True)
    assert shown == [
        [center, width, center - width / 2, center + width / 2, mean, std] for (center, width), mean, std in windows
    ]


def test_there_are_four_programs_and_they_use_public_names_alone() -> None:
    assert sorted(PROGRAMS) == ["dali", "kernel", "loader", "run"]
    assert PAGE.count("```python") == 4
    for program in PROGRAMS.values():
        used = set(re.findall(r"\brsna_e2e[.](\w+)", program))
        for node in ast.walk(ast.parse(program)):
            if isinstance(node, ast.ImportFrom) and "rsna_e2e" in str(node.module):
                assert node.module == "rsna_e2e"
                used |= {alias.name for alias in node.names}
        assert used
        assert used <= set(rsna_e2e.__all__)


@pytest.mark.parametrize("name", rsna_e2e.__all__)
def test_every_public_name_is_described(name: str) -> None:
    assert re.search(rf"^\| `{name}\b", PAGE, re.MULTILINE)


def test_kernel(tmp_path: Path) -> None:
    """The content of all slices is a square of twice the image's side: each pixel is the mean of 2 x 2."""
    hu = np.stack([head_in_air((480, 500), x0=20, y0=7, side=448, seed=seed) for seed in range(34)])
    hu[5] = -1000  # air, which has no content
    np.save(tmp_path / "hu.npy", hu)
    assert run_program("kernel", tmp_path) == []
    images = np.load(tmp_path / "images.npy")
    assert (images.shape, images.dtype) == ((34, 3, 224, 224), np.dtype("float32"))
    expected = np.stack([halved(slice_hu[7:455, 20:468]) for slice_hu in hu])
    np.testing.assert_allclose(images, expected, rtol=0, atol=FLOAT32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store, the DICOM files it was made of, a run that learned from it, and DICOM files it did not."""
    folder = tmp_path_factory.mktemp("programs")
    train(small.make_store(folder), folder / "run", small.config())
    for index, name in enumerate("cab"):  # names in another order than positions
        phantoms.write_numbered(folder / f"dicom/{name}.dcm", series=7, index=index, side=small.SIDE)
    (folder / "dicom/notes.txt").write_text("no image")
    return folder


def test_loader(folder: Path) -> None:
    with (folder / "raw/stage_2_train.csv").open() as file:
        n_positive = sum(float(row["Label"]) for row in csv.DictReader(file) if row["ID"].endswith("_any"))
    lines = [re.split(r"[ :,]+", line) for line in run_program("loader", folder)]
    assert [int(words[1]) for words in lines] == list(range(1, 11))
    assert {(int(words[2]), int(words[4])) for words in lines} == {(sum(small.LENGTHS), int(n_positive))}
    losses = [float(words[-1]) for words in lines]
    assert losses[-1] < 0.9 * losses[0]  # the labels can be seen in the pixels


def test_without_an_epoch_slices_are_as_they_are(folder: Path) -> None:
    store = rsna_e2e.Store.open(folder / "store")
    loader = rsna_e2e.ImageLoader(store, small.config(), task=ICH, device=torch.device("cpu"))
    positions = range(len(store.series))
    groups = loader.group(positions)
    plain, again, augmented = (
        [(batch.rows.tolist(), batch.images.numpy().copy()) for batch in loader.load(groups, **epoch)]
        for epoch in ({}, {}, {"epoch": 1})
    )
    assert [row for rows, _ in plain for row in rows] == list(range(len(store)))
    for (_, images), (_, same) in zip(plain, again, strict=True):
        np.testing.assert_array_equal(images, same)
    assert any(np.abs(other - images).max() > 0.01 for (_, images), (_, other) in zip(plain, augmented, strict=True))


def test_run(folder: Path) -> None:
    """What `rsna-e2e prepare` and `predict` say of the same files, slices in the order of their positions."""
    store, submission = folder / "prepared", folder / "submission.csv"
    assert main(["prepare", str(folder / "dicom"), str(store), "--jobs", "1"]) == 0
    assert main(["predict", str(folder / "run"), str(store), "--out", str(submission)]) == 0
    with submission.open() as file:
        expected = {row["ID"]: float(row["Label"]) for row in csv.DictReader(file)}
    *lines, last = run_program("run", folder)
    assert [line.split(" {")[0] for line in lines] == ["c 0.0 mm", "a 5.0 mm", "b 10.0 mm"]
    printed = {
        f"{line.split()[0]}_{label}": probability
        for line in lines
        for label, probability in ast.literal_eval(line[line.index("{") :]).items()
    }
    assert printed == pytest.approx(expected, rel=0, abs=1e-6)  # the file's decimals
    assert last.startswith("not read: notes.txt not_dicom ")


@pytest.mark.needs_dali
def test_dali(tmp_path: Path) -> None:
    (tmp_path / "slices").mkdir()
    slices = [head_in_air((128, 128), x0=3 * k, y0=5 * k, side=100, seed=k) for k in range(2)]
    slices.append(np.full((128, 128), -1000, dtype=np.int16))
    for number, hu in enumerate(slices):
        np.save(tmp_path / f"slices/{number}.npy", hu)
    assert run_program("dali", tmp_path) == ["[[0, 0, 100, 100], [3, 5, 103, 105], [0, 0, 0, 0]]"]
    images = np.load(tmp_path / "dali_images.npy")
    assert (images.shape, images.dtype) == ((3, 3, 64, 64), np.dtype("float32"))
    np.testing.assert_allclose(images, [halved(hu) for hu in slices], rtol=0, atol=FLOAT32)
