// The arithmetic of transform_slices, written once: the CPU kernel and the CUDA kernel call these functions.
//
// Every multiply-add is an explicit fmaf, the compilers' own contraction is off, and nothing may be reordered, so that
// every CPU instruction set and CUDA give the same bits. Inputs are finite; the bindings check that.
#pragma once

#ifdef __CUDACC_RTC__  // NVRTC compiles without the host's headers
using int16_t = short;
using uint8_t = unsigned char;
using uint16_t = unsigned short;
using int32_t = int;
using uint32_t = unsigned int;
using int64_t = long long;
#else
#include <cmath>
#include <cstdint>
#endif

#ifdef __CUDACC__
#define RSNA_INLINE __host__ __device__ __forceinline__
#else
// Never emitted out of line: objects built for different instruction sets are linked into one library.
#define RSNA_INLINE inline __attribute__((always_inline))
#endif

namespace rsna {

// Positions are counted from the middle, which costs nothing and halves the rounding errors of fp32: in the output from
// its centre, in the input from the anchor, the pixel nearest to where the centre maps. Pixel centres are at integers
// from the anchor.

// One axis of one slice. A sample at coordinate s lies between two neighbouring pixels, the pair.
struct Axis {
  float clamp_low, clamp_high;    // s is clamped to this before it becomes an integer
  float pair_low, pair_high;      // range of the pair's first pixel, so that both pixels can be read
  float gain_first, gain_second;  // 1, or 0 where that pixel of the pair is outside what may be seen
};

// One slice: where its pixels are, and how an output position (x, y) maps to an input position.
struct Slice {
  const int16_t* anchor;
  int32_t width;  // pixels from one row to the next; 0 where there is one row alone
  float to_x[3];  // input x = to_x . (x, y, 1)
  float to_y[3];
  Axis x, y;
  float lowest_hu;  // grey levels count from here; kNoLowestHu: from the window's lower edge
};

constexpr float kNoLowestHu = -1e30f;  // below every window

// One window and what normalises it: clip(hu * inv_width + bias, 0, 1), later * scale + shift.
struct Channel {
  float inv_width, bias, scale, shift;
  double lower, width;  // of the window in HU: grey levels are exact in float64
};

// Where one sample reads: the index of the top left of 2 x 2 pixels, from the anchor, and their weights.
struct Taps {
  int32_t index;
  float top_left, top_right, bottom_left, bottom_right;
};

// The pixels there, in HU.
struct Quad {
  float top_left, top_right, bottom_left, bottom_right;
};

RSNA_INLINE float clamp(float value, float low, float high) { return fminf(fmaxf(value, low), high); }

// Which positions of the output are sampled: centre = (size - 1) / 2, half_step = 1 / (2 n_sub).
struct Sampling {
  int32_t n_sub;  // samples per output pixel and axis
  float half_step, centre;
};

// Position of sample `sub` of n_sub in output pixel `pixel`.
RSNA_INLINE float sample_position(const Sampling& sampling, int32_t pixel, int32_t sub) {
  return fmaf(static_cast<float>(2 * sub + 1 - sampling.n_sub), sampling.half_step,
              static_cast<float>(pixel) - sampling.centre);
}

RSNA_INLINE float source_coordinate(const float* to_axis, float x, float y) {
  return fmaf(to_axis[0], x, fmaf(to_axis[1], y, to_axis[2]));
}

// Linear interpolation on one axis: the pair's first pixel, and the weights of both.
struct Pair {
  float first, weight_first, weight_second;
};

// The short form gives the same bits where is_inside holds.
template <bool kIsInside>
RSNA_INLINE Pair pair_at(const Axis& axis, float coordinate) {
  if (kIsInside) {
    const float first = floorf(coordinate);
    const float distance = coordinate - first;
    return {first, fmaf(-1.0f, distance, 1.0f), distance};  // compilers turn a plain 1 - distance into two operations
  }
  const float clamped = clamp(coordinate, axis.clamp_low, axis.clamp_high);
  const float first = clamp(floorf(clamped), axis.pair_low, axis.pair_high);
  const float distance = clamped - first;  // -1 to 2; weights are 0 from a pixel's distance 1 on: the zero border
  return {first, fmaxf(axis.gain_first - fabsf(distance), 0.0f),
          fmaxf(fminf(fminf(distance, 2.0f - distance), axis.gain_second), 0.0f)};
}

template <bool kIsInside = false>
RSNA_INLINE Taps locate(const Slice& slice, float x, float y) {
  const Pair column = pair_at<kIsInside>(slice.x, source_coordinate(slice.to_x, x, y));
  const Pair row = pair_at<kIsInside>(slice.y, source_coordinate(slice.to_y, x, y));
  const int32_t index = kIsInside ? static_cast<int32_t>(fmaf(row.first, static_cast<float>(slice.width), column.first))
                                  : static_cast<int32_t>(row.first) * slice.width + static_cast<int32_t>(column.first);
  return {index, row.weight_first * column.weight_first, row.weight_first * column.weight_second,
          row.weight_second * column.weight_first, row.weight_second * column.weight_second};
}

// True where no clamp changes anything and an index is exact in fp32. Coordinates are monotone in x and in y: what is
// inside at the corners of a part of the output is inside all over it.
RSNA_INLINE bool is_inside(const Slice& slice, float x, float y) {
  constexpr float kExact = 16777216.0f;
  const float source_x = source_coordinate(slice.to_x, x, y);
  const float source_y = source_coordinate(slice.to_y, x, y);
  return slice.x.pair_low <= source_x && source_x < slice.x.pair_high + 1.0f && slice.y.pair_low <= source_y &&
         source_y < slice.y.pair_high + 1.0f && slice.x.gain_first + slice.x.gain_second == 2.0f &&
         slice.y.gain_first + slice.y.gain_second == 2.0f &&
         (fabsf(source_y) + 2.0f) * static_cast<float>(slice.width) <= kExact;
}

RSNA_INLINE float window(const Channel& channel, float hu) {
  return clamp(fmaf(hu, channel.inv_width, channel.bias), 0.0f, 1.0f);
}

RSNA_INLINE float interpolate(const Taps& weight, const Quad& value) {
  const float first = weight.top_left * value.top_left;
  const float second = fmaf(weight.top_right, value.top_right, first);
  const float third = fmaf(weight.bottom_left, value.bottom_left, second);
  return fmaf(weight.bottom_right, value.bottom_right, third);
}

// Window every tap, then interpolate.
RSNA_INLINE float sample(const Channel& channel, const Taps& weight, const Quad& hu) {
  return interpolate(weight, {window(channel, hu.top_left), window(channel, hu.top_right),
                              window(channel, hu.bottom_left), window(channel, hu.bottom_right)});
}

// The same in float64 and by division, as the published solution computes it.
RSNA_INLINE double window_exactly(const Channel& channel, double hu) {
  return fmin(fmax((hu - channel.lower) / channel.width, 0.0), 1.0);
}

// Grey level 0 to 255, truncated, above `darkest`: the slice's lowest HU, windowed.
RSNA_INLINE float grey_level(const Channel& channel, double darkest, float hu) {
  return static_cast<float>(static_cast<int32_t>(255.0 * fmax(window_exactly(channel, hu) - darkest, 0.0)));
}

// Every tap becomes a grey level, then interpolate: the 8-bit mode's sample.
RSNA_INLINE float sample_grey(const Channel& channel, double darkest, const Taps& weight, const Quad& hu) {
  return interpolate(weight,
                     {grey_level(channel, darkest, hu.top_left), grey_level(channel, darkest, hu.top_right),
                      grey_level(channel, darkest, hu.bottom_left), grey_level(channel, darkest, hu.bottom_right)});
}

RSNA_INLINE float normalise(const Channel& channel, float sum_of_samples) {
  return fmaf(sum_of_samples, channel.scale, channel.shift);
}

RSNA_INLINE uint32_t bits_of(float value) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(value);
#else
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
#endif
}

RSNA_INLINE float float_of(uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(bits);
#else
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

// The nearest grey level, as OpenCV's resize of 8-bit images rounds; value: 0 to 255.
RSNA_INLINE uint8_t to_uint8(float value) { return static_cast<uint8_t>(static_cast<int32_t>(value + 0.5f)); }

// Bits of the nearest bfloat16, ties to even.
RSNA_INLINE uint16_t to_bfloat16(float value) {
  const uint32_t bits = bits_of(value);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// Bits of the nearest IEEE 754 half, ties to even; infinity from 65520 on.
RSNA_INLINE uint16_t to_float16(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t magnitude = bits & 0x7fffffffu;
  // Exponent bias 127 becomes 15, 23 fraction bits become 10.
  const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Near 0.5 a float's unit in the last place is 2^-24, the step of half's subnormals: the addition rounds to it.
  const uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  const uint32_t half = magnitude < 0x477ff000u ? finite : 0x7c00u;
  return static_cast<uint16_t>(((bits >> 16) & 0x8000u) | half);
}

}  // namespace rsna
