// Turns a caller's request into a kernel's parameters: checks every value, and computes constants once.
// Host only; shared by all bindings. Compiled without finite-math flags, so that NaN and infinity are seen.
#pragma once

#include <vector>

#include "ct_slices.h"

namespace rsna {

enum class Border { kZero, kReplicate };

// Throws std::invalid_argument for a name that is neither "zero" nor "replicate". No std::string: objects that are
// built for either of libstdc++'s strings link with this.
Border border_of(const char* name);

// N slices that lie among `n_values` values. offsets [N]: where each begins; heights, widths: [N].
// Throws std::invalid_argument naming the slice that lies outside the values.
std::vector<Pixels> make_pixels(const int16_t* values, int64_t n_values, int64_t n_slices, const int64_t* offsets,
                                const int32_t* heights, const int32_t* widths);

// Throws std::invalid_argument naming the slice that has less than two pixels, or more than 32767 in a row or column.
void check_extents(int64_t n_slices, const Pixels* pixels);

// A caller's description of N slices; all arrays are in host memory.
struct SliceParams {
  int64_t n_slices;
  const Pixels* pixels;       // [N]
  const float* affine;        // [N, 2, 3]: output pixel (x, y) to input pixel
  const int32_t* source_box;  // [N, 3]: x0, y0, side of a square; or null
  Border border;
  int32_t size;                        // of the output
  const int32_t* lowest_hu = nullptr;  // [N]: of each slice, subtracted after windowing in 8-bit mode; or null
};

// Throws std::invalid_argument naming the slice: less than two pixels, or more than 32767 in a row or column, matrix
// not finite, singular or leading more than 1e9 pixels away, box without a pixel of the slice, lowest HU that is no
// int16.
std::vector<Slice> make_slices(const SliceParams& params);

// How an output of this size is sampled n_sub x n_sub times per pixel.
// Throws std::invalid_argument: size not 1 to 16384, n_sub not 1 to 16.
Sampling make_sampling(int64_t size, int64_t n_sub);

// windows: [C, 2] center and width in HU, mean and std: [C] of the windowed values, or null for 0 and 1.
// Throws std::invalid_argument naming the channel: anything not finite, width or std not above 0.
std::vector<Channel> make_channels(int32_t n_channels, const float* windows, const float* mean, const float* std,
                                   int32_t n_sub);

// Throws std::invalid_argument for mean or std with 8-bit output, and for lowest_hu without it.
void check_mode(OutputType output_type, bool has_mean_or_std, bool has_lowest_hu);

// The lowest HU that reaches grey level 1 of 255 in any window. windows: as above, and checked the same.
int32_t content_threshold_hu(int32_t n_channels, const float* windows);

}  // namespace rsna
