"""The verb that makes a store: prepare."""

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rsna_e2e.cli.arguments import SEED, add_division, add_reading, at_least_one, given_labels
from rsna_e2e.cli.stores import warn_of_labels
from rsna_e2e.cli.verbs import Verbs, add_verb, tell
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.files import is_inside
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import N_FOLDS
from rsna_e2e.tasks.catalogue import get_task

if TYPE_CHECKING:
    from rsna_e2e.core.records import Modality
    from rsna_e2e.store.prepare import PrepareReport, Reading
    from rsna_e2e.store.pseudonyms import Pseudonyms


def add_prepare(verbs: Verbs) -> None:
    """Add `rsna-e2e prepare`."""
    verb = add_verb(
        verbs,
        "prepare",
        _prepare,
        "Read a folder or zip of DICOM files, or of X-rays, once into a study store: pixels in order, labels, folds, "
        "refusals.",
        "rsna-e2e prepare raw store",
        "rsna-e2e prepare /data/dicom store --labels labels.csv.gz   # IDs by file name, path or SOP Instance UID",
        "rsna-e2e prepare /data/dicom store --labels table.csv --columns ID=filename any=Hemorrhage",
        "rsna-e2e prepare /data/dicom store --holdout 0.2   # a fifth of the patients for --split test",
        "rsna-e2e prepare rsna-intracranial-hemorrhage-detection.zip store   # read in place, labels too",
        "rsna-e2e prepare /data/dicom store --shard 1/4   # on the first of four machines, and so on; then anywhere:",
        "rsna-e2e prepare /data/dicom store --merge store.part-*",
        "rsna-e2e prepare /data/dicom store --deidentify ~/keys/study.key   # see docs/privacy.md",
        "rsna-e2e prepare shards store --labels train.csv --task pe   # HDF5 files, see docs/shards.md",
        "rsna-e2e prepare radiographs store --task pneumonia --labels folders   # DICOM, PNG, JPEG, see docs/xrays.md",
    )
    verb.add_argument(
        "raw",
        type=Path,
        metavar="RAW",
        help="folder of DICOM files (of X-rays also PNG and JPEG), nested at will, a zip of one, or shards",
    )
    verb.add_argument("store", type=Path, metavar="STORE", help="folder to make")
    _add_labels(verb.add_argument_group("labels"))
    verb.add_argument("--jobs", type=at_least_one, help="processes (default: all cores)")
    _add_contents(verb)
    add_division(verb.add_argument_group("folds and test split"), folds=N_FOLDS)
    _add_refusing(verb.add_argument_group("what is refused"))
    _add_sharing(verb.add_argument_group("several machines"))


def _add_labels(options: "argparse._ArgumentGroup") -> None:
    options.add_argument(
        "--labels",
        type=Path,
        help="CSV with columns ID,Label, or one column per label, see docs/labels.md; none; or folders, where these "
        "are called like labels (default: *train*.csv[.gz] in or by RAW)",
    )
    add_reading(options)


def _add_contents(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--compress",
        action="store_const",
        const="bitshuffle-lz4",
        default="none",
        help="compress the pixels losslessly, to about half the size (bitshuffle-LZ4, HDF5's filter 32008)",
    )
    verb.add_argument(
        "--deidentify",
        type=Path,
        metavar="KEYFILE",
        help="hash patient ids, UIDs, image ids and refused paths with the key in KEYFILE, which is made if missing",
    )
    verb.add_argument(
        "--without-demographics",
        action="store_true",
        help="leave out sex and age, which a store of X-rays has otherwise (see docs/privacy.md)",
    )


def _add_refusing(options: "argparse._ArgumentGroup") -> None:
    options.add_argument(
        "--modality",
        choices=("ct", "xr"),
        help="what files have to be: CT, or radiographs (CR, DX, RG; also PNG and JPEG); all others are refused "
        "(default: what the task is about)",
    )
    options.add_argument(
        "--require-hu",
        action="store_true",
        help="refuse files whose RescaleType is US (unspecified), even where their values are those of HU",
    )
    options.add_argument(
        "--refuse-formulas",
        action="store_true",
        help="refuse files whose name or SOP Instance UID begins with =, +, - or @, which a spreadsheet would run as a "
        "formula",
    )
    options.add_argument(
        "--strict", action="store_true", help="exit with 3 if anything was refused; the store is made all the same"
    )


def _add_sharing(options: "argparse._ArgumentGroup") -> None:
    options.add_argument(
        "--shard", type=_part, metavar="I/N", help="do part I of N, for machine I of N, in STORE.part-I-of-N"
    )
    options.add_argument(
        "--merge", type=Path, nargs="+", default=[], metavar="PART", help="make STORE of these finished parts"
    )
    options.add_argument("--ray", action="store_true", help="use a Ray cluster (RAY_ADDRESS) that sees the same files")


def _part(text: str) -> tuple[int, int]:
    if not re.fullmatch(r"[0-9]+/[0-9]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N, such as 1/4")
    number, n = text.split("/")
    return int(number), int(n)


def _prepare(options: argparse.Namespace) -> None:
    from rsna_e2e.core.console import field_lines, progress_bar
    from rsna_e2e.store.prepare import Part, prepare, prepare_part

    if options.shard is not None:
        _check_is_for_a_part(options)
    reading = _reading(options)
    pseudonyms = _pseudonyms(options)
    with progress_bar("prepare", unit="slices") as progress:
        how = {
            "task": get_task(options.task),
            "labels": given_labels(options),
            "image_ids": options.image_ids,
            "n_jobs": options.jobs,
            "on_ray": options.ray,
            "compression": options.compress,
            "reading": reading,
            "progress": progress,
        }
        if options.shard is not None:
            tell(*field_lines(prepare_part(options.raw, options.store, Part(*options.shard), **how)).splitlines())
            return
        report = prepare(
            options.raw,
            options.store,
            n_folds=options.folds,
            holdout=options.holdout,
            seed=options.seed,
            parts=options.merge,
            pseudonyms=pseudonyms,
            **how,
        )
    _say_prepared(report, options, modality=reading.modality)


def _reading(options: argparse.Namespace) -> "Reading":
    from rsna_e2e.store.prepare import Reading, modality_of

    return Reading(
        modality=options.modality or modality_of(get_task(options.task)),
        requires_hu=options.require_hu,
        refuse_formulas=options.refuse_formulas,
        without_demographics=options.without_demographics,
    )


def _say_prepared(report: "PrepareReport", options: argparse.Namespace, *, modality: "Modality") -> None:
    """Print the report and its warnings. Raises BadInputError with --strict when anything was refused."""
    from rsna_e2e.core.console import field_lines

    tell(*field_lines(report).splitlines())
    if report.refusals:
        tell(f"what was refused, and why: {options.store / 'refusals.parquet'}")
    if options.deidentify is not None:
        tell(f"identifiers are hashed with the key in {options.deidentify}: keep it, apart from the store")
    _warn(report, options.task, modality=modality)
    if options.strict and report.refusals:
        raise BadInputError(
            f"{options.store}: made, but without {sum(report.refusals.values())} files or slices that were refused "
            "(--strict). Look at its refusals.parquet"
        )


def _check_is_for_a_part(options: argparse.Namespace) -> None:
    """Raise UsageError for options that concern the merged store, not one part of it."""
    if options.deidentify is not None:
        raise UsageError(
            "--deidentify: parts of a store hold identifiers. Give it where they are merged, not to --shard"
        )
    given = {
        "--merge": bool(options.merge),
        "--strict": options.strict,
        "--folds": options.folds != N_FOLDS,
        "--holdout": options.holdout is not None,
        "--seed": options.seed != SEED,
    }
    for name, is_given in given.items():
        if is_given:
            raise UsageError(f"{name}: has no effect on a part of a store. Give it where parts are merged")


def _warn(report: "PrepareReport", task: str, *, modality: "Modality") -> None:
    warn_of_labels(report, task)
    if n := report.geometry.get("studies_with_a_series_for_every_slice"):
        tell(
            f"warning: in {n} of the studies each slice has a SeriesInstanceUID of its own, so that none has a "
            "neighbour. Give the slices of one volume one UID, and prepare again",
            to=sys.stderr,
        )
    if n := report.refusals.get(Reason.INTERNAL_ERROR):
        tell(
            f"warning: {n} files or slices were refused because of a bug in this program; the details in "
            "refusals.parquet name its place. Please report it",
            to=sys.stderr,
        )
    if report.n_studies_as_patients:
        places = "several folds, or both in training and among the held-out" if report.held_out else "several folds"
        way_out = " (a column PatientID of the label file names the patients)" if modality == "xr" else ""
        tell(
            f"warning: studies that name no patient (PatientID is empty): {report.n_studies_as_patients}. Each counts "
            f"as a patient, so studies of one patient may be in {places}{way_out}",
            to=sys.stderr,
        )
    if report.n_burned_in:
        tell(
            f"warning: {report.n_burned_in} slices declare text burned into their pixels (BurnedInAnnotation), perhaps "
            "names; it cannot be removed here. Look at them before you pass the store on",
            to=sys.stderr,
        )


def _pseudonyms(options: argparse.Namespace) -> "Pseudonyms | None":
    """The pseudonyms for `--deidentify`, whose key file is made if it is missing; None without that option."""
    key: Path | None = options.deidentify
    if key is None:
        return None
    for folder, what in ((options.store, "store"), (options.raw, "raw folder")):
        if is_inside(key, folder):
            raise UsageError(f"{key}: the key must not lie inside the {what} {folder}. Choose another place")
    from rsna_e2e.store.pseudonyms import is_open_to_others, load_or_make_key

    pseudonyms = load_or_make_key(key)
    if is_open_to_others(key):
        tell(f"warning: {key} can be read by others. Run: chmod 600 {key}", to=sys.stderr)
    return pseudonyms
