// Memory of results on the CPU, reused when their tensors are freed: fresh pages for a batch of images take the
// system longer than the kernel takes to fill them.
#pragma once

#include <cstdint>

namespace rsna {

constexpr int64_t kKeptFrom = 128 << 10;  // bytes; of less, malloc keeps what was freed (glibc's M_MMAP_THRESHOLD)

// At least n_bytes (of kKeptFrom or more) that nobody else has, with any content; they begin at a page. Throws
// std::runtime_error if the system has none. All of these may be called from any thread.
void* take_result_memory(int64_t n_bytes);

// Gives memory back: once for each that was taken, with the same size.
void give_back_result_memory(void* data, int64_t n_bytes);

// What is kept and has no owner: at most 1 GiB, and together with what is in use at most 1.5 times the most that ever
// was.
int64_t idle_result_bytes();

// Returns all of that to the system, and says how much it was.
int64_t release_idle_result_memory();

}  // namespace rsna
