// The kernel for the usual case: one sample per output pixel, 1 or 3 channels. Each warp collects a tile of the output
// in shared memory and stores it from there, so that every store fills whole sectors of memory.
#pragma once

#include "ptx.h"

namespace rsna {

// Output types. Two neighbouring values are rounded together.
struct Float32Pairs {
  using Value = float;
  struct alignas(8) Packed {
    float first, second;
  };
  static __device__ Packed pack(float first, float second) { return {first, second}; }
};
struct Float16Pairs {
  using Value = uint16_t;
  using Packed = uint32_t;
  static __device__ Packed pack(float first, float second) { return to_float16_pair(first, second); }
};
struct BFloat16Pairs {
  using Value = uint16_t;
  using Packed = uint32_t;
  static __device__ Packed pack(float first, float second) { return to_bfloat16_pair(first, second); }
};

constexpr int32_t kTileThreads = 128;
// A warp's lanes are 8 x 4, each with two pixels side by side: one load of all lanes then touches few cache lines,
// whichever way the slice is turned.
constexpr int32_t kLanesX = 8, kLanesY = 4;
constexpr int32_t kStepWidth = 2 * kLanesX;
constexpr int32_t kTileWidth = 2 * kStepWidth;              // a tile has kLanesY rows
constexpr int32_t kSpanWidth = 8 * kTileWidth;              // a warp computes a span of tiles, one after another
constexpr int32_t kSpanRows = kTileThreads / 32 * kLanesY;  // those of a block's warps, one below the other

// A tile of output, in segments that are contiguous in the output too: one per row, or one per channel and row.
template <class Pairs, int32_t kChannels, bool kChannelsLast>
struct Tile {
  using Value = typename Pairs::Value;
  using Packed = typename Pairs::Packed;
  static constexpr int32_t kPlanes = kChannelsLast ? 1 : kChannels;
  static constexpr int32_t kSegments = kPlanes * kLanesY;
  static constexpr int32_t kPixelStride = kChannelsLast ? kChannels : 1;
  static constexpr int32_t kLength = kTileWidth * kPixelStride;
  static constexpr int32_t kPerVector = sizeof(Vector) / sizeof(Value);
  static constexpr int32_t kVectorsPerSegment = kLength / kPerVector;
  static constexpr int32_t kVectors = kSegments * kVectorsPerSegment;

  // Gaps before some rows keep lanes of different rows off each other's memory banks. Of 8-byte stores two rows go at
  // once, and a row is whole lines of banks: rows 1 and 3 begin half a line later. Of 4-byte stores all four go at
  // once, and a row ends in the middle of a line: rows 2 and 3 begin a quarter of a line later.
  static constexpr int32_t kGap = 16;
  static constexpr int32_t kFirst = sizeof(Packed) == 8 ? 1 : 0;  // before row y there are (y + kFirst) / 2 gaps
  static constexpr int32_t kPlaneLength = kLanesY * kLength + (kLanesY - 1 + kFirst) / 2 * kGap;
  alignas(16) Value values[kPlanes * kPlaneLength];

  // Lanes side by side take a run of vectors of a row. The same run of every row is a piece; the next piece is further
  // on in the rows, or in the next plane.
  static constexpr int32_t kRun = kVectorsPerSegment % 8 == 0 ? 8 : 4;
  static constexpr int32_t kPiecesAtOnce = 32 / (kRun * kLanesY);
  static constexpr int32_t kPieceStep = kChannelsLast ? kRun * kPerVector : kPlaneLength;

  // A segment's first value.
  __device__ __forceinline__ Value* begin_of(int32_t segment) {
    const int32_t y = segment % kLanesY;
    return values + segment / kLanesY * kPlaneLength + y * kLength + (y + kFirst) / 2 * kGap;
  }

  // What a lane takes in turn i, if 32 i + lane < kVectors.
  __device__ __forceinline__ const Vector& vector_of(int32_t lane, int32_t i) {
    const int32_t piece = i * kPiecesAtOnce + lane / (kRun * kLanesY), y = lane / kRun % kLanesY;
    return *reinterpret_cast<const Vector*>(begin_of(y) + piece * kPieceStep + lane % kRun * kPerVector);
  }

  // Takes the pixels x and x + 1 of row y: all channels of the first, then all of the second.
  __device__ __forceinline__ void put(int32_t x, int32_t y, const float (&pixels)[2 * kChannels]) {
#pragma unroll
    for (int32_t i = 0; i < kChannels; ++i) {
      if (kChannelsLast) {
        reinterpret_cast<Packed*>(begin_of(y) + x * kChannels)[i] = Pairs::pack(pixels[2 * i], pixels[2 * i + 1]);
      } else {
        *reinterpret_cast<Packed*>(begin_of(i * kLanesY + y) + x) = Pairs::pack(pixels[i], pixels[kChannels + i]);
      }
    }
  }
};

// What one lane of a warp knows of its span.
template <class Pairs, int32_t kChannels, bool kChannelsLast>
struct Span {
  using TileOf = Tile<Pairs, kChannels, kChannelsLast>;
  using Value = typename Pairs::Value;
  static constexpr int32_t kVectorsPerLane = (TileOf::kVectors + 31) / 32;

  Slice slice;
  Channel channels[kChannels];
  TileOf& tile;
  Value* image;             // the slice's first value in the output
  int32_t size;             // of the output
  int32_t row, begin, end;  // the span's first row, and its columns
  int32_t lane;
  bool is_aligned;  // every segment of every tile begins at a multiple of 16 bytes

  // Of a segment's value in column x, counted from the image's first.
  __device__ __forceinline__ int64_t offset_of(int32_t segment, int32_t x) const {
    const int64_t channel = segment / kLanesY, y = row + segment % kLanesY;
    return ((channel * size + y) * size + x) * TileOf::kPixelStride;
  }

  template <bool kIsInside>
  __device__ __forceinline__ void compute(float x, float y, float* pixel) const {
    const Taps taps = locate<kIsInside>(slice, x, y);
    const Quad hu = load_quad(slice, taps);
#pragma unroll
    for (int32_t c = 0; c < kChannels; ++c) pixel[c] = normalise(channels[c], sample(channels[c], taps, hu));
  }

  // Value by value: for a tile that the output's edge cuts, and for rows that do not begin at multiples of 16 bytes.
  __device__ void store_values(int32_t x) const {
    const int32_t length = min(kTileWidth, size - x) * TileOf::kPixelStride;
#pragma unroll 1
    for (int32_t segment = 0; segment < TileOf::kSegments; ++segment) {
      if (row + segment % kLanesY >= size) continue;
#pragma unroll 1
      for (int32_t i = lane; i < length; i += 32) image[offset_of(segment, x) + i] = tile.begin_of(segment)[i];
    }
  }

  // x, y: position in the output of this lane's first pixel.
  template <bool kIsInside>
  __device__ __forceinline__ void run(float x, float y) const {
    // Where this lane's first vector goes, and from one piece to the next.
    const int32_t piece = lane / (TileOf::kRun * kLanesY), y_in_tile = lane / TileOf::kRun % kLanesY;
    const int32_t vectors_per_row = size * TileOf::kPixelStride / TileOf::kPerVector;
    const int32_t piece_step = kChannelsLast ? TileOf::kRun : size * vectors_per_row;
    Vector* to = reinterpret_cast<Vector*>(image) + (row + y_in_tile) * vectors_per_row +
                 begin * TileOf::kPixelStride / TileOf::kPerVector + piece * piece_step + lane % TileOf::kRun;
#pragma unroll 1
    for (int32_t column = begin; column < end; column += kTileWidth) {
#pragma unroll
      for (int32_t step = 0; step < kTileWidth; step += kStepWidth) {
        float pixels[2 * kChannels];
        compute<kIsInside>(x + step, y, pixels);  // whole numbers and halves: these additions are exact
        compute<kIsInside>(x + (step + 1), y, pixels + kChannels);
        tile.put(step + lane % kLanesX * 2, lane / kLanesX, pixels);
      }
      x += kTileWidth;
      __syncwarp();
      if (is_aligned && column + kTileWidth <= size) {
#pragma unroll
        for (int32_t i = 0; i < kVectorsPerLane; ++i) {
          if (32 * i + lane >= TileOf::kVectors) continue;
          to[i * TileOf::kPiecesAtOnce * piece_step] = tile.vector_of(lane, i);
        }
        to += TileOf::kVectorsPerSegment;
      } else {
        store_values(column);
      }
      __syncwarp();
    }
  }
};

template <class Pairs, int32_t kChannels, bool kChannelsLast>
__global__ void __launch_bounds__(kTileThreads, 8) transform_tiles(Transform transform) {
  using SpanOf = Span<Pairs, kChannels, kChannelsLast>;
  using TileOf = typename SpanOf::TileOf;
  __shared__ TileOf tiles[kTileThreads / 32];
  const int32_t size = transform.size, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int32_t row = blockIdx.y * kSpanRows + warp * kLanesY;
  if (row >= size) return;
  const int32_t begin = blockIdx.x * kSpanWidth, end = min(begin + kSpanWidth, size);
  const auto output = static_cast<typename Pairs::Value*>(transform.output);
  // Then there are whole tiles only in y.
  static_assert(TileOf::kPerVector % kLanesY == 0);
  const bool is_aligned =
      reinterpret_cast<unsigned long long>(output) % sizeof(Vector) == 0 && size % TileOf::kPerVector == 0;
  SpanOf span = {transform.slices[blockIdx.z],
                 {},
                 tiles[warp],
                 output + static_cast<int64_t>(blockIdx.z) * kChannels * size * size,
                 size,
                 row,
                 begin,
                 end,
                 lane,
                 is_aligned};
#pragma unroll
  for (int32_t c = 0; c < kChannels; ++c) span.channels[c] = transform.channels[c];
  const float x = sample_position(transform.sampling, begin + lane % kLanesX * 2, 0);
  const float y = sample_position(transform.sampling, row + lane / kLanesX, 0);
  const float last_x = x + static_cast<float>((end - begin - 1) / kTileWidth * kTileWidth + kStepWidth + 1);
  // The lanes decide together: a divergent warp would run both branches, one after the other.
  if (__all_sync(0xffffffffu, is_inside(span.slice, x, y) && is_inside(span.slice, last_x, y))) {
    span.template run<true>(x, y);
  } else {
    span.template run<false>(x, y);
  }
}

}  // namespace rsna
