"""Every call into torch.cuda and DALI that can be followed fits the real signature, whether a GPU is here or not."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from signatures import Calls, Instance

from rsna_e2e.loader.kernels import dali_plugin

ROOT = Path(__file__).parents[1]
MODULES = ("torch.cuda", "torch.amp", "nvidia.dali")
NAMED = re.compile("|".join(name.split(".")[1] for name in MODULES))  # others have no such call
FILES = sorted(
    path
    for folder in ("rsna_e2e", "tests", "bin")
    for path in (ROOT / folder).rglob("*.py")
    if NAMED.search(path.read_text())
)


def calls_of(source: str) -> Calls:
    known, returns, forwards = what_dali_does_not_say() if "dali" in source else ({}, {}, {})
    calls = Calls(MODULES, known, {"current_stream": Instance(torch.cuda.Stream), **returns}, forwards)
    calls.visit(ast.parse(source))
    return calls


@cache
def what_dali_does_not_say() -> tuple[dict[str, Any], dict[str, Any], dict[Any, Any]]:
    """What parameters without a type stand for, what functions make, and whose arguments pipeline_def takes."""
    if not dali_plugin.is_installed():
        return {}, {}, {}
    dali = dali_plugin.load()
    made = {"dali_plugin.load": dali, "external_source": Instance(dali.data_node.DataNode)}
    return {"pipeline": Instance(dali.Pipeline)}, made, {dali.pipeline_def: dali.Pipeline}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_calls_fit(path: Path) -> None:
    assert calls_of(path.read_text()).faults == []


SEEN = {
    "rsna_e2e/loader/read_ahead.py": {"Event", "Event.record", "Event.query", "current_stream"},
    "rsna_e2e/core/device.py": {"is_available", "get_device_capability", "get_arch_list", "get_device_name"},
    "rsna_e2e/training/chunk_size.py": {"mem_get_info", "memory_reserved", "max_memory_allocated"},
    "rsna_e2e/training/objectives/labels.py": {"GradScaler.scale"},
    "rsna_e2e/training/step.py": {"GradScaler"},
}
SEEN_IN_DALI = {
    "rsna_e2e/loader/dali_backend.py": {
        "Pipeline",
        "Pipeline.run",
        "Pipeline.build",
        "DataNode.gpu",
        "transform_slices",
    },
    "tests/dali_runs.py": {"Pipeline", "Pipeline.run", "Pipeline.set_outputs"},
    "rsna_e2e/tools/bench/peers/dali_operators.py": {"pipeline_def", "warp_affine", "crop_mirror_normalize"},
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [*SEEN.items(), *(pytest.param(*item, marks=pytest.mark.needs_dali) for item in SEEN_IN_DALI.items())],
)
def test_calls_are_found(name: str, expected: set[str]) -> None:
    assert expected <= {function for _, function in calls_of((ROOT / name).read_text()).fitting}


BAD_CALLS = {
    "unknown_function": "torch.cuda.curent_stream()",
    "unknown_keyword": "torch.cuda.Event(timing=True)",
    "too_many": "torch.cuda.mem_get_info(0, 1)",
    "too_few": "torch.cuda.Event().elapsed_time()",
    "unknown_method": "torch.cuda.Event().done()",
    "of_a_stream": "torch.cuda.current_stream(0).wait_stream()",
    "of_a_parameter": "def f(event: torch.cuda.Event): event.record(1, 2)",
    "scaler": "torch.amp.GradScaler('cuda', scale=1.0)",
}
BAD_CALLS_OF_DALI = {
    "stream_by_name": "def f(pipeline): pipeline.run(cuda_stream=0)",
    "stream_in_a_dict": "def f(pipeline): pipeline.run(**{'cuda_stream': 0})",
    "hidden_keywords": "def f(pipeline, stream): pipeline.run(**stream)",
    "of_the_operator": "dali.fn.rsna.transform_slices(0, affine=0, windows=0, size=2, matrix=1)",
    "of_the_source": "dali.fn.external_source(sources=1)",
    "of_the_pipeline": "dali.Pipeline(batch=1)",
    "gpu": "a, b = dali.fn.external_source(num_outputs=2)\nb.gpu(0)",
}


@pytest.mark.parametrize(
    "call",
    [
        *(pytest.param(call, id=name) for name, call in BAD_CALLS.items()),
        *(pytest.param(call, id=name, marks=pytest.mark.needs_dali) for name, call in BAD_CALLS_OF_DALI.items()),
    ],
)
def test_a_call_that_does_not_fit_is_found(call: str) -> None:
    source = f"import torch\nfrom rsna_e2e import dali_plugin\ndali = dali_plugin.load()\n{call}\n"
    assert len(calls_of(source).faults) == 1


def test_a_call_that_fits_is_not_a_fault() -> None:
    source = "import torch\nevent = torch.cuda.Event(enable_timing=True)\nevent.record(torch.cuda.current_stream())\n"
    calls = calls_of(source)
    assert calls.faults == []
    assert [function for _, function in calls.fitting] == ["Event", "current_stream", "Event.record"]
