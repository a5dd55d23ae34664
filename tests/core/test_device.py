import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import small
import torch

from rsna_e2e.core import device
from rsna_e2e.core.device import check_compute, choose_compute, choose_device_type
from rsna_e2e.core.errors import MissingCapabilityError


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine without a GPU whose CPU announces AMX."""
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device, "_cpu_claims_amx", lambda: True)
    return monkeypatch


def test_auto_takes_bf16_where_amx_works(cpu: pytest.MonkeyPatch) -> None:
    cpu.setattr(device, "_amx_works", lambda: True)
    assert choose_compute("auto").autocast_dtype == torch.bfloat16
    assert choose_compute("fp32").autocast_dtype is None
    assert "ONEDNN_MAX_CPU_ISA" not in os.environ


def test_announced_but_broken_amx_is_kept_away_from(cpu: pytest.MonkeyPatch) -> None:
    cpu.setattr(device, "_amx_works", lambda: False)
    assert choose_compute("auto").autocast_dtype is None
    assert os.environ["ONEDNN_MAX_CPU_ISA"] == "AVX512_CORE_FP16"
    assert choose_compute("bf16").autocast_dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("limit", "dtype"), [("AVX2", None), ("AVX512_CORE_FP16", None), ("AVX512_CORE_AMX", torch.bfloat16)]
)
def test_units_that_may_not_be_used_are_not_tried(cpu: pytest.MonkeyPatch, limit: str, dtype: object) -> None:
    """As where a process that found them broken has started this one."""
    tried = []
    cpu.setattr(device, "_amx_works", lambda: not tried.append(limit))
    cpu.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert choose_compute("auto").autocast_dtype == dtype
    assert len(tried) == (dtype is not None)
    assert os.environ["ONEDNN_MAX_CPU_ISA"] == limit


def test_a_gpu_that_is_not_there_is_an_error(cpu: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingCapabilityError, match="--device cuda: torch sees no usable NVIDIA GPU"):
        choose_compute("auto", "cuda")


def _gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    """A machine with GPUs of this compute capability, and a torch built for sm_70 to sm_90."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_70", "sm_80", "sm_90", "compute_90"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"a GPU {device}")


def test_a_gpu_older_than_torch_supports_is_named_with_the_stack_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    _gpu(monkeypatch, (6, 1))
    with pytest.raises(MissingCapabilityError, match=r"a GPU cuda:0 \(sm_61\) .*sm_70.* `volta` stack"):
        choose_compute("fp32")
    assert choose_compute("fp32", "cpu").device.type == "cpu"
    _gpu(monkeypatch, (12, 0))  # runs what was built for sm_90
    assert choose_compute("fp32").device.type == "cuda"


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((7, 0), torch.float16), ((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)],
    ids=["V100", "T4", "A100", "H100"],
)
def test_auto_takes_fp16_on_gpus_without_bf16(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    _gpu(monkeypatch, capability)
    assert choose_compute("auto").autocast_dtype == dtype
    assert choose_compute("bf16").autocast_dtype == torch.bfloat16
    assert choose_compute("fp16").autocast_dtype == torch.float16


@pytest.mark.parametrize(("capability", "is_refused"), [((7, 0), True), ((7, 5), False), ((9, 0), False)])
def test_the_compiler_is_refused_where_it_makes_no_code(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], is_refused: bool
) -> None:
    _gpu(monkeypatch, capability)
    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *shape, device, **options: ones(*shape, **options))  # there is no GPU
    compute = choose_compute("auto")
    check_compute(compute, compiles=False)
    with (
        pytest.raises(MissingCapabilityError, match=r"sm_70; it begins with sm_75\)\. Use --set compile=false")
        if (is_refused)
        else nullcontext()
    ):
        check_compute(compute, compiles=True)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_one_convolution_is_tried_before_anything_begins(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    compute = choose_compute(precision, "cpu")
    check_compute(compute, compiles=True)

    def fails(*tensors: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("cuDNN error: CUDNN_STATUS_ARCH_MISMATCH\nmore of it")

    convolution = torch.nn.functional.conv2d
    monkeypatch.setattr(torch.nn.functional, "conv2d", fails)
    with pytest.raises(MissingCapabilityError, match=rf"in {precision} does not work on cpu.*ARCH_MISMATCH\. Install"):
        check_compute(compute, compiles=False)
    monkeypatch.setattr(torch.nn.functional, "conv2d", lambda *tensors: 2 * convolution(*tensors))
    with pytest.raises(MissingCapabilityError, match=f"in {precision} is wrong on cpu"):
        check_compute(compute, compiles=False)


def test_every_local_rank_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    _gpu(monkeypatch, (9, 0))
    assert [choose_compute("fp32", local_rank=rank).device for rank in (0, 3)] == [
        torch.device("cuda", 0),
        torch.device("cuda", 3),
    ]
    assert choose_compute("fp32", "cpu", local_rank=3).device == torch.device("cpu")
    assert choose_device_type("auto") == "cuda"
    assert choose_device_type("cpu") == "cpu"


def test_fp16_needs_a_scaler_and_says_its_name(cpu: pytest.MonkeyPatch) -> None:
    cpu.setattr(device, "_amx_works", lambda: False)
    computes = [choose_compute(precision) for precision in ("fp32", "bf16", "fp16")]
    assert [compute.needs_scaler for compute in computes] == [False, False, True]
    assert [str(compute) for compute in computes] == ["cpu, fp32", "cpu, bf16", "cpu, fp16"]
    assert computes[2].image_dtype == torch.float16


def test_fp16_keeps_away_from_broken_amx_too(cpu: pytest.MonkeyPatch) -> None:
    cpu.setattr(device, "_amx_works", lambda: False)
    choose_compute("fp16")
    assert os.environ["ONEDNN_MAX_CPU_ISA"] == "AVX512_CORE_FP16"


def test_a_run_may_compute_on_fewer_threads(cpu: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        device.choose_compute("fp32", "cpu", cpu_threads=before + 1)
        assert torch.get_num_threads() == before + 1
        device.choose_compute("fp32", "cpu")
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_bf16_trains_on_this_cpu(tmp_path: Path) -> None:
    store = small.make_store(tmp_path)
    small_backbone = ["model.backbone=test_resnet", "model.backbone_arguments={}", "image.size=32", "slice_phase=null"]
    settings = [word for s in (*small_backbone, "epochs=1", "precision=bf16") for word in ("--set", s)]
    command = [sys.executable, "-m", "rsna_e2e.cli", "train", str(store.path), str(tmp_path / "run"), "--device", "cpu"]
    result = subprocess.run([*command, *settings], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "cpu, bf16" in result.stdout
