// The CUDA kernels and how they are launched. Compiled with --fmad=false, so that their bits are those of the CPU.
// Only what is outside __CUDACC_RTC__ needs the host's headers; nothing here needs more than sm_70.
#include "content.h"
#include "pixels.h"
#include "tiles.h"

namespace rsna {

// Named here so that NVRTC, which compiles no launcher, compiles every variant.
#define RSNA_VARIANTS(Output, Pairs)                                    \
  template __global__ void transform_pixels<Output>(Transform);         \
  template __global__ void transform_tiles<Pairs, 1, false>(Transform); \
  template __global__ void transform_tiles<Pairs, 3, false>(Transform); \
  template __global__ void transform_tiles<Pairs, 3, true>(Transform)
RSNA_VARIANTS(AsFloat32, Float32Pairs);
RSNA_VARIANTS(AsFloat16, Float16Pairs);
RSNA_VARIANTS(AsBFloat16, BFloat16Pairs);
template __global__ void transform_pixels<AsUInt8>(Transform);
#undef RSNA_VARIANTS

}  // namespace rsna

#ifndef __CUDACC_RTC__
#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>

namespace rsna {
namespace {

constexpr int64_t kMaxGridZ = 65535;  // CUDA C++ Programming Guide, technical specifications per compute capability
constexpr int64_t kMaxGridX = 2147483647;  // ibid.

// A kernel and what each of its blocks computes of a slice's output.
struct Variant {
  void (*kernel)(Transform);
  int32_t n_threads, width, height;
  size_t value_bytes;
};

template <class Output, class Pairs>
Variant float_variant(const Transform& transform) {
  constexpr size_t kBytes = sizeof(typename Output::Type);
  const auto tiles = [](void (*kernel)(Transform)) {
    return Variant{kernel, kTileThreads, kSpanWidth, kSpanRows, kBytes};
  };
  const bool is_single = transform.sampling.n_sub == 1;
  if (is_single && transform.n_channels == 1) return tiles(transform_tiles<Pairs, 1, false>);
  if (is_single && transform.n_channels == 3) {
    return tiles(transform.channels_last ? transform_tiles<Pairs, 3, true> : transform_tiles<Pairs, 3, false>);
  }
  return {transform_pixels<Output>, kPixelThreads, kPixelsX, kPixelsY, kBytes};
}

Variant variant_of(const Transform& transform) {
  switch (transform.output_type) {
    case OutputType::kFloat32:
      return float_variant<AsFloat32, Float32Pairs>(transform);
    case OutputType::kFloat16:
      return float_variant<AsFloat16, Float16Pairs>(transform);
    case OutputType::kBFloat16:
      return float_variant<AsBFloat16, BFloat16Pairs>(transform);
    default:
      return {transform_pixels<AsUInt8>, kPixelThreads, kPixelsX, kPixelsY, 1};
  }
}

}  // namespace

int launch_cuda(const Transform& transform, void* stream) {
  const Variant variant = variant_of(transform);
  const int64_t size = transform.size;
  const size_t slice_bytes = static_cast<size_t>(transform.n_channels * size * size) * variant.value_bytes;
  dim3 grid(static_cast<unsigned>((size + variant.width - 1) / variant.width),
            static_cast<unsigned>((size + variant.height - 1) / variant.height));
  // As many slices at once as a grid can hold.
  for (int64_t first = 0; first < transform.n_slices; first += kMaxGridZ) {
    Transform part = transform;
    part.slices += first;
    part.output = static_cast<std::byte*>(transform.output) + static_cast<size_t>(first) * slice_bytes;
    part.n_slices = std::min(kMaxGridZ, transform.n_slices - first);
    grid.z = static_cast<unsigned>(part.n_slices);
    void* arguments[] = {&part};
    const cudaError_t error = cudaLaunchKernel(variant.kernel, grid, dim3(variant.n_threads), arguments, 0,
                                               static_cast<cudaStream_t>(stream));
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

int launch_content_cuda(const ContentSearch& search, void* stream) {
  if (search.n_slices == 0) return cudaSuccess;
  if (search.n_slices > kMaxGridX) return cudaErrorInvalidValue;
  ContentSearch argument = search;
  void* arguments[] = {&argument};
  return cudaLaunchKernel(find_content, dim3(static_cast<unsigned>(search.n_slices)), dim3(kSearchThreads), arguments,
                          0, static_cast<cudaStream_t>(stream));
}

int upload_cuda(void* destination, const void* source, int64_t n_bytes, void* stream) {
  return cudaMemcpyAsync(destination, source, static_cast<size_t>(n_bytes), cudaMemcpyHostToDevice,
                         static_cast<cudaStream_t>(stream));
}

const char* cuda_error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace rsna
#endif
