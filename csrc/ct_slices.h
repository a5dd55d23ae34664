// Parameters and launchers of the kernels: raw pointers, sizes and a stream; no framework's types.
#pragma once

#include "ct_math.h"

namespace rsna {

// One stored slice: int16 HU, row after row, on the device that computes.
struct Pixels {
  const int16_t* values;
  int64_t height, width;
};

// kUInt8 is a mode of its own: taps become grey levels before they are interpolated.
enum class OutputType : int32_t { kFloat32, kFloat16, kBFloat16, kUInt8 };

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

// The bounding box of the pixels of each slice that reach threshold_hu. slices and boxes are on the device that
// computes. boxes: [n_slices, 4], x0, y0, x1, y1 (x1 and y1 exclusive), all 0 for a slice without content.
struct ContentSearch {
  const Pixels* slices;
  int32_t* boxes;
  int64_t n_slices;
  int32_t threshold_hu;
};

#ifndef __CUDACC_RTC__
// A CPU kernel computes output rows [begin, end) out of n_slices * size; any division into ranges gives the same bits.
using CpuKernel = void (*)(const Transform& transform, int64_t begin, int64_t end);

// The kernel for instruction set "x86-64-v4", "x86-64-v3" or "baseline", or "auto" for the best one that this CPU runs.
// Throws std::invalid_argument for a set that is unknown, not built, or more than this CPU has.
CpuKernel cpu_kernel(const char* instruction_set);

// Names of the instruction sets that cpu_kernel accepts here, best first, separated by spaces.
const char* cpu_instruction_sets();

// Searches slices [begin, end).
void find_content_cpu(const ContentSearch& search, int64_t begin, int64_t end);

// Both launch on `stream` (a cudaStream_t) of the current device, for at least one slice, and return a cudaError_t.
int launch_cuda(const Transform& transform, void* stream);
int launch_content_cuda(const ContentSearch& search, void* stream);

// Copies from host memory to the current device, in the order of `stream`; the source may change as soon as it returns.
// Returns a cudaError_t.
int upload_cuda(void* destination, const void* source, int64_t n_bytes, void* stream);

const char* cuda_error_text(int error);
#endif

}  // namespace rsna
