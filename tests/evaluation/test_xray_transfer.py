"""Networks compared on a folder of radiographs, by bin/run_52_xray_transfer.sh: from images to the table."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from compared import check_table
from PIL import Image
from radiographs import chest
from scripts import run_script

SCRIPT = "run_52_xray_transfer.sh"
TASK = """
name: covid
title: Covid, or not
slices: {names: [covid], weights: [1]}
headline: covid
inputs: {windows_hu: [[16383.5, 32767]], mean: [0.5], std: [0.25], values: grey}
"""
# Without weights to download; one process, so that the test does not wait for the start of others
SCRATCH = ("--set", "model.pretrained=false", "--set", "precision=fp32", "--device", "cpu")
FIVE = (
    *("torchvision.squeezenet1_0", "torchvision.squeezenet1_1"),
    *("resnet18.tv_in1k", "resnet34.tv_in1k", "resnet50.tv_in1k"),
)


def write_images(folder: Path, n: int) -> None:
    """Write `n` radiographs in 8 bits; a third is positive and has something bright in a lung."""
    for number in range(n):
        is_positive = number % 3 == 0
        grey = chest((64, 56), seed=number) / 16
        if is_positive:
            grey[36:50, 8:20] += 90
        path = folder / ("covid" if is_positive else "non") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(path)


def compare(folder: Path, backbones: Sequence[str], *words: str, n: int) -> list[dict[str, str]]:
    """Write images and compare backbones on them by the script alone; return the table, which is as it should be."""
    write_images(folder / "images", n)
    (folder / "task.yaml").write_text(TASK)
    done = run_script(folder, SCRIPT, *SCRATCH, *words, DATA="images", TASK="task.yaml", BACKBONES=",".join(backbones))
    assert done.returncode == 0, done.stderr
    out = folder / "out/compared"
    rows = check_table(out, "covid")
    assert [row["run"] for row in rows] == [f"model.backbone={name}" for name in backbones]
    content = json.loads((out / "comparison.json").read_text())
    page = (out / "comparison.html").read_text()
    for number, row in enumerate(content["runs"]):
        assert f'<th scope="row">{row["run"]}</th>' in page
        assert f'<data value="{row["auc"]}" class="number" title="runs.{number}.auc">' in page
    assert page.count("data:image/svg+xml") == 2
    assert (folder / "out/inspection/inspection.html").exists()
    return rows


def test_one_command_goes_from_images_in_folders_to_the_table(tmp_path: Path) -> None:
    small = ("image.size=32", "slice_phase.epochs=1", "slice_phase.slices_per_batch=8")
    words = [word for setting in small for word in ("--set", setting)]
    rows = compare(tmp_path, ("test_resnet", "test_efficientnet"), *words, n=30)
    for row in rows:  # of a frozen backbone the classifier learns: norms of twice the features and of 512, 2 layers
        n_features = (int(row["learned"]) - 2 * 512 - 512) // (512 + 2)
        assert int(row["learned"]) == 2 * n_features + 512 * n_features + 2 * 512 + 512
        assert int(row["weights"]) > int(row["learned"])


def test_the_script_without_data_says_so(tmp_path: Path) -> None:
    done = run_script(tmp_path, SCRIPT, DATA="")
    assert done.returncode == 2
    assert done.stderr.startswith("run_52_xray_transfer: DATA is not set; it must be a folder or zip of radiographs.")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_five_networks_are_compared_on_sixty_images(tmp_path: Path) -> None:
    """Those of the source's own table. SqueezeNet has 512 maps; the source's number of weights is of two labels."""
    rows = compare(tmp_path, FIVE, "--set", "image.size=64", n=60)
    assert int(rows[0]["weights"]) == 1_263_808 - 512
    assert [int(row["learned"]) for row in rows[:4]] == [528_384 - 512] * 4
