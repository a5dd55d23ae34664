// The kernel for every case: one thread per output pixel, any number of channels and samples, 8-bit output too.
#pragma once

#include "ptx.h"

namespace rsna {

struct AsFloat32 {
  using Type = float;
  static constexpr bool kIsGrey = false;
  static __device__ float convert(float value) { return value; }
};
struct AsFloat16 {
  using Type = uint16_t;
  static constexpr bool kIsGrey = false;
  static __device__ uint16_t convert(float value) { return to_float16(value); }
};
struct AsBFloat16 {
  using Type = uint16_t;
  static constexpr bool kIsGrey = false;
  static __device__ uint16_t convert(float value) { return to_bfloat16(value); }
};
struct AsUInt8 {
  using Type = uint8_t;
  static constexpr bool kIsGrey = true;
  static __device__ uint8_t convert(float value) { return to_uint8(value); }
};

constexpr int32_t kPixelThreads = 256;
constexpr int32_t kPixelsX = 32, kPixelsY = kPixelThreads / kPixelsX;  // what a block computes
constexpr int32_t kGroup = 4;                                          // channels whose sums are in registers at once

// Adds up the samples of pixel (x, y) for channels [first, first + kGroup), as far as there are any.
template <bool kIsGrey>
__device__ void sum_samples(const Transform& transform, const Slice& slice, int32_t x, int32_t y, int32_t first,
                            float (&sums)[kGroup]) {
  const Sampling sampling = transform.sampling;
  for (int32_t sub_y = 0; sub_y < sampling.n_sub; ++sub_y) {
    const float sample_y = sample_position(sampling, y, sub_y);
    for (int32_t sub_x = 0; sub_x < sampling.n_sub; ++sub_x) {
      const Taps taps = locate(slice, sample_position(sampling, x, sub_x), sample_y);
      const Quad hu = load_quad(slice, taps);
#pragma unroll
      for (int32_t k = 0; k < kGroup; ++k) {
        if (first + k >= transform.n_channels) continue;
        const Channel& channel = transform.channels[first + k];
        sums[k] += kIsGrey ? sample_grey(channel, window_exactly(channel, slice.lowest_hu), taps, hu)
                           : sample(channel, taps, hu);
      }
    }
  }
}

template <class Output>
__global__ void __launch_bounds__(kPixelThreads) transform_pixels(Transform transform) {
  using Type = typename Output::Type;
  const int32_t x = blockIdx.x * kPixelsX + threadIdx.x % kPixelsX;
  const int32_t y = blockIdx.y * kPixelsY + threadIdx.x / kPixelsX;
  const int32_t size = transform.size, n_channels = transform.n_channels;
  if (x >= size || y >= size) return;
  const Slice slice = transform.slices[blockIdx.z];
  const int64_t plane = static_cast<int64_t>(size) * size, pixel = static_cast<int64_t>(y) * size + x;
  const int64_t pixel_stride = transform.channels_last ? n_channels : 1, stride = transform.channels_last ? 1 : plane;
  Type* output = static_cast<Type*>(transform.output) + blockIdx.z * (n_channels * plane) + pixel * pixel_stride;
  for (int32_t first = 0; first < n_channels; first += kGroup) {
    float sums[kGroup] = {0.0f, 0.0f, 0.0f, 0.0f};
    sum_samples<Output::kIsGrey>(transform, slice, x, y, first, sums);
#pragma unroll
    for (int32_t k = 0; k < kGroup; ++k) {
      const int32_t c = first + k;
      if (c < n_channels) output[c * stride] = Output::convert(normalise(transform.channels[c], sums[k]));
    }
  }
}

}  // namespace rsna
