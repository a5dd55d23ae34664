"""A store of made-up patients, one of them with a hostile id, and models for it, as the console is given them."""

from dataclasses import dataclass, replace
from pathlib import Path

import phantoms
import small
from served import untrained

from rsna_e2e.config import RunConfig
from rsna_e2e.inference.export import export
from rsna_e2e.serving.model import ServedModel
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import prepare
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.terminal.session import LoadedModel, Session
from rsna_e2e.training.calibration import LabelCalibration, RunCalibration, write_calibration
from rsna_e2e.training.operating_points import write_operating_points
from rsna_e2e.training.train import train

PATIENT = "ID_p3"  # one of `small`, of six slices, with labels
EVIL = "ID_evil"  # of two series without labels; its id becomes `HOSTILE` in `open_session`
HOSTILE = "\x1b[2J\x1b]0;x\x07[red]evil"
SHOWN = r"\x1b[2J\x1b]0;x\x07[red]evil"  # as a terminal may be shown it
N_SLICES = (4, 2)  # of that patient's series


@dataclass(frozen=True)
class Made:
    """store: of `small`, and of one more patient; bundle: of the first run, calibrated; run: another, which is not;
    first: the run of the bundle."""

    raw: Path
    store: Path
    bundle: Path
    first: Path
    run: Path

    @property
    def models(self) -> list[str]:
        return [str(self.bundle), str(self.run)]


def make(folder: Path) -> Made:
    """Write, prepare and train all of it in a few seconds."""
    raw = folder / "raw"
    small.write_raw(raw)
    for series, n_slices in enumerate(N_SLICES):
        for index in range(n_slices):
            dataset = phantoms.slice_dataset(
                phantoms.stored_image(small.SIDE, small.SIDE, seed=8 * series + index, form=phantoms.SIGNED_16),
                SOPInstanceUID=f"1.2.6.{series}.{index}",
                PatientID=EVIL,
                StudyInstanceUID="1.2.7.1",
                SeriesInstanceUID=f"1.2.8.{series}",
                ImagePositionPatient=[-125.0, -125.0, 5.0 * index],
            )
            phantoms.write_dicom(raw / f"h{series}{index}.dcm", dataset)
    prepare(raw, folder / "store", task=ICH, n_folds=3, n_jobs=1)
    runs = [folder / "first", folder / "second"]
    for number, run in enumerate(runs):
        train(Store.open(folder / "store"), run, small.config(f"seed={number}"), device="cpu")
    _calibrate(runs[0])
    bundle = export(runs[:1], folder / "model.rsna", name="small", version="1.0", licence="MIT").path
    return Made(raw=raw, store=folder / "store", bundle=bundle, first=runs[0], run=runs[1])


def _calibrate(run: Path) -> None:
    """Give a run a calibration and thresholds that change every number."""
    label = LabelCalibration(
        applied="platt", temperature=1.0, slope=0.5, intercept=-0.5, n_samples=9, n_positives=4, ece_before=0.1
    )
    calibration = RunCalibration(epoch=1, n_patients=4, slices=dict.fromkeys(ICH.slices.names, label), series={})
    write_calibration(run, calibration)
    at = {name: 0.3 + 0.05 * number for number, name in enumerate(ICH.slices.names)}
    write_operating_points(run, epoch=1, thresholds=at, at_sensitivity={"slices": {"0.90": at, "0.95": at}})


def open_session(made: Made) -> Session:
    """A session with both models, of a store with what `prepare` refuses: a patient id with control characters."""
    store = Store.open(made.store)
    store.series = tuple(
        replace(span, patient_id=HOSTILE) if span.patient_id == EVIL else span for span in store.series
    )
    models = [LoadedModel(path=path, served=ServedModel.open(path, device="cpu")) for path in (made.bundle, made.run)]
    return Session(store=store, task=ICH, models=models)


def session_of(config: RunConfig, store: Path, *, n_models: int = 1) -> Session:
    """A session with models of random weights."""
    models = [LoadedModel(path=Path("run"), served=untrained(config, seed=seed)) for seed in range(n_models)]
    return Session(store=Store.open(store), task=models[0].served.task, models=models)
