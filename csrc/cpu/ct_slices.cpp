// The CPU kernel. Compiled once per instruction set, with RSNA_CPU_KERNEL naming the function that comes out.
// All its functions are internal, and it uses no templates of the standard library: of a function that several objects
// share, the linker keeps one, which may be the one that this CPU cannot run.
#include "../ct_slices.h"

#include "block.h"
#include "source.h"
#include "store.h"

namespace rsna {
namespace {

constexpr int32_t kStep = 16;  // pixels about which find_inside decides at once

// Two neighbouring int16 values, read in one load from an address that is a multiple of 2.
typedef int32_t PixelPair __attribute__((aligned(2), may_alias));

// What one sample of each pixel of a block reads: the upper and the lower pair of pixels, and the taps' weights.
struct Block {
  alignas(64) int32_t upper[kBlock];
  alignas(64) int32_t lower[kBlock];
  alignas(64) float weight[4][kBlock];
};

// Pixels [begin, end) of a block.
struct Range {
  int32_t begin, end;
};

// Constants are copied to local variables before each loop: compilers then see that no store changes them.

// x: the samples' positions in the output, which all have the same y. A transposed source gives pairs from top to
// bottom.
template <bool kIsInside, bool kIsTransposed>
void read_taps(const Slice& slice_in_memory, const float* __restrict x, float y, Range range, Block& __restrict block) {
  const Slice slice = slice_in_memory;
  const int16_t* const upper = slice.anchor;
  const int16_t* const lower = upper + slice.width;
  for (int32_t i = range.begin; i < range.end; ++i) {
    const Taps taps = locate<kIsInside>(slice, x[i], y);
    const int32_t first = *reinterpret_cast<const PixelPair*>(upper + taps.index);
    const int32_t second = *reinterpret_cast<const PixelPair*>(lower + taps.index);
    block.upper[i] =
        kIsTransposed ? (first & 0xffff) | static_cast<int32_t>(static_cast<uint32_t>(second) << 16) : first;
    block.lower[i] =
        kIsTransposed ? static_cast<int32_t>((static_cast<uint32_t>(first) >> 16) | (second & 0xffff0000u)) : second;
    block.weight[0][i] = taps.top_left;
    block.weight[kIsTransposed ? 2 : 1][i] = taps.top_right;
    block.weight[kIsTransposed ? 1 : 2][i] = taps.bottom_left;
    block.weight[3][i] = taps.bottom_right;
  }
}

// A pair's pixels in HU times 65536, which costs less to unpack. Windows are scaled to that, which is exact.
constexpr float kPerHu = 65536.0f;

RSNA_INLINE float left_of(int32_t pair) {
  return static_cast<float>(static_cast<int32_t>(static_cast<uint32_t>(pair) << 16));
}
RSNA_INLINE float right_of(int32_t pair) { return static_cast<float>(static_cast<int32_t>(pair & 0xffff0000u)); }

// Adds a sample to each of n pixels, or begins their sums with it, for kChannels channels; sums: kBlock apart.
template <int kChannels, bool kIsGrey, bool kIsFirst>
void add_samples(const Slice& slice, const Channel* channels_in_memory, const Block& __restrict block, int32_t n,
                 float* __restrict sums) {
  Channel channels[kChannels];
  double darkest[kChannels];
  for (int c = 0; c < kChannels; ++c) {
    channels[c] = channels_in_memory[c];
    darkest[c] = kIsGrey ? window_exactly(channels[c], slice.lowest_hu) : 0.0;
    if (!kIsGrey) channels[c].inv_width *= 1.0f / kPerHu;
  }
  const float scale = kIsGrey ? 1.0f / kPerHu : 1.0f;
  for (int32_t i = 0; i < n; ++i) {
    const Taps taps = {0, block.weight[0][i], block.weight[1][i], block.weight[2][i], block.weight[3][i]};
    const Quad hu = {left_of(block.upper[i]) * scale, right_of(block.upper[i]) * scale, left_of(block.lower[i]) * scale,
                     right_of(block.lower[i]) * scale};
#pragma GCC unroll 3
    for (int c = 0; c < kChannels; ++c) {
      const float value = kIsGrey ? sample_grey(channels[c], darkest[c], taps, hu) : sample(channels[c], taps, hu);
      sums[c * kBlock + i] = kIsFirst ? value : sums[c * kBlock + i] + value;
    }
  }
}

// The same for all channels. Three, the usual number, share one loop.
template <bool kIsGrey, bool kIsFirst>
void add_to_all(const Transform& transform, const Slice& slice, const Block& block, int32_t n, float* sums) {
  int32_t c = 0;
  for (; c + 3 <= transform.n_channels; c += 3) {
    add_samples<3, kIsGrey, kIsFirst>(slice, transform.channels + c, block, n, sums + c * kBlock);
  }
  for (; c < transform.n_channels; ++c) {
    add_samples<1, kIsGrey, kIsFirst>(slice, transform.channels + c, block, n, sums + c * kBlock);
  }
}

// The part of n pixels of output row y, up to a step at each end, where is_inside holds for all samples. first, last:
// positions of each pixel's first and last sample.
Range find_inside(const Sampling& sampling, const Slice& slice, const float* first, const float* last, int32_t n,
                  int32_t y) {
  const float first_y = sample_position(sampling, y, 0);
  const float last_y = sample_position(sampling, y, sampling.n_sub - 1);
  const auto is_column_inside = [&](float x) {
    return is_inside(slice, x, first_y) && (sampling.n_sub == 1 || is_inside(slice, x, last_y));
  };
  Range range = {0, n};
  while (range.begin < n && !is_column_inside(first[range.begin])) range.begin += kStep;
  while (range.end > range.begin && !is_column_inside(last[range.end - 1])) range.end -= kStep;
  return range.begin < range.end ? range : Range{n, n};
}

// Sums of the samples of n pixels of output row y: [n_channels, kBlock]. positions: of the first pixel's samples in x;
// those of the next sample of every pixel are `size` further.
void sum_samples(const Transform& transform, const Source& source, const float* positions, int32_t n, int32_t y,
                 Block& block, float* sums) {
  const Slice& slice = source.slice();
  const auto read_outside = source.is_transposed() ? read_taps<false, true> : read_taps<false, false>;
  const auto read_inside = source.is_transposed() ? read_taps<true, true> : read_taps<true, false>;
  const int32_t n_sub = transform.sampling.n_sub;
  const bool is_grey = transform.output_type == OutputType::kUInt8;
  const Range inside =
      find_inside(transform.sampling, slice, positions, positions + (n_sub - 1) * transform.size, n, y);
  for (int32_t sub_y = 0; sub_y < n_sub; ++sub_y) {
    const float sample_y = sample_position(transform.sampling, y, sub_y);
    for (int32_t sub_x = 0; sub_x < n_sub; ++sub_x) {
      const float* x = positions + sub_x * transform.size;
      if (0 < inside.begin) read_outside(slice, x, sample_y, {0, inside.begin}, block);
      if (inside.begin < inside.end) read_inside(slice, x, sample_y, inside, block);
      if (inside.end < n) read_outside(slice, x, sample_y, {inside.end, n}, block);
      const bool is_first = sub_y == 0 && sub_x == 0;
      const auto add = is_grey ? (is_first ? add_to_all<true, true> : add_to_all<true, false>)
                               : (is_first ? add_to_all<false, true> : add_to_all<false, false>);
      add(transform, slice, block, n, sums);
    }
  }
}

}  // namespace

void RSNA_CPU_KERNEL(const Transform& transform, int64_t begin, int64_t end) {
  const int32_t size = transform.size, n_sub = transform.sampling.n_sub;
  const int64_t block_values = static_cast<int64_t>(transform.n_channels) * kBlock;
  const Array<float> sums(block_values), values(block_values), scratch(block_values);
  const Array<float> positions(static_cast<int64_t>(n_sub) * size);  // [n_sub, size]: the same for every row
  for (int32_t sub = 0; sub < n_sub; ++sub) {
    for (int32_t x = 0; x < size; ++x) positions.data[sub * size + x] = sample_position(transform.sampling, x, sub);
  }
  const Span all_x = {positions.data[0], positions.data[n_sub * size - 1]};
  Block block;
  for (int64_t row = begin; row < end;) {
    const int64_t slice_index = row / size, first_row = slice_index * size;
    const int64_t stop = first_row + size < end ? first_row + size : end;
    const Rows rows = {static_cast<int32_t>(row - first_row), static_cast<int32_t>(stop - first_row)};
    const Source source(transform.slices[slice_index], transform.sampling, all_x, size, rows);
    for (int32_t y = rows.begin; y < rows.end; ++y) {
      for (int32_t x = 0; x < size; x += kBlock) {
        const int32_t n = size - x < kBlock ? size - x : kBlock;
        sum_samples(transform, source, positions.data + x, n, y, block, sums.data);
        normalise_block(transform, sums.data, n, values.data);
        store(transform, values.data, n, static_cast<int64_t>(y) * size + x, slice_index,
              reinterpret_cast<char*>(scratch.data));
      }
    }
    row = stop;
  }
#ifdef __SSE2__
  _mm_sfence();  // streamed values are seen by whoever sees that this function has returned
#endif
}

}  // namespace rsna
