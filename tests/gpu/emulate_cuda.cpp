// Runs the CUDA kernel's own source on the host, one thread after another, for machines without a GPU: it shows that
// the kernel's indexing and order of operations are right, and its bits those of the CPU kernel.
#include "csrc/ct_params.h"

#define __CUDACC_RTC__  // leaves out what needs the CUDA runtime
#define __global__
#define __device__
#define __shared__ static
#define __syncthreads()
#define __launch_bounds__(n_threads)

namespace {
struct {
  unsigned x;
} blockIdx, threadIdx;

void atomicMin(int32_t* target, int32_t value) { *target = value < *target ? value : *target; }
void atomicMax(int32_t* target, int32_t value) { *target = value > *target ? value : *target; }
}  // namespace

#include "csrc/cuda/ct_slices.cu"

std::vector<rsna::Pixels> pixels_of(const int16_t* values, int64_t n_slices, int32_t height, int32_t width) {
  std::vector<rsna::Pixels> pixels;
  for (int64_t n = 0; n < n_slices; ++n) pixels.push_back({values + n * height * width, height, width});
  return pixels;
}

extern "C" void emulate_content(const int16_t* values, int64_t n_slices, int32_t height, int32_t width,
                                int32_t n_channels, const float* windows, int32_t* boxes) {
  const auto pixels = pixels_of(values, n_slices, height, width);
  const rsna::ContentSearch search = {pixels.data(), boxes, n_slices, rsna::content_threshold_hu(n_channels, windows)};
  for (blockIdx.x = 0; blockIdx.x < n_slices; ++blockIdx.x) {
    for (threadIdx.x = 0; threadIdx.x < rsna::kThreads; ++threadIdx.x) rsna::find_content(search);
  }
}

extern "C" void emulate(const int16_t* values, int64_t n_slices, int32_t height, int32_t width, const float* affine,
                        const int32_t* source_box, int32_t n_channels, const float* windows, int32_t size,
                        int32_t supersample, int32_t replicate, int32_t output_type, int32_t channels_last,
                        const int32_t* lowest_hu, void* output) {
  const auto border = replicate ? rsna::Border::kReplicate : rsna::Border::kZero;
  const auto pixels = pixels_of(values, n_slices, height, width);
  const auto slices = rsna::make_slices({n_slices, pixels.data(), affine, source_box, border, size, lowest_hu});
  const auto channels = rsna::make_channels(n_channels, windows, nullptr, nullptr, supersample);
  const auto type = static_cast<rsna::OutputType>(output_type);
  const rsna::Transform transform = {
      slices.data(), channels.data(),   output, n_slices, n_channels, size, rsna::make_sampling(size, supersample),
      type,          channels_last != 0};
  const int32_t blocks_per_slice = (size * size + rsna::kThreads - 1) / rsna::kThreads;
  for (blockIdx.x = 0; blockIdx.x < n_slices * blocks_per_slice; ++blockIdx.x) {
    for (threadIdx.x = 0; threadIdx.x < rsna::kThreads; ++threadIdx.x) {
      switch (type) {
        case rsna::OutputType::kFloat32:
          rsna::transform_slices<rsna::AsFloat32>(transform, blocks_per_slice);
          break;
        case rsna::OutputType::kFloat16:
          rsna::transform_slices<rsna::AsFloat16>(transform, blocks_per_slice);
          break;
        case rsna::OutputType::kBFloat16:
          rsna::transform_slices<rsna::AsBFloat16>(transform, blocks_per_slice);
          break;
        case rsna::OutputType::kUInt8:
          rsna::transform_slices<rsna::AsUInt8, true>(transform, blocks_per_slice);
          break;
      }
    }
  }
}
