"""CUDA graphs do not capture the operators, and what to do instead works."""

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transform_cases import content, turned

from rsna_e2e.loader.kernels import torch_ops
from rsna_e2e.tasks.ich import ICH

ROOT = Path(__file__).parents[2]
REFUSED = "a CUDA graph cannot capture it, because a replay would read parameters that are gone"

# A runtime whose answer is chosen; its names are those that csrc/bindings/capture.h uses of CUDA's.
RUNTIME = """
#pragma once
enum cudaError_t { cudaSuccess = 0, cudaErrorStreamCaptureImplicit = 906 };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive,
                               cudaStreamCaptureStatusInvalidated };
using cudaStream_t = struct stream*;
static cudaError_t error;
static cudaStreamCaptureStatus status;
static cudaStream_t asked;
inline cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* answer) {
  asked = stream;
  if (error == cudaSuccess) *answer = status;
  return error;
}
inline const char* cudaGetErrorString(cudaError_t) { return "another stream is being captured"; }
"""
ASK = """
#include "csrc/bindings/capture.h"
#include <string>
static std::string said;
extern "C" const char* ask(int chosen_error, int chosen_status, void* stream) {
  error = static_cast<cudaError_t>(chosen_error);
  status = static_cast<cudaStreamCaptureStatus>(chosen_status);
  said = "allowed";
  try {
    rsna::refuse_capture(stream);
  } catch (const std::invalid_argument& refusal) {
    said = std::string("bad argument: ") + refusal.what();
  } catch (const std::runtime_error& failure) {
    said = std::string("failure: ") + failure.what();
  }
  return asked == stream ? said.c_str() : "asked about another stream";
}
"""


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int], str]:
    """What the check says when CUDA's runtime answers with this error and this status."""
    folder = tmp_path_factory.mktemp("capture")
    (folder / "cuda_runtime.h").write_text(RUNTIME)
    (folder / "ask.cpp").write_text(ASK)
    command = ["g++", "-std=c++20", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-I{folder}", f"-I{ROOT}"]
    subprocess.run([*command, str(folder / "ask.cpp"), "-o", str(folder / "ask.so")], check=True)
    function = ctypes.CDLL(str(folder / "ask.so")).ask
    function.restype = ctypes.c_char_p
    return lambda error, status: function(error, status, ctypes.c_void_p(0x1234)).decode()


def test_a_stream_that_is_captured_is_refused(ask: Callable[[int, int], str]) -> None:
    assert ask(0, 0) == "allowed"
    for status in (1, 2):
        assert ask(0, status).startswith(f"bad argument: {REFUSED}")
        assert "Call it outside the capture, before each replay" in ask(0, status)


def test_a_runtime_that_cannot_tell_is_an_error(ask: Callable[[int, int], str]) -> None:
    assert ask(906, 0).endswith("failed: another stream is being captured")
    assert ask(906, 0).startswith("failure: ")


@pytest.mark.needs_cuda
@pytest.mark.parametrize("search", [False, True], ids=["transform_slices", "content_box"])
def test_a_graph_does_not_capture_the_operator(search: bool) -> None:
    hu, affine = content(4, 160, 153).cuda(), turned(4, 160, 153, 64)

    def capture() -> None:
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            torch.zeros(1, device="cuda")  # torch warns of a graph without anything
            if search:
                torch_ops.content_box(hu, ICH.inputs.windows_hu)
            else:
                torch_ops.transform_slices(hu, affine, ICH.inputs.windows_hu, size=64)

    with pytest.raises(ValueError, match=REFUSED):
        capture()
    assert torch_ops.content_box(hu, ICH.inputs.windows_hu).shape == (4, 4)


@pytest.mark.needs_cuda
def test_a_graph_reads_what_out_was_written_before_each_replay() -> None:
    affine = turned(4, 160, 153, 64)
    images = torch.zeros(4, 3, 64, 64, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        doubled = 2 * images
    for n in range(2):
        hu = content(4, 160, 153) + n
        torch_ops.transform_slices(hu.cuda(), affine, ICH.inputs.windows_hu, size=64, out=images)
        graph.replay()
        assert torch.equal(doubled.cpu(), 2 * torch_ops.transform_slices(hu, affine, ICH.inputs.windows_hu, size=64))
