"""The verbs that put models to use: export makes one file of trained runs, process applies it to a folder of images."""

import argparse
import sys
from pathlib import Path

from rsna_e2e.cli.arguments import add_checkpoint, add_device
from rsna_e2e.cli.signals import ends_at_signals
from rsna_e2e.cli.verbs import Verbs, add_verb, tell


def add_export(verbs: Verbs) -> None:
    """Add `rsna-e2e export`."""
    verb = add_verb(
        verbs,
        "export",
        _export,
        "Put trained runs into one sealed file, with task, calibration, thresholds, model card and licence: for "
        "predict, explain and process.",
        "rsna-e2e export runs/demo --out model.rsna --licence CC-BY-NC-4.0",
        "rsna-e2e export runs/a runs/b --out both.rsna --name ich --version 2.0 --licence LICENSE.txt   # an ensemble",
    )
    verb.add_argument("model_runs", type=Path, nargs="+", metavar="RUN", help="run folders made by train")
    verb.add_argument("--out", type=Path, required=True, metavar="FILE.rsna", help="file to write")
    verb.add_argument("--name", help="of the model (default that of FILE, without .rsna)")
    verb.add_argument("--version", default="1.0", help="of the model (default 1.0)")
    verb.add_argument(
        "--licence",
        required=True,
        metavar="SPDX|FILE",
        help="under which it may be used: an SPDX identifier, such as CC-BY-NC-4.0, or a file with the text",
    )
    verb.add_argument(
        "--onnx",
        action="store_true",
        help="with the network in ONNX too, for other programs: onnx/backbone.onnx and onnx/head.onnx in FILE",
    )
    add_checkpoint(verb)


def _export(options: argparse.Namespace) -> None:
    from rsna_e2e.inference.bundle import ONNX_BACKBONE, ONNX_HEAD
    from rsna_e2e.inference.export import export

    done = export(
        options.model_runs,
        options.out,
        name=options.name or options.out.stem,
        version=options.version,
        licence=options.licence,
        checkpoint=options.checkpoint,
        has_onnx=options.onnx,
    )
    tell(*(f"damaged checkpoint skipped: {problem}" for problem in done.damaged))
    described = done.description
    n_runs = f"{described.n_members} run{'s' if described.n_members > 1 else ''}"
    tell(
        f"{done.path}: {described.name} {described.version} of {n_runs}, {done.n_bytes / 2**20:.1f} MiB, "
        f"identity {done.identity}",
        f"asked before it was written: known answers differ by {done.difference:.1e} at most",
    )
    if done.onnx_difference is not None:
        tell(f"{ONNX_BACKBONE}, {ONNX_HEAD}: answers of onnxruntime differ by {done.onnx_difference:.1e} at most")


def add_process(verbs: Verbs) -> None:
    """Add `rsna-e2e process`."""
    verb = add_verb(
        verbs,
        "process",
        _process,
        "Predict every study in a folder of DICOM files once and end: for each a result.json, pictures of its key "
        "slices and a page. For cron and containers.",
        "rsna-e2e process incoming results --model model.rsna",
        "rsna-e2e process study.zip results --model model.rsna --no-pictures   # numbers alone",
    )
    verb.add_argument("raw", type=Path, metavar="IN", help="a folder or zip archive of DICOM files, or X-ray images")
    verb.add_argument("out", type=Path, metavar="OUT", help="folder for a folder of each study, and summary.json")
    verb.add_argument(
        "--model", type=Path, required=True, metavar="FILE.rsna", help="a bundle by export, or the folder of a run"
    )
    verb.add_argument("--no-pictures", action="store_true", help="write result.json alone")
    add_device(verb)


def _process(options: argparse.Namespace) -> None:
    from rsna_e2e.core.console import progress_bar
    from rsna_e2e.core.errors import BadInputError
    from rsna_e2e.dicom.sources.files import check_is_source
    from rsna_e2e.inference.bundle import check_is_model

    check_is_source(options.raw)  # before torch is loaded, which takes seconds
    check_is_model(options.model)
    from rsna_e2e.serving.model import ServedModel
    from rsna_e2e.serving.process import process

    with ends_at_signals() as is_stopping, progress_bar("process", unit="files or slices") as progress:
        model = ServedModel.open(options.model, device=options.device)
        done = process(
            *(options.raw, options.out, model),
            has_pictures=not options.no_pictures,
            is_stopping=is_stopping,
            progress=progress,
        )
    for result in done.results:
        tell(f"{result.study}: {result.sentence}")
    for study, why in done.failed.items():
        tell(f"{study}: failed: {why}", to=sys.stderr)
    if done.refused:
        tell(f"not taken: {', '.join(f'{n} {reason}' for reason, n in done.refused.items())}")
    tell(
        f"{options.out}: {len(done.results)} studies with {model.name} {model.version}".rstrip()
        + f"; prepared in {done.prepare_s:.1f} s, predicted in {done.predict_s:.1f} s"
    )
    if done.failed:
        n = len(done.failed)
        raise BadInputError(
            f"{options.out}: {n} of {n + len(done.results)} studies failed, for the reasons above; the others are "
            "written"
        )
