// Step "points": coordinates once per point (see points.cuh for what they become).
//
// What changes: the 32 lanes of a warp work on one query and head (two or four of them
// where D is 16 or 8) and share the work of finding its points: lane p finds point p.
// All lanes then walk the points as before, one channel a lane, 4 bytes a load.
// Why faster: in the walk nobody computes coordinates any more; per point there are
// two loads from shared memory, four addresses, four loads and four multiply-adds.

#pragma once

#include "points.cuh"

namespace detr_steps::cuda {

constexpr int POINTS_THREADS = 256;

template <typename T, int D, int P>
__global__ void __launch_bounds__(POINTS_THREADS) forward_points(
    Call call, const T* __restrict__ value, Given points, T* __restrict__ result) {
  constexpr int LANES = D < 32 ? D : 32;  // that share a query and head
  constexpr int CHANNELS = D / LANES;     // of each lane, LANES apart
  constexpr int GROUPS = POINTS_THREADS / LANES;
  __shared__ PointLevel levels[ROOM<P>];
  __shared__ float4 shares[GROUPS][ROOM<P> + 1];  // + 1: rows start in other banks
  __shared__ uint4 corners[GROUPS][ROOM<P> + 1];

  const uint32_t pixel = call.m * D;  // numbers from a pixel to the next
  list_levels<P>(call, pixel, levels);

  // A group for each row of [Q, M], in the order of the naive kernel.
  const int lane = threadIdx.x % LANES, group = threadIdx.x / LANES;
  const uint32_t rows = call.q * call.m, asked = blockIdx.x * GROUPS + group;
  const uint32_t row = asked < rows ? asked : 0;  // all lanes take part in barriers
  const uint32_t query = row / call.m, head = row - query * call.m;
  const int image = blockIdx.y;

  const int count = count_points<P>(call);
  points = points.of_image(call, image, count).of(call, query, head, count);
  find_points<LANES, P>(points, levels, pixel, count, lane, shares[group],
                        corners[group]);

  const T* map = settled(value + call.map(image, head) + lane);
  float sum[CHANNELS] = {};
#pragma unroll 4
  for (int p = 0; p < count; ++p) {
    const float4 share = shares[group][p];
    const uint4 corner = corners[group][p];
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c) {
      const T* at = map + c * LANES;
      sum[c] = fmaf(share.x, load_one(at + size_t(corner.x)), sum[c]);
      sum[c] = fmaf(share.y, load_one(at + size_t(corner.y)), sum[c]);
      sum[c] = fmaf(share.z, load_one(at + size_t(corner.z)), sum[c]);
      sum[c] = fmaf(share.w, load_one(at + size_t(corner.w)), sum[c]);
    }
  }
  if (asked >= rows) return;
  T* out = result + (call.rows(image) + row) * D + lane;
#pragma unroll
  for (int c = 0; c < CHANNELS; ++c)
    out[c * LANES] = narrow<T>(sum[c]);
}

}  // namespace detr_steps::cuda
