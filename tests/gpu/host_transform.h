// A call of transform_slices or content_box as the bindings prepare it, for tests that run kernels without them.
#pragma once

#include <vector>

#include "csrc/ct_params.h"

namespace host {

inline std::vector<rsna::Pixels> pixels_of(const int16_t* values, int64_t n_slices, int32_t height, int32_t width) {
  std::vector<rsna::Pixels> pixels;
  pixels.reserve(static_cast<size_t>(n_slices));
  for (int64_t n = 0; n < n_slices; ++n) pixels.push_back({values + n * height * width, height, width});
  return pixels;
}

// Holds what the Transform points to.
struct Call {
  Call(const rsna::SliceParams& params, int32_t n_channels, const float* windows, int32_t supersample,
       rsna::OutputType output_type, bool channels_last, void* output)
      : slices(rsna::make_slices(params)),
        channels(rsna::make_channels(n_channels, windows, nullptr, nullptr, supersample)),
        transform{slices.data(),
                  channels.data(),
                  output,
                  params.n_slices,
                  n_channels,
                  params.size,
                  rsna::make_sampling(params.size, supersample),
                  output_type,
                  channels_last} {}

  const std::vector<rsna::Slice> slices;
  const std::vector<rsna::Channel> channels;
  const rsna::Transform transform;
};

}  // namespace host
