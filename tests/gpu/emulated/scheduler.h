// The threads of one block: coroutines that run in a random order, up to the next barrier of their warp or block.
#pragma once

#include <cstdint>

namespace emulated {

constexpr unsigned kWarp = 32, kMaxThreads = 1024;

// Where the order begins; the same seed gives the same order.
void seed_order(uint64_t seed);

// Runs body(argument) in each of n_threads threads; current_thread is the one that runs. Ends the process if threads
// wait at a barrier that the others cannot reach any more.
void run_block(unsigned n_threads, void (*body)(const void*), const void* argument);
extern unsigned current_thread;

void wait_for_warp();
void wait_for_block();

}  // namespace emulated
