"""The verb that converts weights of the published solution: import-weights."""

import argparse
from pathlib import Path

from rsna_e2e.cli.verbs import Verbs, add_task, add_verb, tell
from rsna_e2e.tasks.catalogue import get_task


def add_import_weights(verbs: Verbs) -> None:
    """Add `rsna-e2e import-weights`."""
    verb = add_verb(
        verbs,
        "import-weights",
        _import_weights,
        "Convert weights of the published solution to a file for train --init-from.",
        "rsna-e2e import-weights model_480_epoch2_fold0.bin images.safetensors --kind images",
        "rsna-e2e import-weights lstm.pth head.safetensors --kind sequences",
        "rsna-e2e import-weights resnet18.pth images.safetensors --kind images --backbone resnet18",
    )
    verb.add_argument("file", type=Path, metavar="FILE", help="a state_dict, .pth or .bin, or safetensors")
    verb.add_argument("out", type=Path, metavar="OUT.safetensors", help="file to write")
    verb.add_argument(
        "--kind",
        choices=("images", "sequences"),
        required=True,
        help="images: a classifier of single images (torchvision's ResNet names); sequences: the recurrent head",
    )
    verb.add_argument(
        "--backbone", default="resnext101_32x8d", help="timm's name of the classifier (default resnext101_32x8d)"
    )
    add_task(verb)


def _import_weights(options: argparse.Namespace) -> None:
    from rsna_e2e.model.import_published import import_weights

    done = import_weights(
        options.file, options.out, kind=options.kind, task=get_task(options.task), backbone=options.backbone
    )
    of_model = "model.head=none" if options.kind == "images" else f"model.backbone=none, embeddings of {done.width}"
    tell(f"{done.n_tensors} tensors, {done.n_labels} labels, width {done.width}: {options.out}")
    tell(f"for models with {of_model}: --init-from {options.out}")
