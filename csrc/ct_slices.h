// What a kernel is given, and how it is launched: raw pointers, sizes and a stream; no framework's types.
#pragma once

#include "ct_math.h"

namespace rsna {

enum class OutputType : int32_t { kFloat32, kFloat16, kBFloat16 };

// slices, what they point to, channels and output are on the device that runs the kernel.
// output: [n_slices, n_channels, size, size], in memory as such or channels last.
struct Transform {
  const Slice* slices;
  const Channel* channels;
  void* output;
  int64_t n_slices;
  int32_t n_channels;
  int32_t size;
  Sampling sampling;
  OutputType output_type;
  bool channels_last;
};

#ifndef __CUDACC_RTC__
// A CPU kernel computes output rows [begin, end) out of n_slices * size; any division into ranges gives the same bits.
using CpuKernel = void (*)(const Transform& transform, int64_t begin, int64_t end);

// The kernel for instruction set "x86-64-v4", "x86-64-v3" or "baseline", or "auto" for the best one that this CPU runs.
// Throws std::invalid_argument for a set that is unknown, not built, or more than this CPU has.
CpuKernel cpu_kernel(const char* instruction_set);

// Names of the instruction sets that cpu_kernel accepts here, best first, separated by spaces.
const char* cpu_instruction_sets();

// Launches on `stream` (a cudaStream_t) of the current device. Returns a cudaError_t.
int launch_cuda(const Transform& transform, void* stream);

// Copies from host memory to the current device, in the order of `stream`; the source may change as soon as it returns.
// Returns a cudaError_t.
int upload_cuda(void* destination, const void* source, int64_t n_bytes, void* stream);

const char* cuda_error_text(int error);
#endif

}  // namespace rsna
