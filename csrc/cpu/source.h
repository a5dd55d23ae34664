// Where the samples of some output rows are read: the slice itself, or a transposed copy of the part that they need.
#pragma once

#include "../ct_slices.h"
#include "block.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace rsna {
namespace {

// Output rows [begin, end) of a slice.
struct Rows {
  int32_t begin, end;
};

constexpr int32_t kTile = 8;  // pixels: 8 x 8 of int16 are transposed in registers

// to[i][j] = from[j][i] for kTile x kTile pixels.
inline void transpose_tile(const int16_t* from, int64_t from_width, int16_t* to, int64_t to_width) {
#ifdef __SSE2__
  __m128i rows[kTile], mixed[kTile];
  const auto load = [&](int i) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i * from_width)); };
  for (int i = 0; i < kTile; ++i) rows[i] = load(i);
  for (int step = 0; step < 3; ++step) {  // each step interleaves the lower and the upper half of the rows
    for (int i = 0; i < kTile / 2; ++i) {
      mixed[2 * i] = _mm_unpacklo_epi16(rows[i], rows[i + kTile / 2]);
      mixed[2 * i + 1] = _mm_unpackhi_epi16(rows[i], rows[i + kTile / 2]);
    }
    for (int i = 0; i < kTile; ++i) rows[i] = mixed[i];
  }
  for (int i = 0; i < kTile; ++i) _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i * to_width), rows[i]);
#else
  for (int i = 0; i < kTile; ++i) {
    for (int j = 0; j < kTile; ++j) to[i * to_width + j] = from[j * from_width + i];
  }
#endif
}

// to[x][y] = from[y][x] for height x width pixels.
inline void transpose(const int16_t* from, int64_t from_width, int32_t height, int32_t width, int16_t* to,
                      int64_t to_width) {
  const int32_t tiled_height = height / kTile * kTile, tiled_width = width / kTile * kTile;
  for (int32_t y = 0; y < tiled_height; y += kTile) {
    for (int32_t x = 0; x < tiled_width; x += kTile) {
      transpose_tile(from + y * from_width + x, from_width, to + x * to_width + y, to_width);
    }
  }
  for (int32_t y = 0; y < height; ++y) {
    for (int32_t x = y < tiled_height ? tiled_width : 0; x < width; ++x)
      to[x * to_width + y] = from[y * from_width + x];
  }
}

// First and last of the positions that samples have on an axis of the output.
struct Span {
  float first, last;
};

// Pixels [low, high] of an axis of the slice, counted from the anchor.
struct Extent {
  int32_t low, high;
  int32_t size() const { return high - low + 1; }
};

// What is read for samples in this part of the output: coordinates are monotone in x and in y, so its corners tell.
inline Extent extent_of(const Axis& axis, const float* to_axis, Span x, Span y) {
  float low = source_coordinate(to_axis, x.first, y.first), high = low;
  for (int corner = 1; corner < 4; ++corner) {
    const float coordinate = source_coordinate(to_axis, corner & 1 ? x.last : x.first, corner & 2 ? y.last : y.first);
    low = fminf(low, coordinate);
    high = fmaxf(high, coordinate);
  }
  return {static_cast<int32_t>(pair_at<false>(axis, low).first),
          static_cast<int32_t>(pair_at<false>(axis, high).first) + 1};
}

// Along an output row, samples whose source lies more in a column than in a row would each touch a cache line of their
// own. Unless rows are few for what it takes, they get a transposed copy, in which x and y have changed places.
class Source {
 public:
  Source(const Slice& original, const Sampling& sampling, Span x, int32_t size, Rows rows) : slice_(original) {
    if (fabsf(original.to_y[0]) <= fabsf(original.to_x[0])) return;
    const Span y = {sample_position(sampling, rows.begin, 0),
                    sample_position(sampling, rows.end - 1, sampling.n_sub - 1)};
    const Extent columns = extent_of(original.x, original.to_x, x, y);
    const Extent lines = extent_of(original.y, original.to_y, x, y);
    const int64_t n_samples = static_cast<int64_t>(rows.end - rows.begin) * size * sampling.n_sub * sampling.n_sub;
    const int64_t n_values = static_cast<int64_t>(columns.size()) * lines.size();
    if (n_values > kPixelsPerSample * n_samples) return;
    copy_ = new int16_t[static_cast<size_t>(n_values)];
    transpose(original.anchor + static_cast<int64_t>(lines.low) * original.width + columns.low, original.width,
              lines.size(), columns.size(), copy_, lines.size());
    slice_.anchor = copy_ - static_cast<int64_t>(columns.low) * lines.size() - lines.low;
    slice_.width = lines.size();
    for (int i = 0; i < 3; ++i) {
      slice_.to_x[i] = original.to_y[i];
      slice_.to_y[i] = original.to_x[i];
    }
    slice_.x = original.y;
    slice_.y = original.x;
  }
  ~Source() { delete[] copy_; }
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  const Slice& slice() const { return slice_; }
  bool is_transposed() const { return copy_ != nullptr; }

 private:
  static constexpr int64_t kPixelsPerSample = 4;  // a pixel's copy costs about an eighth of what a sample gains

  Slice slice_;
  int16_t* copy_ = nullptr;
};

}  // namespace
}  // namespace rsna
