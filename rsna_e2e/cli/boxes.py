"""The verb that drops boxes by what a classifier says of the image: gate."""

import argparse
from pathlib import Path

from rsna_e2e.cli.arguments import share
from rsna_e2e.cli.predictions import say_truth
from rsna_e2e.cli.results import asked_task
from rsna_e2e.cli.verbs import Verbs, add_verb, tell


def add_gate(verbs: Verbs) -> None:
    """Add `rsna-e2e gate`."""
    verb = add_verb(
        verbs,
        "gate",
        _gate,
        "Drop the boxes of images that a classifier thinks have none; those that are left keep their scores.",
        "rsna-e2e gate boxes.csv classes.csv --run runs/classifier --out gated.csv",
        "rsna-e2e gate boxes.csv classes.csv --least 0.2 --out gated.csv",
    )
    verb.add_argument("boxes", type=Path, metavar="BOXES", help="submission of boxes, by predict or any other program")
    verb.add_argument(
        "classes", type=Path, metavar="CLASSES", help="submission of labels of the same images, by predict or any other"
    )
    threshold = verb.add_mutually_exclusive_group(required=True)
    threshold.add_argument(
        "--run",
        dest="classifier",
        type=Path,
        metavar="RUN",
        help="the classifier's run, whose threshold is taken: that with the highest sensitivity + specificity on the "
        "fold that it held out",
    )
    threshold.add_argument(
        "--least", type=share, metavar="P", help="drop boxes of images where the label's probability is lower"
    )
    verb.add_argument("--out", type=Path, required=True, help="submission file, .csv or .csv.gz")
    verb.add_argument(
        "--task", metavar="NAME|FILE", help="what is predicted (default: the task that has the columns of BOXES)"
    )


def _gate(options: argparse.Namespace) -> None:
    from rsna_e2e.inference.gate import gate, thresholds_of

    task = asked_task(options, options.boxes)
    least = dict.fromkeys(task.boxes, options.least)
    if options.classifier is not None:
        least = thresholds_of(options.classifier, task)
    done = gate(options.boxes, options.classes, task=task, least=least, out=options.out)
    tell(
        f"dropped {done.n_dropped} of {done.n_boxes} boxes, in {done.n_images_dropped} of {done.n_images} images: the "
        f"probability is below {', '.join(f'{p:.4g} ({name})' for name, p in least.items())}",
        f"submission: {options.out}",
    )
    say_truth(options.out, done.truth, task=options.task or task.name)
