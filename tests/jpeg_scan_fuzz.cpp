// Checks scans of frames with random damage. Usage: jpeg_scan_fuzz COUNT FRAME...; prints how many had which verdict.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <vector>

#include "../csrc/jpeg/scan.cpp"

namespace {

using Bytes = std::vector<uint8_t>;

/// Changes up to six bytes or bits, cuts, or puts bytes in; in a third of the cases in the heads.
void damage(Bytes& frame, std::mt19937& rng) {
  constexpr size_t kHeads = 700;
  for (auto left = rng() % 6 + 1; left > 0; --left) {
    const size_t at = rng() % (rng() % 3 ? frame.size() : std::min(frame.size(), kHeads));
    switch (rng() % 4) {
      case 0:
        frame[at] = rng() % 256;
        break;
      case 1:
        frame[at] ^= 1 << rng() % 8;
        break;
      case 2:
        frame.insert(frame.begin() + at, rng() % 2 ? 0xFF : rng() % 256);
        break;
      default:
        if (rng() % 4 == 0) frame.resize(at + 1);
    }
  }
}

}  // namespace

int main(int n_arguments, char** arguments) {
  std::vector<Bytes> frames;
  for (int i = 2; i < n_arguments; ++i) {
    std::ifstream file(arguments[i], std::ios::binary);
    frames.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  std::mt19937 rng(2019);
  std::array<int64_t, kDamagedHead + 1> counts{};
  for (int64_t n = std::atoll(arguments[1]), i = 0; i < n; ++i) {
    Bytes frame = frames[i % frames.size()];
    damage(frame, rng);
    const auto exact = std::make_unique<uint8_t[]>(frame.size());  // a vector may have room behind its end
    std::copy(frame.begin(), frame.end(), exact.get());
    int64_t n_read, n_units;
    ++counts[rsna_check_jpeg_scan(exact.get(), frame.size(), &n_read, &n_units)];
    if (n_read > n_units) return 1;
  }
  for (const int64_t count : counts) std::printf("%lld ", static_cast<long long>(count));
}
