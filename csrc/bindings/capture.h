// Refuses to let the operators be captured in a CUDA graph.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace rsna {

// Complains if `stream` is being captured. A graph would record the copy of an operator's parameters from memory of the
// host that is gone when the graph is replayed.
inline void refuse_capture(void* stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  const cudaError_t error = cudaStreamIsCapturing(static_cast<cudaStream_t>(stream), &status);
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("asking whether a CUDA graph is being captured failed: ") +
                             cudaGetErrorString(error));
  }
  if (status != cudaStreamCaptureStatusNone) {
    throw std::invalid_argument(
        "a CUDA graph cannot capture it, because a replay would read parameters that are gone from the host's memory. "
        "Call it outside the capture, before each replay, and copy the result to where the graph reads (or by out=)");
  }
}

}  // namespace rsna
