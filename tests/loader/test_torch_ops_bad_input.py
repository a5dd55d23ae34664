"""transform_slices refuses arguments out of range, naming the argument and the slice."""

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from rsna_e2e.core.errors import MissingCapabilityError
from rsna_e2e.loader.kernels import torch_ops

IDENTITY = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])


def with_nan(affine: torch.Tensor) -> torch.Tensor:
    return affine * torch.where(torch.arange(6).reshape(2, 3) == 4, math.nan, 1.0)


HU = torch.zeros(2, 8, 9, dtype=torch.int16)
AFFINE = IDENTITY.repeat(2, 1, 1)
BAD_ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "float_hu": ({"hu": HU.float()}, "int16"),
    "one_slice_without_n": ({"hu": HU[0]}, r"\[N, H, W\]"),
    "one_pixel": ({"hu": HU[:, :1, :1]}, "1 to 32767"),
    "affine_of_other_n": ({"affine": IDENTITY}, r"affine must be .* \[2, 2, 3\]"),
    "affine_float64": ({"affine": AFFINE.double()}, "affine must be a contiguous float32"),
    "nan_matrix": ({"affine": torch.cat([IDENTITY, with_nan(IDENTITY)])}, "slice 1: .* not finite"),
    "singular_matrix": ({"affine": AFFINE * torch.tensor([[1.0], [0.0]])}, "slice 0: .* singular"),
    "far_matrix": ({"affine": AFFINE * 1e9}, "slice 0: .* pixels away"),
    "no_windows": ({"windows": torch.empty(0, 2)}, "C at least 1"),
    "width_zero": ({"windows": [(40.0, 80.0), (40.0, 0.0)]}, "window 1: its width"),
    "width_nan": ({"windows": [(40.0, math.nan)]}, "window 0: its width"),
    "width_infinite": ({"windows": [(40.0, math.inf)]}, "window 0: its width must be above 0 and at most 1e9"),
    "center_infinite": ({"windows": [(math.inf, 80.0)]}, "window 0: its center"),
    "size_zero": ({"size": 0}, "size must be"),
    "supersample_zero": ({"supersample": 0}, "supersample must be"),
    "border_unknown": ({"border": "reflect"}, '"reflect"; it must be "zero" or "replicate"'),
    "dtype_unknown": ({"dtype": torch.float64}, "dtype must be"),
    "mean_of_other_c": ({"mean": [0.5, 0.5]}, r"mean must be .* \[1\]"),
    "std_zero": ({"std": [0.0]}, "channel 0: its std"),
    "mean_nan": ({"mean": [math.nan]}, "channel 0: its mean"),
    "box_outside": ({"source_box": torch.tensor([[0, 0, 4], [9, 0, 4]], dtype=torch.int32)}, "slice 1: .* outside"),
    "box_without_side": ({"source_box": torch.tensor([[0, 0, 0]] * 2, dtype=torch.int32)}, "slice 0: the side"),
    "box_int64": ({"source_box": torch.tensor([[0, 0, 4]] * 2)}, "source_box must be a contiguous int32"),
}


@pytest.mark.parametrize(("changes", "message"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_bad_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    arguments = {"hu": HU, "affine": AFFINE, "windows": [(40.0, 80.0)], "size": 4, **changes}
    with pytest.raises(ValueError, match=message):
        torch_ops.transform_slices(**arguments)


@pytest.mark.parametrize("offset", [-1, 73, 2**62])
def test_slices_outside_the_values_are_refused(offset: int) -> None:
    extents = torch.tensor([8], dtype=torch.int32), torch.tensor([9], dtype=torch.int32)
    with pytest.raises(ValueError, match="slice 0: its offset and size lie outside the values"):
        torch_ops.transform_slices_packed(
            HU.reshape(-1),
            torch.tensor([offset]),
            *extents,
            IDENTITY,
            torch_ops.Transform(windows=[(40.0, 80.0)], size=4),
        )


def test_unknown_instruction_set_is_refused() -> None:
    extents = torch.tensor([8, 8], dtype=torch.int32), torch.tensor([9, 9], dtype=torch.int32)
    packed = (HU.reshape(-1), torch.tensor([0, 72]), *extents, AFFINE, torch.tensor([[40.0, 80.0]]))
    with pytest.raises(
        (RuntimeError, ValueError), match=r"\"z80\" is not available; this machine runs: auto .*baseline"
    ):
        torch.ops.rsna_e2e.transform_slices(*packed, size=4, instruction_set="z80")


def test_a_missing_extension_says_how_to_build_it(tmp_path: Path) -> None:
    copy = tmp_path / "torch_ops.py"
    copy.write_text(Path(torch_ops.__file__).read_text())
    spec = importlib.util.spec_from_file_location("ops_without_extension", copy)
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(MissingCapabilityError, match="pip install --no-build-isolation -e"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
