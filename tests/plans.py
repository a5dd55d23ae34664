"""Forecasts of small plans, for the tests of what a plan takes."""

from pathlib import Path

import archives
import small

from rsna_e2e.config import load_two_stage
from rsna_e2e.training.pipeline.data_size import DataSize, measure_data
from rsna_e2e.training.pipeline.forecast import Forecast, forecast
from rsna_e2e.training.pipeline.model_sizes import ModelSizes
from rsna_e2e.training.pipeline.plan import plan_two_stage
from rsna_e2e.training.pipeline.planned_step import Folders, PlannedStep
from rsna_e2e.training.pipeline.run import Pipeline, Standing

TINY = (
    "images.model.backbone=test_resnet",
    "images.model.backbone_arguments={}",
    "images.image.size=32",
    "images.precision=fp32",
)
DATA = DataSize(n_slices=1000, n_test=200, n_series=25)
FOLDERS = Folders(raw=None, labels=None, store=Path("store"), out=Path("out"))


def make_data(folder: Path) -> Path:
    """Make a store in `folder`, and its raw files as a folder and an archive; return the folder."""
    small.make_store(folder)
    archives.zip_folder(folder / "raw", folder / "raw.zip")
    return folder


def of_two_stages(folders: Folders, mode: str, *overrides: str) -> Forecast:
    """The forecast of a mode of the demo recipe with a tiny backbone."""
    steps = plan_two_stage(mode, load_two_stage("demo", [*TINY, *overrides]), folders)
    data = measure_data(folders, [step.settings for step in steps if step.settings is not None])
    return forecast(Pipeline(steps, folders).standings(), ModelSizes(steps), data)


def standing(name: str, verb: str, **more: object) -> Standing:
    """A step that is still to be done."""
    step = PlannedStep(name=name, part="images", verb=verb, arguments=(), output=Path("none"), **more)
    return Standing(step=step, state="to do", is_needed=True, starts_over=False)
