// Runs the CUDA kernels' own source, launchers included, on the host: it shows that indexing, barriers and the order of
// operations are right, and that the bits are those of the CPU kernel.
#include <cuda_runtime.h>

#include "csrc/ct_params.h"
#include "csrc/cuda/ct_slices.cu"

std::vector<rsna::Pixels> pixels_of(const int16_t* values, int64_t n_slices, int32_t height, int32_t width) {
  std::vector<rsna::Pixels> pixels;
  for (int64_t n = 0; n < n_slices; ++n) pixels.push_back({values + n * height * width, height, width});
  return pixels;
}

extern "C" int emulate_content(const int16_t* values, int64_t n_slices, int32_t height, int32_t width,
                               int32_t n_channels, const float* windows, int32_t* boxes) {
  const auto pixels = pixels_of(values, n_slices, height, width);
  const rsna::ContentSearch search = {pixels.data(), boxes, n_slices, rsna::content_threshold_hu(n_channels, windows)};
  return rsna::launch_content_cuda(search, nullptr);
}

extern "C" int emulate(const int16_t* values, int64_t n_slices, int32_t height, int32_t width, const float* affine,
                       const int32_t* source_box, int32_t n_channels, const float* windows, int32_t size,
                       int32_t supersample, int32_t replicate, int32_t output_type, int32_t channels_last,
                       const int32_t* lowest_hu, void* output) {
  const auto border = replicate ? rsna::Border::kReplicate : rsna::Border::kZero;
  const auto pixels = pixels_of(values, n_slices, height, width);
  const auto slices = rsna::make_slices({n_slices, pixels.data(), affine, source_box, border, size, lowest_hu});
  const auto channels = rsna::make_channels(n_channels, windows, nullptr, nullptr, supersample);
  const rsna::Transform transform = {slices.data(),
                                     channels.data(),
                                     output,
                                     n_slices,
                                     n_channels,
                                     size,
                                     rsna::make_sampling(size, supersample),
                                     static_cast<rsna::OutputType>(output_type),
                                     channels_last != 0};
  return rsna::launch_cuda(transform, nullptr);
}
