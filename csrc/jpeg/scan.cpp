// Whether the scan of a JPEG frame holds exactly the codes that its size asks for. Decoders do not say: of a scan that
// ends early they make up the rest, and of one that goes on they drop it, so damage becomes pixels.
// Source: ISO/IEC 10918-1, B.1 and B.2 (markers and segments), C.2 (codes), F.2.2 (DCT), H.2 (lossless).
#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

enum Verdict : int32_t {
  kWhole = 0,
  kEndsEarly = 1,
  kGoesOn = 2,
  kNoSuchCode = 3,
  kWrongRestart = 4,
  kWrongEnd = 5,
  kDamagedHead = 6,
};

constexpr int kMaxCodeBits = 16;
constexpr int kTables = 4;
constexpr int kCoefficients = 64;  // of a block of 8 x 8
constexpr int kBlockSide = 8;
constexpr int kSixteenZeros = 15;  // the run that another code follows
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
  kNumberOfLines = 0xDC,
  kRestartInterval = 0xDD,
  kFirstApplication = 0xE0,
  kComment = 0xFE,
};

/// How many codes have 1 to 16 bits, and the symbols that they stand for: as a DHT segment has them.
using Table = const uint8_t*;

/// For each 16 bits what they begin with: length << 8 | symbol, 0 where that is no code.
using Codes = std::vector<uint16_t>;

struct Frame {
  int process = 0;
  int64_t rows = 0;
  int64_t n_units = 0;  // samples of a lossless frame, blocks of another
  int64_t restart_interval = 0;
  Table dc[kTables] = {}, ac[kTables] = {};
};

int big_endian(const uint8_t* at) { return at[0] << 8 | at[1]; }

/// What a marker segment holds, without its length; no content where it is longer than what is left.
struct Segment {
  const uint8_t* content = nullptr;
  int64_t n_bytes = 0;
};

/// Reads the segment whose marker was read, and goes on behind it.
Segment read_segment(const uint8_t*& at, const uint8_t* end) {
  const int64_t n_bytes = end - at < 2 ? 0 : big_endian(at);  // with these two
  if (n_bytes < 2 || n_bytes > end - at) return {};
  const Segment segment{at + 2, n_bytes - 2};
  at += n_bytes;
  return segment;
}

bool is_restart(int marker) { return marker >= kFirstRestart && marker < kFirstRestart + 8; }

/// Its bits without the zero that follows each FF, up to the first marker; then markers and segments.
class Scan {
 public:
  Scan(const uint8_t* begin, const uint8_t* end) : at_(begin), end_(end) {}

  /// The next 16 bits, zeros where there are none.
  uint32_t peek() {
    if (n_ < kMaxCodeBits) fill();
    return n_ >= kMaxCodeBits ? uint32_t(bits_ >> (n_ - kMaxCodeBits)) & 0xFFFF
                              : uint32_t(bits_ << (kMaxCodeBits - n_)) & 0xFFFF;
  }

  /// Drops bits; false when there are not so many.
  bool skip(int n) {
    if (n_ < n) fill();
    if (n_ < n) return false;
    n_ -= n;
    return true;
  }

  /// Whether nothing is left but what fills the last byte up.
  bool is_at_marker() {
    fill();
    return n_ < 8;
  }

  /// Drops bytes of zeros, with which some writers fill up.
  void drop_zeros() {
    fill();
    for (n_ -= n_ % 8; n_ >= 8 && (bits_ >> (n_ - 8) & 0xFF) == 0; fill()) n_ -= 8;
  }

  /// Goes on behind the marker that comes next, which is returned; 0 when there is none.
  int next_marker() {
    n_ = 0;
    if (at_ == end_ || *at_ != 0xFF) return 0;
    while (at_ < end_ && *at_ == 0xFF) ++at_;  // any number of them may precede
    return at_ < end_ ? *at_++ : 0;
  }

  /// The segment whose marker was read.
  Segment next_segment() { return read_segment(at_, end_); }

  /// Whether there is only padding from here on.
  bool is_padding() const {
    return std::all_of(at_, end_, [](uint8_t byte) { return byte == 0 || byte == 0xFF; });
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

/// Notes where the tables of a DHT segment are.
bool find_tables(Frame& frame, const Segment& segment) {
  const uint8_t *at = segment.content, *end = at + segment.n_bytes;
  while (at < end) {
    if (end - at < 1 + kMaxCodeBits) return false;
    const int is_ac = *at >> 4, number = *at & 15;
    if (is_ac > 1 || number >= kTables) return false;
    const Table table = at + 1;
    int n_codes = 0;
    for (int i = 0; i < kMaxCodeBits; ++i) n_codes += table[i];
    if (n_codes > end - table - kMaxCodeBits) return false;
    (is_ac ? frame.ac : frame.dc)[number] = table;
    at = table + kMaxCodeBits + n_codes;
  }
  return true;
}

/// Empty when there is no such table, or it has more codes than there can be.
Codes codes_of(Table table) {
  if (table == nullptr) return {};
  Codes codes(1 << kMaxCodeBits);
  const uint8_t* symbol = table + kMaxCodeBits;
  size_t next = 0;  // the first 16 bits that no code begins yet
  for (int length = 1; length <= kMaxCodeBits; ++length) {
    const size_t share = size_t{1} << (kMaxCodeBits - length);
    for (int i = 0; i < table[length - 1]; ++i, next += share) {
      if (next + share > codes.size()) return {};
      std::fill_n(codes.begin() + next, share, uint16_t(length << 8 | *symbol++));
    }
  }
  return codes;
}

bool read_frame_header(Frame& frame, int process, const Segment& segment) {
  const uint8_t* at = segment.content;
  if (segment.n_bytes < 6 || at[5] != 1) return false;  // one component, whose blocks are then not interleaved
  const int64_t columns = big_endian(at + 3), side = process == kLossless ? 1 : kBlockSide;
  frame.process = process;
  frame.rows = big_endian(at + 1);
  frame.n_units = ((frame.rows + side - 1) / side) * ((columns + side - 1) / side);
  return true;
}

Verdict read_code(Scan& scan, const Codes& codes, int& symbol) {
  const uint16_t found = codes[scan.peek()];
  // What was peeked at may be zeros that are not there.
  if (found == 0) return scan.skip(kMaxCodeBits) ? kNoSuchCode : kEndsEarly;
  symbol = found & 0xFF;
  return scan.skip(found >> 8) ? kWhole : kEndsEarly;
}

Verdict read_sample(Scan& scan, const Codes& differences) {
  int category;
  if (const Verdict verdict = read_code(scan, differences, category)) return verdict;
  if (category > kNoBitsFollow) return kNoSuchCode;
  return category == kNoBitsFollow || scan.skip(category) ? kWhole : kEndsEarly;
}

Verdict read_block(Scan& scan, const Codes& dc, const Codes& ac) {
  int symbol;
  if (const Verdict verdict = read_code(scan, dc, symbol)) return verdict;
  if (symbol >= kNoBitsFollow) return kNoSuchCode;
  if (!scan.skip(symbol)) return kEndsEarly;
  for (int k = 1; k < kCoefficients; ++k) {
    if (const Verdict verdict = read_code(scan, ac, symbol)) return verdict;
    const int n_zeros = symbol >> 4, n_bits = symbol & 15;
    if (n_bits == 0 && n_zeros != kSixteenZeros) break;  // the end of the block
    k += n_zeros;
    if (k >= kCoefficients) return kNoSuchCode;
    if (!scan.skip(n_bits)) return kEndsEarly;
  }
  return kWhole;
}

/// Reads what follows the last code: DNL may say the number of lines again, and other segments do no harm.
Verdict read_end(Scan& scan, int64_t rows) {
  scan.drop_zeros();
  if (!scan.is_at_marker()) return kGoesOn;
  for (;;) {
    const int marker = scan.next_marker();
    if (marker == kEnd) return scan.is_padding() ? kWhole : kWrongEnd;
    const Segment segment = scan.next_segment();
    if (segment.content == nullptr) return kWrongEnd;
    const bool is_harmless = marker == kComment || (marker >= kFirstApplication && marker < kFirstApplication + 16);
    const bool is_same = marker == kNumberOfLines && segment.n_bytes == 2 && big_endian(segment.content) == rows;
    if (!is_harmless && !is_same) return kWrongEnd;
  }
}

Verdict read_scan(const Frame& frame, const uint8_t* at, const uint8_t* end, int tables, int64_t& n_read) {
  const bool is_lossless = frame.process == kLossless;
  const Codes dc = codes_of(frame.dc[tables >> 4]), ac = is_lossless ? Codes{} : codes_of(frame.ac[tables & 15]);
  if (dc.empty() || (ac.empty() && !is_lossless)) return kDamagedHead;
  Scan scan(at, end);
  for (n_read = 0; n_read < frame.n_units; ++n_read) {
    if (n_read > 0 && frame.restart_interval > 0 && n_read % frame.restart_interval == 0) {
      if (!scan.is_at_marker()) return kWrongRestart;
      const int marker = scan.next_marker(), number = (n_read / frame.restart_interval - 1) % 8;
      if (marker != kFirstRestart + number) return is_restart(marker) ? kWrongRestart : kEndsEarly;
    }
    const Verdict verdict = is_lossless ? read_sample(scan, dc) : read_block(scan, dc, ac);
    if (verdict == kEndsEarly && is_restart(scan.next_marker())) return kWrongRestart;
    if (verdict) return verdict;
  }
  return read_end(scan, frame.rows);
}

Verdict check(const uint8_t* at, const uint8_t* end, int64_t& n_read, int64_t& n_units) {
  Frame frame;
  while (end - at >= 4 && *at == 0xFF) {
    const int marker = at[1];
    if (marker == 0xFF || marker == kStart) {
      at += marker == 0xFF ? 1 : 2;
      continue;
    }
    at += 2;
    const Segment segment = read_segment(at, end);
    if (segment.content == nullptr) break;
    switch (marker) {
      case kBaseline:
      case kExtended:
      case kLossless:
        if (!read_frame_header(frame, marker, segment)) return kDamagedHead;
        break;
      case kHuffmanTables:
        if (!find_tables(frame, segment)) return kDamagedHead;
        break;
      case kRestartInterval:
        if (segment.n_bytes != 2) return kDamagedHead;
        frame.restart_interval = big_endian(segment.content);
        break;
      case kScan: {
        const int tables = segment.n_bytes == 6 && segment.content[0] == 1 ? segment.content[2] : 0xFF;
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
