"""Makes a bundle of trained runs: one file for other machines, with weights, task, calibration, thresholds and card."""

import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rsna_e2e.config import save_config
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.files import as_json, make_folder, prepare_file, real_path, sha256_of, write_json
from rsna_e2e.core.sealed_archive import write_sealed
from rsna_e2e.inference import bundle
from rsna_e2e.inference.bundle import BundleDescription
from rsna_e2e.inference.known_answers import check_answers, known_answers
from rsna_e2e.inference.model_card import model_card
from rsna_e2e.inference.onnx_files import write_onnx
from rsna_e2e.inference.trained_model import TrainedModel
from rsna_e2e.training.checkpoint import save_checkpoint
from rsna_e2e.training.checkpoint.state import describe
from rsna_e2e.training.run_folder import CONFIG_SHA256, STORE_HASH, read_config, read_manifest, write_task
from rsna_e2e.training.run_layout import CALIBRATION, CONFIG, MANIFEST, OPERATING_POINTS

_OF_MANIFEST = ("started_utc", "code", "data_hash", STORE_HASH, "seed")  # what names no machine and no path


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """The bundle that was written, what it says of itself, its `identity_of`, and its size. difference: of what its
    members answer, in the precision of their runs, from their known answers, see `check_answers`; onnx_difference: what
    `write_onnx` returns, None without ONNX files."""

    path: Path
    description: BundleDescription
    identity: str
    n_bytes: int
    difference: float
    onnx_difference: float | None
    damaged: tuple[str, ...]


def export(
    runs: Sequence[Path],
    out: Path,
    *,
    name: str,
    version: str,
    licence: str,
    checkpoint: str = "auto",
    has_onnx: bool = False,
) -> Exported:
    """Write a bundle of these runs, whose probabilities are averaged, once what is to be in it answers as they do.

    licence: an SPDX identifier, or the path of a file with its text. The same runs give the same bytes. Raises
    UsageError for runs of several tasks, for several of which one finds boxes, for one that learned from stored
    embeddings, or for no licence; BadInputError as `TrainedModel.open` does. has_onnx: with ONNX files of the one run;
    raises what `write_onnx` raises.
    """
    prepare_file(out, example=f"model{bundle.SUFFIX}")
    short, text = _licence(licence)
    opened = _open_all(runs, checkpoint, has_onnx=has_onnx)
    task = bundle.task_of([trained.task for trained in opened])
    described = BundleDescription(name=name, version=version, licence=short, task=task.name, n_members=len(opened))
    with tempfile.TemporaryDirectory(prefix="rsna_e2e-") as temporary:
        folder = Path(temporary)
        difference = _write_members(opened, folder / bundle.MEMBERS)
        onnx_difference = write_onnx(opened[0], folder) if has_onnx else None
        texts = {bundle.DESCRIPTION: as_json(described.model_dump(), indent=2) + "\n", bundle.LICENCE: text}
        texts[bundle.CARD] = model_card(described, opened)
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        seal = write_sealed(out, files | {name: written.encode() for name, written in texts.items()})
    return Exported(
        path=out,
        description=described,
        identity=bundle.identity_of(seal),
        n_bytes=out.stat().st_size,
        difference=difference,
        onnx_difference=onnx_difference,
        damaged=tuple(message for trained in opened for message in trained.damaged),
    )


def self_test(run: Path, *, device: str = "cpu") -> float:
    """Return what `check_answers` returns of a member of a bundle, and raise what it raises."""
    return check_answers(TrainedModel.open(run, device=device), run / bundle.KNOWN)


def _open_all(runs: Sequence[Path], checkpoint: str, *, has_onnx: bool) -> list[TrainedModel]:
    if has_onnx and len(runs) > 1:
        raise UsageError("--onnx is of one run, as an ensemble is not one network. Export each alone")
    if len({real_path(run) for run in runs}) < len(runs):
        raise UsageError("a run stands twice among those to export. Give each once")
    opened = [_open(run, checkpoint) for run in runs]
    for trained in opened if len(opened) > 1 else []:
        trained.config.model.check_predicts_labels("a mean of several runs")
    return opened


def _open(run: Path, checkpoint: str) -> TrainedModel:
    if run.is_file():
        raise UsageError(f"{run}: is a file. Export the folders of runs, as train makes them")
    if read_config(run).model.backbone == "none":
        raise UsageError(
            f"{run}: learned from stored embeddings, which other machines do not have. Export runs that see images, "
            "as joint training makes them"
        )
    return TrainedModel.open(run, checkpoint, device="cpu")


def _write_members(opened: Sequence[TrainedModel], folder: Path) -> float:
    """Write the members of a bundle, and return the most by which `self_test` finds one to differ."""
    members = [folder / str(number) for number in range(len(opened))]
    for trained, member in zip(opened, members, strict=True):
        _write_member(trained, member)
    return max(self_test(member) for member in members)


def _write_member(trained: TrainedModel, folder: Path) -> None:
    """Write what predicting needs of a run, as a run folder, and its known answers."""
    run = trained.run
    make_folder(folder)
    config = trained.config
    save_config(config.model_copy(update={"model": config.model.without_initial_weights()}), path=folder / CONFIG)
    write_task(folder, trained.task)
    manifest = read_manifest(run)
    kept = {key: manifest[key] for key in _OF_MANIFEST if key in manifest}
    write_json(folder / MANIFEST, kept | {"classifiers": [], CONFIG_SHA256: sha256_of(folder / CONFIG)})
    state = describe(trained.checkpoint).state
    is_best = state.best is not None and state.best.step == state.step
    save_checkpoint(folder, state if is_best else state.model_copy(update={"best": None}), model=trained.network)
    for name in (CALIBRATION, OPERATING_POINTS):
        if (run / name).is_file():
            shutil.copyfile(run / name, folder / name)
    (folder / bundle.KNOWN).write_bytes(known_answers(trained))


def _licence(given: str) -> tuple[str, str]:
    """Return the name of a licence, and its text. Raises UsageError for what is neither an identifier nor a file."""
    path = Path(given)
    try:
        if path.is_file():
            return path.name, path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise BadInputError(f"{path}: is no text in UTF-8. Give a licence's text, or an SPDX identifier") from None
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*( (AND|OR|WITH) [A-Za-z0-9][A-Za-z0-9.+-]*)*", given):
        raise UsageError(f"--licence {given}: neither an SPDX identifier, such as CC-BY-NC-4.0, nor a file")
    return given, f"SPDX-License-Identifier: {given}\n"
