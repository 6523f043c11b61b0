// Starts the step that was asked for: picks the kernel made for a width and a number of
// points, and a grid.

#pragma once

#include "forward_naive.cuh"
#include "forward_points.cuh"
#include "forward_tiles.cuh"

namespace detr_steps::cuda {

enum class Forward { NAIVE, POINTS, VECTORS, TILES };

template <int N>
struct Constant {
  static constexpr int value = N;
};

// `work(width)` with D as a constant, for a kernel's template argument. False for shapes
// that the fast steps do not take.
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

// The same with P as well: 4 levels of 4 points, 3 of 4 (each number more takes seconds
// to compile), and ANY for the rest, a tenth slower.
template <typename T, typename Work>
bool with_shape(const Call& call, const Work& work) {
  return with_width<T>(call, [&](auto width) {
    if (call.p == 16) return work(width, Constant<16>());
    if (call.p == 12) return work(width, Constant<12>());
    return work(width, Constant<ANY>());
  });
}

inline unsigned blocks(int64_t work, int64_t of_block) {
  return unsigned((work + of_block - 1) / of_block);
}

template <typename T>
bool launch_naive(const Call& call, const T* value, const Wide<T>* locations,
                  const Wide<T>* weights, T* result, Stream stream) {
  constexpr int THREADS = 256;
  if (!call.fits()) return false;
  const dim3 grid(blocks(int64_t(call.q) * call.m * call.d, THREADS), call.b);
  LAUNCH((forward_naive<T>), grid, dim3(THREADS), stream, call, value, locations,
         weights, result);
  return true;
}

template <typename T>
bool launch_points(
    const Call& call, const T* value, Given points, T* result, Stream stream) {
  return with_shape<T>(call, [&](auto width, auto count) {
    constexpr int D = width.value, P = count.value;
    constexpr int GROUPS = POINTS_THREADS / (D < 32 ? D : 32);
    const dim3 grid(blocks(call.rows(1), GROUPS), call.b);
    LAUNCH((forward_points<T, D, P>), grid, dim3(POINTS_THREADS), stream, call, value,
           points, result);
    return true;
  });
}

template <typename T>
bool launch_vectors(
    const Call& call, const T* value, Given points, T* result, Stream stream) {
  return with_shape<T>(call, [&](auto width, auto count) {
    constexpr int D = width.value, P = count.value;
    const dim3 grid(blocks(call.rows(1), GROUPS), call.b);
    const dim3 block(GROUPS * D / LENGTH<T>);
    LAUNCH((forward_vectors<T, D, P>), grid, block, stream, call, value, points, result);
    return true;
  });
}

// `Points`: Given, or Asked for the fused operator.
template <typename T, typename Points>
bool launch_tiles(
    const Call& call, const T* value, Points points, T* result, Stream stream) {
  return with_shape<T>(call, [&](auto width, auto count) {
    constexpr int D = width.value, P = count.value;
    // A decoder's few queries go to as many blocks as possible: one round each.
    const bool few = call.q != call.s && call.rows(1) * call.b < MANY;
    const int strip = few ? GROUPS : TILE;
    const dim3 grid(count_tiles(call, strip), call.m, call.b);
    const dim3 block(GROUPS * D / LENGTH<T>);
    LAUNCH((forward_tiles<T, D, P, Points>), grid, block, stream, call, strip, value,
           points, result);
    return true;
  });
}

// One step. False where it does not take the shape: then `naive` does, as long as
// call.fits(). No work is no launch: a grid must not be empty.
template <typename T>
bool launch_forward(Forward step, const Call& call, const T* value,
                    const Wide<T>* locations, const Wide<T>* weights, T* result,
                    Stream stream) {
  if (call.b == 0 || call.q == 0 || call.m == 0 || call.d == 0) return true;
  if (step == Forward::NAIVE)
    return launch_naive(call, value, locations, weights, result, stream);
  if constexpr (sizeof(T) < 8) {  // the fast steps compute in 32 bits
    const Given points = {locations, weights};
    if (step == Forward::POINTS)
      return launch_points(call, value, points, result, stream);
    if (step == Forward::VECTORS)
      return launch_vectors(call, value, points, result, stream);
    return launch_tiles(call, value, points, result, stream);
  }
  return false;
}

// The fused operator: softmax and locations in the kernel.
template <typename T>
bool launch_forward_fused(
    const Call& call, const T* value, Asked points, T* result, Stream stream) {
  if (call.b == 0 || call.q == 0 || call.m == 0 || call.d == 0) return true;
  return launch_tiles(call, value, points, result, stream);
}

}  // namespace detr_steps::cuda
