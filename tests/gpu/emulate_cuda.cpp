// Runs the CUDA kernels' own source, launchers included, on the host: it shows that indexing, barriers and the order of
// operations are right, and that the bits are those of the CPU kernel.
#include <cuda_runtime.h>

#include "csrc/cuda/ct_slices.cu"
#include "host_transform.h"

extern "C" void choose_colour(int32_t colour) { emulated::chosen_colour = colour; }

extern "C" int emulate_content(const int16_t* values, int64_t n_slices, int32_t height, int32_t width,
                               int32_t n_channels, const float* windows, int32_t* boxes) {
  const auto pixels = host::pixels_of(values, n_slices, height, width);
  const rsna::ContentSearch search = {pixels.data(), boxes, n_slices, rsna::content_threshold_hu(n_channels, windows)};
  return rsna::launch_content_cuda(search, nullptr);
}

extern "C" int emulate(const int16_t* values, int64_t n_slices, int32_t height, int32_t width, const float* affine,
                       const int32_t* source_box, int32_t n_channels, const float* windows, int32_t size,
                       int32_t supersample, int32_t replicate, int32_t output_type, int32_t channels_last,
                       const int32_t* lowest_hu, void* output) {
  const auto border = replicate ? rsna::Border::kReplicate : rsna::Border::kZero;
  const auto pixels = host::pixels_of(values, n_slices, height, width);
  const host::Call call({n_slices, pixels.data(), affine, source_box, border, size, lowest_hu}, n_channels, windows,
                        supersample, static_cast<rsna::OutputType>(output_type), channels_last != 0, output);
  return rsna::launch_cuda(call.transform, nullptr);
}
