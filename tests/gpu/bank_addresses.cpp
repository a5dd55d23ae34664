// Prints where in its tile each lane of a warp writes and reads: a line per instruction, with what it does, its width
// in bytes, and a byte address per lane (-1: takes no part); a line with the layout and the tile's bytes before each
// tile.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>
#include <numeric>
#include <vector>

#include "csrc/cuda/tiles.h"

namespace {

using namespace rsna;

void print(const char* what, size_t width, const std::vector<long>& addresses) {
  std::printf("%s %zu", what, width);
  for (const long address : addresses) std::printf(" %ld", address);
  std::printf("\n");
}

// The values of a lane's pixels that `put` changes, which it finds as it left them: in bytes, ascending.
template <class TileOf, int32_t kChannels>
std::vector<long> written_by(TileOf& tile, int32_t lane, int32_t step) {
  float pixels[2 * kChannels];
  std::iota(pixels, pixels + 2 * kChannels, 1.0f);
  std::memset(&tile, 0, sizeof tile);
  tile.put(step + lane % kLanesX * 2, lane / kLanesX, pixels);
  std::vector<long> addresses;
  for (const auto& value : tile.values) {
    if (value != 0) addresses.push_back(reinterpret_cast<const char*>(&value) - reinterpret_cast<const char*>(&tile));
  }
  return addresses;
}

template <class Pairs, int32_t kChannels, bool kChannelsLast>
void print_tile(const char* type) {
  using TileOf = Tile<Pairs, kChannels, kChannelsLast>;
  static TileOf tile;
  std::printf("tile %s_%d%s %zu\n", type, kChannels, kChannelsLast ? "_last" : "", sizeof tile);
  for (int32_t step = 0; step < kTileWidth; step += kStepWidth) {
    std::vector<long> addresses[kChannels];  // of each store: two values each
    for (int32_t lane = 0; lane < 32; ++lane) {
      const auto written = written_by<TileOf, kChannels>(tile, lane, step);
      for (int32_t i = 0; i < kChannels; ++i) addresses[i].push_back(written.at(2 * i));
    }
    for (const auto& store : addresses) print("store", sizeof(typename Pairs::Packed), store);
  }
  for (int32_t first = 0; first < TileOf::kVectors; first += 32) {
    std::vector<long> addresses;
    for (int32_t lane = 0; lane < 32; ++lane) {
      const auto* vector = reinterpret_cast<const char*>(&tile.vector_of(lane, first / 32));
      addresses.push_back(first + lane < TileOf::kVectors ? vector - reinterpret_cast<const char*>(&tile) : -1);
    }
    print("load", sizeof(Vector), addresses);
  }
}

template <class Pairs>
void print_tiles(const char* type) {
  print_tile<Pairs, 1, false>(type);
  print_tile<Pairs, 3, false>(type);
  print_tile<Pairs, 3, true>(type);
}

}  // namespace

int main() {
  print_tiles<Float32Pairs>("float32");
  print_tiles<Float16Pairs>("float16");
  print_tiles<BFloat16Pairs>("bfloat16");
}
