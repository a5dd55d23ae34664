// Whether the scan of a JPEG frame holds exactly the codes that its size asks for. Decoders do not say: of a scan that
// ends early they make up the rest, and of one that goes on they drop it, so damage becomes pixels.
// Source: ISO/IEC 10918-1, B.1 and B.2 (markers and segments), C.2 (codes), F.2.2 (DCT), H.2 (lossless).
#include <array>
#include <cstddef>
#include <cstdint>

namespace {

enum Verdict : int32_t { kWhole = 0, kEndsEarly = 1, kGoesOn = 2, kNoSuchCode = 3, kDamagedHead = 4 };

constexpr int kMaxCodeBits = 16;
constexpr int kTables = 4;
constexpr int kCoefficients = 64;  // of a block of 8 x 8
constexpr int kBlockSide = 8;
constexpr int kAllZeros = 15;      // a run of 16 zeros that another code follows
constexpr int kNoBitsFollow = 16;  // the lossless category that stands for one difference, 32768

enum Marker : int {
  kBaseline = 0xC0,
  kExtended = 0xC1,
  kLossless = 0xC3,
  kHuffmanTables = 0xC4,
  kFirstRestart = 0xD0,
  kStart = 0xD8,
  kEnd = 0xD9,
  kScan = 0xDA,
  kRestartInterval = 0xDD,
};

/// A table of codes; `lookup` holds length << 8 | symbol for what the next 16 bits begin with, 0 where no code does.
struct Codes {
  std::array<uint16_t, 1 << kMaxCodeBits> lookup{};
  bool is_defined = false;
};

/// The bits of a scan, without the zero that follows each FF in it; up to the first marker.
class Bits {
 public:
  Bits(const uint8_t* begin, const uint8_t* end) : at_(begin), end_(end) {}

  /// The next 16 bits, zeros where there are none.
  uint32_t peek() {
    if (n_ < kMaxCodeBits) fill();
    return n_ >= kMaxCodeBits ? uint32_t(bits_ >> (n_ - kMaxCodeBits)) & 0xFFFF
                              : uint32_t(bits_ << (kMaxCodeBits - n_)) & 0xFFFF;
  }

  /// Drops bits that were or could be peeked at; false when there are not so many.
  bool skip(int n) {
    if (n_ < n) fill();
    if (n_ < n) return false;
    n_ -= n;
    return true;
  }

  /// Whether no more is left than what fills the last byte up, so that a marker comes next.
  bool is_at_marker() {
    fill();
    return n_ < 8;
  }

  /// Goes on behind the marker that comes next, which is returned; 0 when there is none.
  int next_marker() {
    n_ = 0;
    while (at_ < end_ && *at_ == 0xFF) ++at_;  // any number of them may precede
    return at_ < end_ ? *at_++ : 0;
  }

 private:
  void fill() {
    while (n_ <= 48 && at_ < end_) {
      if (*at_ == 0xFF) {
        if (at_ + 1 == end_ || at_[1] != 0) return;
        ++at_;
        bits_ = bits_ << 8 | 0xFF;
      } else {
        bits_ = bits_ << 8 | *at_;
      }
      ++at_;
      n_ += 8;
    }
  }

  const uint8_t* at_;
  const uint8_t* end_;
  uint64_t bits_ = 0;
  int n_ = 0;
};

struct Frame {
  int process = 0;
  int64_t n_units = 0;  // samples of a lossless frame, blocks of another
  int64_t restart_interval = 0;
  std::array<Codes, kTables> dc, ac;
};

int big_endian(const uint8_t* at) { return at[0] << 8 | at[1]; }

/// Reads tables from the content of a DHT segment.
bool read_tables(Frame& frame, const uint8_t* at, const uint8_t* end) {
  while (at < end) {
    if (end - at < 1 + kMaxCodeBits) return false;
    const int is_ac = *at >> 4, number = *at & 15;
    if (is_ac > 1 || number >= kTables) return false;
    Codes& codes = (is_ac ? frame.ac : frame.dc)[number];
    codes = {};
    codes.is_defined = true;
    const uint8_t* counts = at + 1;
    at += 1 + kMaxCodeBits;
    uint32_t next = 0;  // the first 16 bits that no code begins yet
    for (int length = 1; length <= kMaxCodeBits; ++length) {
      for (int i = 0; i < counts[length - 1]; ++i, ++at) {
        const uint32_t after = next + (1u << (kMaxCodeBits - length));
        if (at == end || after > codes.lookup.size()) return false;
        while (next < after) codes.lookup[next++] = uint16_t(length << 8 | *at);
      }
    }
  }
  return true;
}

bool read_frame_header(Frame& frame, int process, const uint8_t* at, int64_t n_bytes) {
  if (n_bytes < 6 || at[5] != 1) return false;  // one component, whose blocks are then not interleaved
  const int64_t rows = big_endian(at + 1), columns = big_endian(at + 3);
  const int64_t side = process == kLossless ? 1 : kBlockSide;
  frame.process = process;
  frame.n_units = ((rows + side - 1) / side) * ((columns + side - 1) / side);
  return true;
}

Verdict read_code(Bits& bits, const Codes& codes, int& symbol) {
  const uint16_t found = codes.lookup[bits.peek()];
  // What was peeked at may be zeros that are not there.
  if (found == 0) return bits.skip(kMaxCodeBits) ? kNoSuchCode : kEndsEarly;
  symbol = found & 0xFF;
  return bits.skip(found >> 8) ? kWhole : kEndsEarly;
}

Verdict read_sample(Bits& bits, const Codes& differences) {
  int category;
  if (const Verdict verdict = read_code(bits, differences, category)) return verdict;
  if (category > kNoBitsFollow) return kNoSuchCode;
  return category == kNoBitsFollow || bits.skip(category) ? kWhole : kEndsEarly;
}

Verdict read_block(Bits& bits, const Codes& dc, const Codes& ac) {
  int symbol;
  if (const Verdict verdict = read_code(bits, dc, symbol)) return verdict;
  if (symbol >= kNoBitsFollow) return kNoSuchCode;
  if (!bits.skip(symbol)) return kEndsEarly;
  for (int k = 1; k < kCoefficients; ++k) {
    if (const Verdict verdict = read_code(bits, ac, symbol)) return verdict;
    const int n_zeros = symbol >> 4, n_bits = symbol & 15;
    if (n_bits == 0 && n_zeros != kAllZeros) break;  // the end of the block
    k += n_zeros;
    if (k >= kCoefficients) return kNoSuchCode;
    if (!bits.skip(n_bits)) return kEndsEarly;
  }
  return kWhole;
}

Verdict read_scan(const Frame& frame, const uint8_t* at, const uint8_t* end, int tables, int64_t& n_read) {
  const Codes &dc = frame.dc[tables >> 4], &ac = frame.ac[tables & 15];
  const bool is_lossless = frame.process == kLossless;
  if (!dc.is_defined || !(is_lossless || ac.is_defined)) return kDamagedHead;
  Bits bits(at, end);
  for (n_read = 0; n_read < frame.n_units; ++n_read) {
    if (n_read > 0 && frame.restart_interval > 0 && n_read % frame.restart_interval == 0) {
      if (!bits.is_at_marker()) return kGoesOn;
      const int64_t number = n_read / frame.restart_interval - 1;
      if (bits.next_marker() != kFirstRestart + number % 8) return kEndsEarly;
    }
    if (const Verdict verdict = is_lossless ? read_sample(bits, dc) : read_block(bits, dc, ac)) return verdict;
  }
  return bits.is_at_marker() && bits.next_marker() == kEnd ? kWhole : kGoesOn;
}

Verdict check(const uint8_t* at, const uint8_t* end, int64_t& n_read, int64_t& n_units) {
  Frame frame;
  while (end - at >= 4 && *at == 0xFF) {
    const int marker = at[1];
    if (marker == 0xFF || marker == kStart) {
      at += marker == 0xFF ? 1 : 2;
      continue;
    }
    const int64_t n_bytes = big_endian(at + 2);  // with these two
    if (n_bytes < 2 || n_bytes > end - at - 2) break;
    const uint8_t *content = at + 4, *after = at + 2 + n_bytes;
    at = after;
    switch (marker) {
      case kBaseline:
      case kExtended:
      case kLossless:
        if (!read_frame_header(frame, marker, content, n_bytes - 2)) return kDamagedHead;
        break;
      case kHuffmanTables:
        if (!read_tables(frame, content, after)) return kDamagedHead;
        break;
      case kRestartInterval:
        if (n_bytes != 4) return kDamagedHead;
        frame.restart_interval = big_endian(content);
        break;
      case kScan: {
        const int tables = n_bytes == 8 && content[0] == 1 ? content[2] : 0xFF;
        if (frame.process == 0 || tables >> 4 >= kTables || (tables & 15) >= kTables) return kDamagedHead;
        n_units = frame.n_units;
        return read_scan(frame, at, end, tables, n_read);
      }
      default:
        break;
    }
  }
  return kDamagedHead;
}

}  // namespace

/// Returns a `Verdict` on a frame of n_bytes. n_read, n_units: of the samples or blocks, how many are there, and how
/// many its size asks for.
extern "C" __attribute__((visibility("default"))) int32_t rsna_check_jpeg_scan(const uint8_t* frame, int64_t n_bytes,
                                                                               int64_t* n_read, int64_t* n_units) {
  *n_read = *n_units = 0;
  return check(frame, frame + n_bytes, *n_read, *n_units);
}
