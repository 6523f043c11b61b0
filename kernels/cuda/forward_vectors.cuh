// Step "vectors": 16 bytes a lane.
//
// What changes: a lane takes 16 bytes of a row (4 channels of float32, 8 of 16 bits) in
// one load. So D / 4 lanes do for a query and head, and a warp works on four of them
// where it worked on one (D = 32).
// Why faster: a load is one instruction, however wide; so is the address that belongs
// to it. Both, and the two loads from shared memory, now serve four times the numbers.
// Offsets count pieces of 16 bytes: base + 16 * offset is one instruction (a 32-bit
// multiply with a 64-bit sum), where a 64-bit index takes several.

#pragma once

#include "points.cuh"

namespace detr_steps::cuda {

// The walk over a group's points, once they are found: the heart of all that follows.
// `map`: the lane's 16 bytes of the image's first pixel, settled.
template <typename T, int P>
__device__ __forceinline__ Vector<T> read_points(
    const char* map, const float4* shares, const uint4* corners, int count) {
  Vector<T> sum = {};
#pragma unroll P == 16 ? 4 : 2  // so many points' loads are under way together
  for (int p = 0; p < count; ++p) {
    const float4 share = shares[p];
    const uint4 corner = corners[p];
    const Vector<T> top_left = load<T>(map + 16 * size_t(corner.x));
    const Vector<T> top_right = load<T>(map + 16 * size_t(corner.y));
    const Vector<T> bottom_left = load<T>(map + 16 * size_t(corner.z));
    const Vector<T> bottom_right = load<T>(map + 16 * size_t(corner.w));
    add(sum, share.x, top_left);
    add(sum, share.y, top_right);
    add(sum, share.z, bottom_left);
    add(sum, share.w, bottom_right);
  }
  return sum;
}

constexpr int GROUPS = 16;  // of a block, each with its own query and head

// 1024 threads on a multiprocessor at a time leave 64 registers to each. Unasked, nvcc
// makes room for more threads, and has too few registers left for loads that are under
// way. 16: blocks that a multiprocessor of a T4 takes.
constexpr int at_a_time(int threads) { return threads > 64 ? 1024 / threads : 16; }
#define FORWARD_BOUNDS(threads) __launch_bounds__(threads, at_a_time(threads))

template <typename T, int D, int P>
__global__ void FORWARD_BOUNDS(GROUPS* D / LENGTH<T>) forward_vectors(
    Call call, const T* __restrict__ value, Given points, T* __restrict__ result) {
  constexpr int LANES = D / LENGTH<T>;  // that share a query and head
  __shared__ PointLevel levels[ROOM<P>];
  __shared__ float4 shares[GROUPS][ROOM<P> + 1];  // + 1: rows start in other banks
  __shared__ uint4 corners[GROUPS][ROOM<P> + 1];

  const uint32_t pixel = call.m * LANES;  // pieces from a pixel to the next
  list_levels<P>(call, pixel, levels);

  const int lane = threadIdx.x % LANES, group = threadIdx.x / LANES;
  const uint32_t rows = call.q * call.m, asked = blockIdx.x * GROUPS + group;
  const uint32_t row = asked < rows ? asked : 0;  // all lanes take part in barriers
  const uint32_t query = row / call.m, head = row - query * call.m;
  const int image = blockIdx.y;

  const int count = count_points<P>(call);
  points = points.of_image(call, image, count).of(call, query, head, count);
  find_points<LANES, P>(points, levels, pixel, count, lane, shares[group],
                        corners[group]);

  const int first = lane * LENGTH<T>;  // of the lane's channels
  const T* start = settled(value + call.map(image, head) + first);
  const char* map = reinterpret_cast<const char*>(start);
  const Vector<T> sum = read_points<T, P>(map, shares[group], corners[group], count);
  if (asked < rows)
    store<T>(result + (call.rows(image) + row) * D + first, sum);
}

}  // namespace detr_steps::cuda
