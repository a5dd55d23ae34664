// Runs kernels over sizes, types, layouts, borders, boxes and turns, every array in a heap block of exactly its size,
// so that AddressSanitizer sees each value read or written beyond one. Usage: watched SEED N_CASES   prints what it
// did.
#include "watched.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "host_transform.h"

namespace {

std::mt19937 generator;

int32_t draw(int32_t low, int32_t high) { return low + static_cast<int32_t>(generator() % (high - low + 1u)); }

template <class T>
T pick(std::initializer_list<T> choices) {
  return choices.begin()[draw(0, static_cast<int32_t>(choices.size()) - 1)];
}

// A block of its own; two more bytes of it lie before the values if they are to begin at an odd address.
template <class T>
struct Block {
  explicit Block(int64_t n, bool is_shifted = false)
      : memory(new T[n + is_shifted]), values(memory.get() + is_shifted) {}
  const std::unique_ptr<T[]> memory;
  T* const values;
};

struct Input {
  Input(int32_t n_slices, int32_t height_, int32_t width_)
      : n(n_slices), height(height_), width(width_), hu(int64_t{n} * height * width, draw(0, 3) == 0) {
    for (int64_t i = 0; i < int64_t{n} * height * width; ++i) hu.values[i] = static_cast<int16_t>(draw(-2000, 3000));
    pixels = host::pixels_of(hu.values, n, height, width);
  }
  const int32_t n, height, width;
  const Block<int16_t> hu;
  std::vector<rsna::Pixels> pixels;
};

// Upright, by a right angle or by any, of either hand; from far inside the slice to far beyond it; some shifted.
void draw_matrix(const Input& input, int32_t size, float* matrix) {
  const double turn = draw(0, 2) == 0 ? draw(0, 6283) / 1000.0 : draw(0, 3) * std::acos(0.0);
  const double zoom = pick({0.3, 1.0, 1.0, 3.0, 40.0}), scale = std::min(input.height, input.width) / zoom / size;
  const double flip = pick({-1.0, 1.0}), far = pick({0.0, 0.0, 0.5, 1e4});
  const double linear[4] = {scale * flip * std::cos(turn), -scale * std::sin(turn), scale * flip * std::sin(turn),
                            scale * std::cos(turn)};
  for (int i = 0; i < 2; ++i) {
    const double middle = (i == 0 ? input.width : input.height) / 2.0 + far * pick({-1.0, 1.0});
    matrix[3 * i] = static_cast<float>(linear[2 * i]);
    matrix[3 * i + 1] = static_cast<float>(linear[2 * i + 1]);
    matrix[3 * i + 2] = static_cast<float>(middle - (linear[2 * i] + linear[2 * i + 1]) * (size - 1) / 2.0);
  }
}

void draw_box(const Input& input, int32_t* box) {
  box[0] = draw(-10, input.width - 1);
  box[1] = draw(-10, input.height - 1);
  box[2] = 10 + draw(1, input.width + 10);
  if (draw(0, 3) == 0) box[0] = input.width - 1, box[1] = input.height - 1, box[2] = 1;
}

// Sixteen cases in a row have every type in every layout, and so every variant of a kernel.
int transform_case(int32_t i) {
  const Input input(draw(1, 3), pick({2, 3, 40, 64}), pick({2, 8, 53, 64}));
  const auto type = static_cast<rsna::OutputType>(i % 4);
  const int32_t layout = i / 4 % 4, n_channels = layout == 0 ? 1 : layout == 3 ? pick({2, 5}) : 3;
  const bool channels_last = layout == 2 || (layout == 3 && draw(0, 1) != 0);
  const int32_t size = pick({1, 3, 8, 31, 33, 48, 64, 264}), supersample = i / 16 % 2 == 0 ? 1 : pick({1, 2, 3});
  const int32_t n_values = input.n * n_channels * size * size;
  const int32_t value_bytes = type == rsna::OutputType::kFloat32 ? 4 : type == rsna::OutputType::kUInt8 ? 1 : 2;
  const Block<float> affine(6 * input.n), windows(2 * n_channels);
  const Block<int32_t> boxes(3 * input.n), lowest_hu(input.n);
  for (int32_t n = 0; n < input.n; ++n) {
    draw_matrix(input, size, affine.values + 6 * n);
    draw_box(input, boxes.values + 3 * n);
    lowest_hu.values[n] = -2000;
  }
  for (int32_t c = 0; c < n_channels; ++c) {
    windows.values[2 * c] = 40.0f + 20.0f * c;
    windows.values[2 * c + 1] = 80.0f + 633.0f * c;
  }
  const Block<char> output(int64_t{n_values} * value_bytes);
  const rsna::SliceParams params = {input.n,
                                    input.pixels.data(),
                                    affine.values,
                                    draw(0, 1) ? boxes.values : nullptr,
                                    pick({rsna::Border::kZero, rsna::Border::kReplicate}),
                                    size,
                                    type == rsna::OutputType::kUInt8 ? lowest_hu.values : nullptr};
  const host::Call call(params, n_channels, windows.values, supersample, type, channels_last, output.values);
  return watched::transform(call.transform);
}

int search_case() {
  const Input input(draw(1, 3), pick({2, 3, 40, 64}), pick({2, 8, 53, 64, 264}));
  const Block<int32_t> boxes(4 * input.n);
  return watched::search({input.pixels.data(), boxes.values, input.n, pick({-3000, 0, 2990, 4000})});
}

}  // namespace

int main(int, char** arguments) {
  const int seed = std::atoi(arguments[1]), n_cases = std::atoi(arguments[2]);
  generator.seed(static_cast<unsigned>(seed));
  watched::seed_order(static_cast<uint64_t>(seed));
  for (int32_t i = 0; i < n_cases; ++i) {
    if (transform_case(i) != 0 || search_case() != 0) return 1;
  }
  std::printf("seed %d: %d calls of each kernel\n", seed, n_cases);
}
