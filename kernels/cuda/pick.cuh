// Picks the kernel made for a width and a number of points.

#pragma once

#include "launch.h"
#include "points.cuh"

// Each file with kernels is compiled twice, side by side, for numbers of 4 and of 2
// BYTES: `make(T)` is to instantiate what the file has for one type.
#if BYTES == 4
#define FOR_TYPES(make) make(float)
#elif BYTES == 2
#define FOR_TYPES(make) make(half_bits) make(bfloat_bits)
#else  // the emulator instantiates what it needs
#define FOR_TYPES(make)
#endif

namespace detr_steps::cuda {

// What a launcher is given, as the kernels take it.
inline Given with_methods(const GivenArrays<float>& given) {
  return {given.locations, given.weights};
}
inline Asked with_methods(const AskedArrays& asked) {
  return {asked.references, asked.offsets, asked.logits, asked.numbers};
}
template <typename Arrays>
using PointsOf = decltype(with_methods(Arrays()));

template <int N>
struct Constant {
  static constexpr int value = N;
};

// `work(width)` with D as a constant, for a kernel's template argument. False for
// shapes that the fast steps do not take.
template <typename T, typename Work>
bool with_width(const Call& call, const Work& work) {
  if (!call.fits() || call.p < 1 || call.p > MAX_POINTS) return false;
  if constexpr (sizeof(T) == 4)  // in 16 bits that would be one lane for a row
    if (call.d == 8) return work(Constant<8>());
  if (call.d == 16) return work(Constant<16>());
  if (call.d == 32) return work(Constant<32>());
  if (call.d == 64) return work(Constant<64>());
  return false;
}

// The same with P as well, for heads of 32 channels, which nearly all models have: 4
// levels of 4 points, 3 of 4 (each number more takes a second to compile). ANY for the
// rest, a tenth slower.
template <typename T, typename Work>
bool with_shape(const Call& call, const Work& work) {
  return with_width<T>(call, [&](auto width) {
    if constexpr (decltype(width)::value == 32) {
      if (call.p == 16) return work(width, Constant<16>());
      if (call.p == 12) return work(width, Constant<12>());
    }
    return work(width, Constant<ANY>());
  });
}

}  // namespace detr_steps::cuda
