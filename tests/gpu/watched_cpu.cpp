// The CPU kernels, of every instruction set that this machine runs.
#include <sstream>

#include "watched.h"

int watched::transform(const rsna::Transform& transform) {
  std::istringstream names(rsna::cpu_instruction_sets());
  for (std::string name; names >> name;) {
    const rsna::CpuKernel kernel = rsna::cpu_kernel(name.c_str());
    const int64_t n_rows = transform.n_slices * transform.size;
    kernel(transform, 0, n_rows / 3);  // as threads would divide them, in the middle of a slice
    kernel(transform, n_rows / 3, n_rows);
  }
  return 0;
}

int watched::search(const rsna::ContentSearch& search) {
  rsna::find_content_cpu(search, 0, search.n_slices);
  return 0;
}

void watched::seed_order(uint64_t) {}
