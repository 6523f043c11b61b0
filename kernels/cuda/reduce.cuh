// Sums that several threads make together: across the lanes of a group, in the memory
// of a block, and in the memory of the whole device.
//
// The backward pass makes two kinds of sums. Each point needs four dot products, over
// the channels that the lanes of a group share: they exchange numbers without any
// memory. Each row of the value's gradient is a sum over all queries that have read it:
// threads all over the device add to it at the same time, so it is done by the memory
// itself.

#pragma once

#include "numbers.cuh"

namespace detr_steps::cuda {

constexpr uint32_t ALL = 0xffffffffu;  // lanes of a warp

// --- across the lanes of a group ----------------------------------------------------

// Every lane has N = LANES numbers. Returns to lane i the sum of all lanes' number i.
// Adding up N numbers one by one takes N * log2(N) exchanges. Here, at each stage, a
// lane keeps one half of its numbers and gives the other half away, so that half as
// many are left: N - 1 exchanges, and no sum ends up in more than one lane.
template <int LANES>
__device__ __forceinline__ float sum_across(const float (&v)[LANES], int lane) {
  if constexpr (LANES == 1) {
    return v[0];
  } else {
    constexpr int HALF = LANES / 2;
    const bool upper = lane & HALF;
    float left[HALF];
#pragma unroll
    for (int i = 0; i < HALF; ++i) {
      const float kept = upper ? v[i + HALF] : v[i];
      const float given = upper ? v[i] : v[i + HALF];
      left[i] = kept + __shfl_xor_sync(ALL, given, HALF);
    }
    return sum_across<HALF>(left, lane);
  }
}

// The sum of one number of each lane, to all lanes: for the few that all must know.
template <int LANES>
__device__ __forceinline__ float sum_to_all(float x) {
#pragma unroll
  for (int step = 1; step < LANES; step *= 2) x += __shfl_xor_sync(ALL, x, step);
  return x;
}

// --- across a block -----------------------------------------------------------------

// The sums of N numbers of each thread, to thread 0. A block of whole warps; `room` has
// a place for each warp. Two barriers.
template <int N, typename W>
__device__ __forceinline__ void sum_block(W (&x)[N], W (*room)[N]) {
#pragma unroll
  for (int n = 0; n < N; ++n) {
    for (int step = 16; step > 0; step /= 2) x[n] += __shfl_xor_sync(ALL, x[n], step);
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32][n] = x[n];
  }
  __syncthreads();
  if (threadIdx.x == 0) {
#pragma unroll 1
    for (int warp = 1; warp < int(blockDim.x / 32); ++warp)
      for (int n = 0; n < N; ++n) x[n] += room[warp][n];
  }
  __syncthreads();  // before anybody writes to the room again
}

// --- in the memory of the device ----------------------------------------------------

// Rows of one image and head: one for each pixel, `step` bytes from one to the next.
template <typename T>
struct Rows {
  T* first;
  uint32_t step;

  __device__ __forceinline__ T* operator[](uint32_t pixel) const {
    return reinterpret_cast<T*>(size_t(first) + size_t(pixel) * step);
  }
};

template <typename T>
__device__ __forceinline__ Rows<T> find_rows(
    const Call& call, T* all, int image, int head, int channel) {
  T* first = all + call.map(image, head) + channel;
  return {settled(first), uint32_t(call.m * call.d * sizeof(T))};
}

// Add share * numbers to the row of a pixel, 16 bytes at a time; nothing where the
// share is 0, outside the map (NaN is not 0). From sm_90 on one instruction asks the
// L2 cache to add four numbers, before that it takes four. Nobody waits for an answer.
template <int N>
__device__ __forceinline__ void add_row(
    const Rows<float>& rows, uint32_t pixel, float share, const float (&numbers)[N]) {
#if !defined(__CUDA_ARCH__)
  if (share != 0)
    for (int i = 0; i < N; ++i) atomicAdd(rows[pixel] + i, share * numbers[i]);
#elif __CUDA_ARCH__ >= 900
  for (int i = 0; i < N; i += 4)
    asm volatile(
        "{ .reg .pred any;\n"
        "setp.neu.f32 any, %5, 0f00000000;\n"
        "@any red.global.add.v4.f32 [%0], {%1, %2, %3, %4}; }" ::"l"(rows[pixel] + i),
        "f"(share * numbers[i]), "f"(share * numbers[i + 1]),
        "f"(share * numbers[i + 2]), "f"(share * numbers[i + 3]), "f"(share));
#else
  if (share != 0)
    for (int i = 0; i < N; ++i)
      asm volatile("red.global.add.f32 [%0], %1;" ::"l"(rows[pixel] + i),
                   "f"(share * numbers[i]));
#endif
}

// How the value's gradient is summed; the other way is in backward_fixed.cuh. Rounding
// depends on who comes first: the last bits differ from run to run.
template <typename T>
struct Floating {
  typedef T Number;  // of a sum
  T* sums;           // [B, S, M, D], zeros at the start

  // Called by all threads that work on one image and head.
  __device__ __forceinline__ void prepare(const Call& call, int image, int head) {}

  __device__ __forceinline__ T term(T x) const { return x; }

  __device__ __forceinline__ void add_one(T* to, T x) const { atomicAdd(to, x); }

  template <int N>
  __device__ __forceinline__ void put(
      const Rows<T>& rows, uint32_t pixel, const T (&sum)[N]) const {
    add_row(rows, pixel, 1.0f, sum);
  }
};

}  // namespace detr_steps::cuda
