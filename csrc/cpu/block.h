// Definitions shared by the parts of the CPU kernel. Everything is internal to the object that it is compiled into.
#pragma once

#include "../ct_slices.h"

namespace rsna {
namespace {

constexpr int32_t kBlock = 256;  // pixels of a row that are worked on at once; all arrays stay in the L1 cache

// An array that lives as long as its variable.
template <class T>
struct Array {
  explicit Array(int64_t n) : data(new T[static_cast<size_t>(n)]) {}
  ~Array() { delete[] data; }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  T* const data;
};

}  // namespace
}  // namespace rsna
