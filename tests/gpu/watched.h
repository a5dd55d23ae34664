// What a program that a sanitizer watches runs: watched_cuda.cpp and watched_cpu.cpp define these.
#pragma once

#include "csrc/ct_slices.h"

namespace watched {

// Every kernel that there is for this. Both return 0, or a cudaError_t.
int transform(const rsna::Transform& transform);
int search(const rsna::ContentSearch& search);

void seed_order(uint64_t seed);

}  // namespace watched
