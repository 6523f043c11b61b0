// Backward step "fixed": the same bits in every run.
//
// What changes: the value's gradient is summed in whole numbers of 64 bits, which count
// tiny fractions ("fixed point"). All else is "sorted", or "naive" for the shapes that
// "sorted" does not take.
// Why: threads add to a row in whatever order they come, and (a + b) + c is not always
// a + (b + c) in floating point: each run rounds differently. Whole numbers add up to
// the same in any order. It is slower (twice the bytes in L2, two more passes) and more
// exact than sums in float32: each term is rounded once more, to 2^-62 of the largest
// that a sum can be, and the sum itself not at all.
//
// That largest sum must be known before: the largest term of an image and head, times
// the number of queries. A pass over upstream gradients and weights finds it, and also
// what is infinite or NaN. Whole numbers have no NaN: then the last pass gives NaN to
// all of that head's gradients.

#pragma once

#include "backward_naive.cuh"
#include "backward_sorted.cuh"

namespace detr_steps::cuda {

constexpr int PASS_THREADS = 256;
constexpr int INFINITE = 0x7f800000;  // as bits: so are larger ones NaN, smaller finite
constexpr int MAGNITUDE = 0x7fffffff;

// Bits of the absolute value. They are in the order of the numbers, NaN on top.
__device__ __forceinline__ int magnitude(float x) {
  return __float_as_int(x) & MAGNITUDE;
}

// How many units of fixed point are 1, as a power of two: as many as possible, so that
// Q terms of at most the size of `largest` stay below 2^62.
__device__ __forceinline__ int find_exponent(int largest, int q) {
  const int of_term = (largest >> 23) - 126;  // a term is below 2 to this
  int of_count = 0;                           // and there are at most 2 to this
  while (int64_t(1) << of_count < q) ++of_count;
  return min(62 - of_term - of_count, 126);  // 126: a float can still be 2 to minus it
}

__device__ __forceinline__ float power_of_two(int exponent) {
  return __int_as_float((127 + exponent) << 23);
}

struct FixedPoint {
  typedef long long Number;
  long long* sums;     // [B, S, M, D], zeros at the start
  const int* largest;  // [B, M], as bits: of what a query may add to a number
  float scale = 0;

  __device__ __forceinline__ void prepare(const Call& call, int image, int head) {
    scale = power_of_two(find_exponent(largest[image * call.m + head], call.q));
  }
  __device__ __forceinline__ long long term(float x) const {
    return __float2ll_rn(x * scale);
  }
  __device__ __forceinline__ void add_one(long long* to, long long x) const {
#if defined(__CUDA_ARCH__)
    asm volatile("red.global.add.u64 [%0], %1;" ::"l"(to), "l"(x));
#else
    atomicAdd(reinterpret_cast<unsigned long long*>(to), (unsigned long long)x);
#endif
  }
  template <int N>
  __device__ __forceinline__ void put(
      const Rows<long long>& rows, uint32_t pixel, const long long (&sum)[N]) const {
#pragma unroll
    for (int i = 0; i < N; ++i) add_one(rows[pixel] + i, sum[i]);
  }
};

// Find the largest term of each image and head: the largest upstream gradient of a
// query times the sum of its weights. One thread for each query and head.
template <typename T>
__global__ void find_largest(
    Call call, const float* __restrict__ locations, const float* __restrict__ weights,
    const T* __restrict__ grad, int* largest) {
  const uint32_t row = blockIdx.x * blockDim.x + threadIdx.x, image = blockIdx.y;
  if (row >= uint32_t(call.q) * call.m) return;
  const int64_t place = call.rows(image) + row;
  float weight = 0;
  for (int64_t at = place * call.p; at < (place + 1) * call.p; ++at) {
    weight += fabsf(weights[at]);
    const float x = locations[2 * at], y = locations[2 * at + 1];
    if (x != x || y != y) weight = x + y;  // NaN
  }
  int most = 0;
  for (int channel = 0; channel < call.d; ++channel)
    most = max(most, magnitude(load_one(grad + place * call.d + channel)));
  const int term = magnitude(weight * __int_as_float(most));
  atomicMax(largest + image * call.m + row % call.m, term);
}

// Turn fixed point into float32. One thread for each number of an image.
static __global__ void from_fixed(
    Call call, const long long* __restrict__ sums, const int* __restrict__ largest,
    float* __restrict__ grad_value) {
  const uint32_t at = blockIdx.x * blockDim.x + threadIdx.x, image = blockIdx.y;
  if (at >= uint32_t(call.s) * call.m * call.d) return;
  const int64_t place = call.map(image, 0) + at;
  const int most = largest[image * call.m + at / call.d % call.m];
  const float unit = power_of_two(-find_exponent(most, call.q));
  const float sum = float(sums[place]) * unit;
  grad_value[place] = most < INFINITE ? sum : __int_as_float(MAGNITUDE);  // NaN
}

}  // namespace detr_steps::cuda
