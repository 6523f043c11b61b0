// Starts the step of the way back that was asked for: picks the kernel made for a
// width, and a grid.

#pragma once

#include "backward_fixed.cuh"
#include "backward_vectors.cuh"
#include "launch_forward.cuh"

namespace detr_steps::cuda {

enum class Backward { NAIVE, VECTORS, SORTED, FIXED };

template <typename T, typename Sums>
bool launch_backward_naive(const Call& call, const T* value, const Wide<T>* locations,
                           const Wide<T>* weights, const T* slope, Sums sums,
                           Wide<T>* locations_slope, Wide<T>* weights_slope,
                           Stream stream) {
  if (!call.fits()) return false;
  const int warps = (call.d + 31) / 32;
  const dim3 grid(call.q * call.m, call.b), block(32 * min(warps, MOST_WARPS));
  LAUNCH((backward_naive<T, Sums>), grid, block, stream, call, value, locations,
         weights, slope, sums, locations_slope, weights_slope);
  return true;
}

// `Points`, `Slopes`: Given, GivenSlopes, or Asked, AskedSlopes for the fused operator.
template <typename T, typename Points, typename Slopes>
bool launch_backward_vectors(const Call& call, const T* value, Points points,
                             const T* slope, float* value_slope, Slopes slopes,
                             Stream stream) {
  return with_width<T>(call, [&](auto width) {
    constexpr int D = width.value;
    const dim3 grid(blocks(call.rows(1), BACK_THREADS * LENGTH<T> / D), call.b);
    const Floating<float> sums = {value_slope};
    LAUNCH((backward_vectors<T, D, Points, Slopes>), grid, dim3(BACK_THREADS), stream,
           call, value, points, slope, sums, slopes);
    return true;
  });
}

template <typename T, typename Points, typename Slopes, typename Sums>
bool launch_backward_sorted(const Call& call, const T* value, Points points,
                            const T* slope, Sums sums, Slopes slopes, Stream stream) {
  if (call.s >= MOST_PIXELS) return false;
  return with_width<T>(call, [&](auto width) {
    constexpr int D = width.value;
    const dim3 grid(count_tiles(call, TILE), call.m, call.b);
    LAUNCH((backward_sorted<T, D, Points, Slopes, Sums>), grid, dim3(SORTED_THREADS),
           stream, call, value, points, slope, sums, slopes);
    return true;
  });
}

// --- fixed point --------------------------------------------------------------------

// Bytes that a step needs besides its results, zeros at the start.
inline int64_t backward_scratch(Backward step, const Call& call) {
  if (step != Backward::FIXED) return 0;
  return call.map(call.b, 0) * sizeof(long long) + call.b * call.m * sizeof(int);
}

template <typename T>
bool launch_backward_fixed(const Call& call, const T* value, Given points,
                           const T* slope, float* value_slope, GivenSlopes slopes,
                           void* scratch, Stream stream) {
  if (!call.fits()) return false;
  long long* sums = static_cast<long long*>(scratch);
  int* largest = reinterpret_cast<int*>(sums + call.map(call.b, 0));
  const dim3 block(PASS_THREADS);
  LAUNCH((find_largest<T>), dim3(blocks(call.rows(1), PASS_THREADS), call.b), block,
         stream, call, points.locations, points.weights, slope, largest);
  const FixedPoint fixed = {sums, largest};
  if (!launch_backward_sorted(call, value, points, slope, fixed, slopes, stream))
    launch_backward_naive(call, value, points.locations, points.weights, slope, fixed,
                          slopes.locations, slopes.weights, stream);
  LAUNCH(from_fixed, dim3(blocks(call.map(1, 0), PASS_THREADS), call.b), block, stream,
         call, sums, largest, value_slope);
  return true;
}

// --- all of them --------------------------------------------------------------------

// The fastest step: sorting pays where a block's queries are neighbours. A decoder's
// queries are few and lie anywhere.
inline Backward best_backward(const Call& call) {
  return call.q == call.s ? Backward::SORTED : Backward::VECTORS;
}

// One step. `value_slope` and `scratch` hold zeros at the start. False where it does
// not take the shape: then `naive` does, as long as call.fits(). float64 has no fixed.
template <typename T>
bool launch_backward(Backward step, const Call& call, const T* value,
                     const Wide<T>* locations, const Wide<T>* weights, const T* slope,
                     Wide<T>* value_slope, Wide<T>* locations_slope,
                     Wide<T>* weights_slope, void* scratch, Stream stream) {
  if (call.b == 0 || call.q == 0 || call.m == 0 || call.d == 0) return true;
  if (step == Backward::NAIVE)
    return launch_backward_naive(call, value, locations, weights, slope,
                                 Floating<Wide<T>>{value_slope}, locations_slope,
                                 weights_slope, stream);
  if constexpr (sizeof(T) < 8) {  // the fast steps compute in 32 bits
    const Given points = {locations, weights};
    const GivenSlopes slopes = {locations_slope, weights_slope};
    if (step == Backward::VECTORS)
      return launch_backward_vectors(call, value, points, slope, value_slope, slopes,
                                     stream);
    if (step == Backward::SORTED)
      return launch_backward_sorted(call, value, points, slope,
                                    Floating<float>{value_slope}, slopes, stream);
    return launch_backward_fixed(call, value, points, slope, value_slope, slopes,
                                 scratch, stream);
  }
  return false;
}

// The fused operator: slopes of offsets and logits. `step`: VECTORS or SORTED.
template <typename T>
bool launch_backward_fused(Backward step, const Call& call, const T* value,
                           Asked points, const T* slope, float* value_slope,
                           float* offsets_slope, float* logits_slope, Stream stream) {
  if (call.b == 0 || call.q == 0 || call.m == 0 || call.d == 0) return true;
  const AskedSlopes slopes = {offsets_slope, logits_slope};
  if (step == Backward::VECTORS)
    return launch_backward_vectors(call, value, points, slope, value_slope, slopes,
                                   stream);
  return launch_backward_sorted(call, value, points, slope,
                                Floating<float>{value_slope}, slopes, stream);
}

}  // namespace detr_steps::cuda
