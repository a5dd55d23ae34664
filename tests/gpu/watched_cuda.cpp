// The CUDA kernels on the emulated runtime.
#include <cuda_runtime.h>

#include "csrc/cuda/ct_slices.cu"
#include "watched.h"

int watched::transform(const rsna::Transform& transform) { return rsna::launch_cuda(transform, nullptr); }
int watched::search(const rsna::ContentSearch& search) { return rsna::launch_content_cuda(search, nullptr); }
void watched::seed_order(uint64_t seed) { emulated::seed_order(seed); }
