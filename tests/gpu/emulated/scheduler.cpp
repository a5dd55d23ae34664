// Compiled without a sanitizer, so that only what the threads do is watched. Under ThreadSanitizer each thread is a
// fiber, and only barriers order what two of them do; under AddressSanitizer it has a stack of its own.
#include "scheduler.h"

#include <ucontext.h>

#include <cstdio>
#include <cstdlib>

// In the sanitizers' libraries, if one is linked.
extern "C" {
#define RSNA_IF_LINKED __attribute__((weak))
RSNA_IF_LINKED void* __tsan_create_fiber(unsigned flags);
RSNA_IF_LINKED void* __tsan_get_current_fiber();
RSNA_IF_LINKED void __tsan_switch_to_fiber(void* fiber, unsigned flags);
RSNA_IF_LINKED void __tsan_acquire(void* address);
RSNA_IF_LINKED void __tsan_release(void* address);
RSNA_IF_LINKED void __sanitizer_start_switch_fiber(void** save, const void* stack, size_t n_bytes);
RSNA_IF_LINKED void __sanitizer_finish_switch_fiber(void* saved, const void** stack, size_t* n_bytes);
}

namespace emulated {

unsigned current_thread = 0;

namespace {

constexpr unsigned kUnordered = 1;  // __tsan_switch_to_fiber_no_sync of sanitizer/tsan_interface.h
constexpr size_t kStackBytes = 1 << 16;

// A coroutine, and what the sanitizers know of it.
struct Routine {
  ucontext_t context;
  void* fiber;
  const void* stack;
  size_t stack_bytes;
};

// What n_waiting of n_alive threads wait for. Of its two addresses one is acquired after this barrier, the other is
// released before the next: else who comes late would be ordered behind what the others did after this one.
struct Barrier {
  unsigned n_alive, n_waiting;
  unsigned phase;
  char addresses[2];
};

Routine scheduler, threads[kMaxThreads];
char stacks[kMaxThreads][kStackBytes];
Barrier warps[kMaxThreads / kWarp], whole_block;
Barrier* waits_for[kMaxThreads];
bool is_done[kMaxThreads];
unsigned ready[kMaxThreads], n_ready, n_block;
char start_of_block, end_of_block;
uint64_t order = 1;
void (*block_body)(const void*);
const void* block_argument;

// Knuth's MMIX generator (TAOCP 2, 3.3.4); its high bits are good.
unsigned random_below(unsigned n) {
  order = order * 6364136223846793005u + 1442695040888963407u;
  return static_cast<unsigned>((order >> 33) % n);
}

void acquire(char& address) {
  if (__tsan_acquire) __tsan_acquire(&address);
}

void release(char& address) {
  if (__tsan_release) __tsan_release(&address);
}

// Returns when someone switches back; has_ended: nobody will.
void switch_routine(Routine& from, Routine& to, bool has_ended = false) {
  void* saved = nullptr;
  if (__sanitizer_start_switch_fiber) {
    __sanitizer_start_switch_fiber(has_ended ? nullptr : &saved, to.stack, to.stack_bytes);
  }
  if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(to.fiber, kUnordered);
  swapcontext(&from.context, &to.context);
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(saved, nullptr, nullptr);
}

void begin_thread() {
  if (__sanitizer_finish_switch_fiber) {
    __sanitizer_finish_switch_fiber(nullptr, &scheduler.stack, &scheduler.stack_bytes);
  }
  acquire(start_of_block);
  block_body(block_argument);
  release(end_of_block);
  is_done[current_thread] = true;
  switch_routine(threads[current_thread], scheduler, true);
}

void start_thread(unsigned i) {
  Routine& thread = threads[i];
  if (__tsan_create_fiber && !thread.fiber) thread.fiber = __tsan_create_fiber(0);
  thread.stack = stacks[i];
  thread.stack_bytes = kStackBytes;
  getcontext(&thread.context);
  thread.context.uc_stack.ss_sp = stacks[i];
  thread.context.uc_stack.ss_size = kStackBytes;
  makecontext(&thread.context, begin_thread, 0);
  is_done[i] = false;
  waits_for[i] = nullptr;
  ready[n_ready++] = i;
}

void wait_for(Barrier& barrier) {
  char& address = barrier.addresses[barrier.phase % 2];
  release(address);
  waits_for[current_thread] = &barrier;
  ++barrier.n_waiting;
  switch_routine(threads[current_thread], scheduler);
  acquire(address);
}

// Lets the threads go on that wait for all that are alive.
void open(Barrier& barrier) {
  if (barrier.n_waiting == 0 || barrier.n_waiting < barrier.n_alive) return;
  barrier.n_waiting = 0;
  ++barrier.phase;
  for (unsigned i = 0; i < n_block; ++i) {
    if (waits_for[i] != &barrier) continue;
    waits_for[i] = nullptr;
    ready[n_ready++] = i;
  }
}

}  // namespace

void seed_order(uint64_t seed) { order = seed; }

void run_block(unsigned n_threads, void (*body)(const void*), const void* argument) {
  block_body = body;
  block_argument = argument;
  n_block = n_threads;
  n_ready = 0;
  if (__tsan_get_current_fiber) scheduler.fiber = __tsan_get_current_fiber();
  release(start_of_block);
  for (unsigned i = 0; i < n_threads; ++i) {
    warps[i / kWarp].n_alive = i % kWarp + 1;
    start_thread(i);
  }
  whole_block.n_alive = n_threads;
  while (n_ready > 0) {
    const unsigned pick = random_below(n_ready);
    current_thread = ready[pick];
    ready[pick] = ready[--n_ready];
    switch_routine(scheduler, threads[current_thread]);
    Barrier& warp = warps[current_thread / kWarp];
    warp.n_alive -= is_done[current_thread];
    whole_block.n_alive -= is_done[current_thread];
    open(warp);
    open(whole_block);
  }
  if (whole_block.n_alive > 0) {
    std::fprintf(stderr, "emulated: %u threads wait at barriers that not all reach\n", whole_block.n_alive);
    std::abort();
  }
  acquire(end_of_block);
}

void wait_for_warp() { wait_for(warps[current_thread / kWarp]); }
void wait_for_block() { wait_for(whole_block); }

}  // namespace emulated
