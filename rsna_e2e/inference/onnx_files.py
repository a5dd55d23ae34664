"""A trained network as two ONNX files for other programs: images to embeddings, and those of a series to logits."""

# N slices, C channels, S image side, F features, T slices of one series, L labels of slices, M of series

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rsna_e2e.core.errors import BadInputError, MissingCapabilityError
from rsna_e2e.core.records import Float32Array
from rsna_e2e.inference.bundle import ONNX_BACKBONE, ONNX_HEAD
from rsna_e2e.inference.trained_model import TrainedModel
from rsna_e2e.model.network import JointModel

_OPSET = 17  # of ONNX 1.12 of 2022, so that older runtimes read it
_OUTPUT = 1  # descriptor
_TRACED_AT = 7  # slices
_BACKBONE_AT = (1, 7)  # slices that both are asked about
_HEAD_AT = (1, 7, 201)
_TOLERANCE = 1e-4  # of embeddings and logits, or of the largest of them where that is above 1


class _Backbone(nn.Module):
    def __init__(self, network: JointModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_NCSS: torch.Tensor) -> torch.Tensor:
        return self.network.embed(images_NCSS)


class _Head(nn.Module):
    def __init__(self, network: JointModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, embeddings_TF: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits = self.network.classify_one(embeddings_TF)
        return (logits.slices,) if logits.series is None else (logits.slices, logits.series)


def check_onnx() -> None:
    """Raise MissingCapabilityError where the libraries of the extra onnx are missing."""
    try:
        import onnx  # noqa: F401  torch's exporter needs it
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise MissingCapabilityError(f"--onnx needs {error.name}. Run: pip install 'rsna_e2e[onnx]'") from None


@torch.inference_mode()
def write_onnx(trained: TrainedModel, folder: Path) -> float:
    """Write `ONNX_BACKBONE`, images [N, C, S, S] to embeddings [N, F], and `ONNX_HEAD`, embeddings [T, F] of a series
    in its order to logits: slices [T, L] and, of a model with a series head, series [1, M]. All float32; N and T are
    free.

    Images are as the program makes them: windows, resampling and normalisation are not in the files, nor are
    calibration and rules of the task. Return the largest difference of what onnxruntime computes from what torch does,
    as a share where numbers are above 1. Raises BadInputError where it is above 1e-4 or the network has what ONNX does
    not, UsageError for a network that finds boxes, MissingCapabilityError where libraries are missing.
    """
    check_onnx()
    trained.config.model.check_predicts_labels("--onnx")
    network, size = trained.joint, trained.config.image.size
    (folder / ONNX_BACKBONE).parent.mkdir(parents=True, exist_ok=True)
    n_channels = len(trained.task.inputs.windows_hu)
    images = torch.randn(max(_BACKBONE_AT), n_channels, size, size, generator=torch.Generator().manual_seed(0))
    embeddings = network.embed(images)
    backbone, head = _Backbone(network).eval(), _Head(network).eval()
    outputs = ["slices"] if network.study_head is None else ["slices", "series"]
    try:
        _write(backbone, images[:_TRACED_AT], folder / ONNX_BACKBONE, names=("images", "embeddings"), free="N")
        _write(head, embeddings[:_TRACED_AT], folder / ONNX_HEAD, names=("embeddings", *outputs), free="T")
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        what = str(error).partition("\n")[0]
        raise BadInputError(f"{trained.run}: has what ONNX has not: {what:.200}. Leave out --onnx") from error
    series = _like(embeddings, max(_HEAD_AT))
    checks = [_difference(backbone, folder / ONNX_BACKBONE, images[:n]) for n in _BACKBONE_AT]
    checks += [_difference(head, folder / ONNX_HEAD, series[:n]) for n in _HEAD_AT]
    if not max(checks) <= _TOLERANCE:  # nor where it is no number
        raise BadInputError(
            f"{trained.run}: in ONNX it answers otherwise, by {max(checks):.2g} of at most {_TOLERANCE:g}. Leave out "
            "--onnx"
        )
    return max(checks)


def _write(module: nn.Module, example: torch.Tensor, path: Path, *, names: Sequence[str], free: str) -> None:
    """Trace a network of one input, the first of `names`, and write it with its weights. free: the name of the first
    dimension, of series none, whose outputs are of the whole."""
    with warnings.catch_warnings(), _without_output():
        warnings.simplefilter("ignore")  # of what is traced: the files are asked about other lengths afterwards
        torch.onnx.register_custom_op_symbolic(  # type: ignore[attr-defined]  # torch does not list what it documents
            "aten::logaddexp", _logaddexp, _OPSET
        )
        torch.onnx.export(
            module,
            (example,),
            path,
            dynamo=False,  # torch's other exporter fixes T
            opset_version=_OPSET,
            input_names=list(names[:1]),
            output_names=list(names[1:]),
            dynamic_axes={name: {0: free} for name in names if name != "series"},
        )


@contextmanager
def _without_output() -> Iterator[None]:
    """Within, the standard output of the process is dropped: the exporter, in C++, prints graphs that it cannot do."""
    sys.stdout.flush()
    output = os.dup(_OUTPUT)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), _OUTPUT)
        yield
    finally:
        os.dup2(output, _OUTPUT)
        os.close(output)


def _logaddexp(graph: Any, one: Any, other: Any) -> Any:
    """Say in operators of ONNX a function that trees of labels are made of."""
    axis = graph.op("Constant", value_t=torch.tensor([0]))
    both = graph.op("Concat", *(graph.op("Unsqueeze", each, axis) for each in (one, other)), axis_i=0)
    return graph.op("ReduceLogSumExp", both, axes_i=[0], keepdims_i=0)


def _difference(module: Callable[[torch.Tensor], Any], path: Path, given: torch.Tensor) -> float:
    """Return the largest difference between what a file and the network that it was made of answer."""
    found = _answers(path, given)
    wanted = module(given)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    pairs = [(mine, torch_s.numpy()) for mine, torch_s in zip(found, wanted, strict=True)]
    if any(mine.shape != other.shape for mine, other in pairs):
        return float("inf")
    return max(float(np.abs(mine - other).max() / max(1.0, np.abs(other).max())) for mine, other in pairs)


def _answers(path: Path, given: torch.Tensor) -> list[Float32Array]:
    """Return what onnxruntime computes by a file of one input."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: it warns of what the trace left over
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        (name,) = (one.name for one in session.get_inputs())
        answers: list[Float32Array] = session.run(None, {name: given.numpy()})
    except Exception as error:  # its errors have no public class
        what = str(error).partition("\n")[0]
        raise BadInputError(f"{path.name}: onnxruntime cannot use it: {what:.200}. Leave out --onnx") from error
    return answers


def _like(embeddings_NF: torch.Tensor, n: int) -> torch.Tensor:
    """Return n embeddings, spread as these are."""
    drawn = torch.randn(n, embeddings_NF.shape[1], generator=torch.Generator().manual_seed(1))
    return embeddings_NF.mean(0) + drawn * embeddings_NF.std(0)
