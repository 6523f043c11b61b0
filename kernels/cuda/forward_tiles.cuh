// Step "tiles": neighbours work side by side.
//
// What changes: which queries run together. So far a warp took four heads of one query,
// and heads never read the same numbers. Now a block takes one head, and where queries
// are pixels (an encoder) the 8 x 8 queries of a square.
// Why faster: queries that are neighbours look at nearly the same pixels. What one of
// them has fetched lies in the L1 cache when the next one asks: in a simulation two
// thirds to four fifths of the reads need not go to L2, unless points lie anywhere.
// Apart from that, image and head are numbers of the block instead of results of
// divisions, and listing the levels is done once for 64 queries.
//
// With `Asked` points this is the step "fused": see there what that saves.

#pragma once

#include "forward_vectors.cuh"

namespace detr_steps::cuda {

constexpr int MANY = 32768;  // rows of [B, Q, M] that fill a GPU at TILE queries a block

// `strip`: queries of a block, a multiple of GROUPS; TILE where Q == S.
template <typename T, int D, int P, typename Points>
__global__ void FORWARD_BOUNDS(GROUPS* D / LENGTH<T>) forward_tiles(
    Call call, uint32_t strip, const T* __restrict__ value, Points points,
    T* __restrict__ result) {
  constexpr int LANES = D / LENGTH<T>;  // that share a query
  constexpr int WARP_GROUPS = 32 / LANES;
  __shared__ PointLevel levels[ROOM<P>];
  __shared__ float4 shares[GROUPS][ROOM<P> + 1];  // + 1: rows in other banks
  __shared__ uint4 corners[GROUPS][ROOM<P> + 1];

  const uint32_t pixel = call.m * LANES;  // pieces from a pixel to the next
  list_levels<P>(call, pixel, levels);

  const int lane = threadIdx.x % LANES, group = threadIdx.x / LANES;
  const int head = blockIdx.y, image = blockIdx.z, count = count_points<P>(call);
  const int first = lane * LENGTH<T>;  // of the lane's channels
  const T* start = settled(value + call.map(image, head) + first);
  const char* map = reinterpret_cast<const char*>(start);
  T* out = result + call.rows(image) * D;
  points = points.of_image(call, image, count);

  const Tile tile = find_tile(call, blockIdx.x, strip);
  for (uint32_t i = group; i < strip; i += GROUPS) {
    // The groups of a warp have neighbouring queries: if the first one has none, nobody
    // has. Otherwise all lanes go on, as the barriers count on all; what a group
    // without a query finds is not stored.
    if (!tile.has(i / WARP_GROUPS * WARP_GROUPS)) continue;
    const bool alive = tile.has(i);
    const uint32_t query = alive ? tile.query(i) : tile.first;
    find_points<LANES, P>(points.of(call, query, head, count), levels, pixel, count,
                          lane, shares[group], corners[group]);
    const Vector<T> sum = read_points<T, P>(map, shares[group], corners[group], count);
    if (alive) store<T>(out + size_t(call.row(query, head) * D + first), sum);
    __syncwarp();  // all have read before the next query's points are found
  }
}

}  // namespace detr_steps::cuda
