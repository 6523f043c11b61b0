// In place of the kernels: what was launched, written into a log and into the results.

#pragma once

#include <cstdint>
#include <sstream>
#include <string>

#include "call.h"

namespace detr_steps::cuda {

struct half_bits {
  uint16_t bits;
};
struct bfloat_bits {
  uint16_t bits;
};
template <typename T>
struct WideOf {
  typedef float type;
};
template <>
struct WideOf<double> {
  typedef double type;
};
template <typename T>
using Wide = typename WideOf<T>::type;

struct Given {
  const float *locations, *weights;
};
struct Asked {
  const float *references, *offsets, *logits;
  int numbers;
};
enum class Forward { NAIVE, POINTS, VECTORS, TILES };

inline std::ostringstream launched;

// "tiles 2x30x2x32 of 4 bytes; " and the first number of each array.
template <typename T, typename... Arrays>
void log(const char* step, const Call& call, const T* value, Arrays... arrays) {
  launched << step << " " << call.b << "x" << call.s << "x" << call.m << "x" << call.d
           << " of " << sizeof(T) << ":";
  for (bool aligned : {uintptr_t(value) % 16 == 0, uintptr_t(arrays) % 16 == 0 ...})
    if (!aligned) launched << " misaligned";
  ((launched << " " << *arrays), ...);
  launched << "; ";
}

inline bool takes(const Call& call) { return call.d == 32 && call.p <= 32; }

template <typename T>
bool launch_naive(const Call& call, const T* value, const Wide<T>* locations,
                  const Wide<T>* weights, T* result, void*) {
  log("naive", call, value, locations, weights);
  for (int64_t i = 0; i < call.rows(call.b) * call.d; ++i) result[i] = value[0];
  return true;
}

template <typename T>
bool launch_tiles(const Call& call, const T* value, Given points, T* result, void*) {
  if (!takes(call)) return false;
  log("tiles", call, value, points.locations, points.weights);
  for (int64_t i = 0; i < call.rows(call.b) * call.d; ++i) result[i] = value[0];
  return true;
}

template <typename T>
bool launch_forward_fused(
    const Call& call, const T* value, Asked points, T* result, void*) {
  if (!takes(call)) return false;
  log("fused", call, value, points.references, points.offsets, points.logits);
  launched << points.numbers << "; ";
  for (int64_t i = 0; i < call.rows(call.b) * call.d; ++i) result[i] = value[0];
  return true;
}

}  // namespace detr_steps::cuda
