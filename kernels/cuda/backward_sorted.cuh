// Backward step "sorted": a block adds up what it can before it asks the L2 cache.
//
// What changes: a block takes the 8 x 8 queries of a square and one head, and goes level
// by level, four points of each query at a time: one point a thread. Their corners, up
// to 1024 of them, are sorted by pixel in shared memory, so that corners in the same
// pixel follow one another. Groups of lanes then walk the sorted list: they add up
// share times slope, and only where the pixel changes does a row go to global memory.
// Why faster: queries that are neighbours read the same pixels. Of ten rows that
// "vectors" adds to global memory, one or two are left, and those were what it waited
// for. The sorting costs some 15 instructions per point.
//
// A counting sort: count the corners of each bucket, find where each bucket begins, put
// each corner at its place. Only whole numbers are added in shared memory: that is one
// instruction there, while a float would be added in a loop that tries until it works.
// There are more pixels than buckets. The bucket is the pixel's place in its square of
// 32 x 32, so pixels that are neighbours never share one. Where pixels far apart do,
// the list changes pixels more often than it must, and the sums are still right.

#pragma once

#include "slopes.cuh"

namespace detr_steps::cuda {

constexpr int SORTED_THREADS = 256;
constexpr int TURN = SORTED_THREADS / TILE;  // points of a query that are done together
constexpr int BUCKETS_ACROSS = 32;
constexpr int BUCKETS = BUCKETS_ACROSS * BUCKETS_ACROSS;  // four for each thread
constexpr uint32_t MOST_PIXELS = 1u << 26;  // an entry has 26 bits for the pixel

// A corner of a point: adds `share` times the slope of a query to the row of a pixel.
struct alignas(8) Entry {
  float share;
  uint32_t where;  // pixel * TILE + query of the block

  __device__ __forceinline__ uint32_t pixel() const { return where / TILE; }
  __device__ __forceinline__ uint32_t query() const { return where % TILE; }
};

__device__ __forceinline__ uint32_t find_bucket(uint32_t x, uint32_t y) {
  return y % BUCKETS_ACROSS * BUCKETS_ACROSS + x % BUCKETS_ACROSS;
}

// Turn the counts of all buckets into where each bucket begins. A thread has four
// buckets and a warp 128, which it scans by itself; where a warp's buckets begin is up
// to who comes first, as any order of buckets will do. `total` starts as 0.
__device__ __forceinline__ void find_begins(int4* buckets, int* total) {
  const int4 counts = buckets[threadIdx.x];
  const int sum = counts.x + counts.y + counts.z + counts.w, lane = threadIdx.x % 32;
  int upto = sum;  // of this lane and all before it
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int before = __shfl_up_sync(ALL, upto, step);
    if (lane >= step) upto += before;
  }
  int begin = lane == 31 ? atomicAdd(total, upto) : 0;  // of the warp
  begin = __shfl_sync(ALL, begin, 31) + upto - sum;
  int4 begins;
  begins.x = begin, begins.y = begins.x + counts.x;
  begins.z = begins.y + counts.y, begins.w = begins.z + counts.z;
  buckets[threadIdx.x] = begins;
}

// Walk one group's part of the sorted list; `down` is the lane's 16 bytes of the first
// query's slope.
template <typename T, int LANES, typename Sums>
__device__ __forceinline__ void add_entries(
    const Entry* entries, int first, int end, const uint4* down, const Sums& sums,
    const Rows<typename Sums::Number>& map_slope) {
  if (first >= end) return;
  typename Sums::Number row[LENGTH<T>] = {};
  uint32_t pixel = entries[first].pixel();
#pragma unroll 1
  for (int i = first; i < end; ++i) {
    const Entry entry = entries[i];
    if (entry.pixel() != pixel) {
      sums.put(map_slope, pixel, row);
      pixel = entry.pixel();
#pragma unroll
      for (int n = 0; n < LENGTH<T>; ++n) row[n] = 0;
    }
    const Vector<T> slope = unpack<T>(down[entry.query() * LANES]);
#pragma unroll
    for (int n = 0; n < LENGTH<T>; ++n) row[n] += sums.term(entry.share * slope.at[n]);
  }
  sums.put(map_slope, pixel, row);
}

template <typename T, int D, typename Points, typename Slopes, typename Sums>
__global__ void __launch_bounds__(SORTED_THREADS, 4) backward_sorted(
    Call call, const T* __restrict__ value, Points points,
    const T* __restrict__ slope, Sums sums, Slopes slopes) {
  constexpr int LANES = D / LENGTH<T>;  // that share a row
  constexpr int GROUPS = SORTED_THREADS / LANES;
  __shared__ uint4 down[TILE * LANES];  // the slopes of what the queries have read
  __shared__ int4 buckets[SORTED_THREADS];
  __shared__ Entry entries[4 * SORTED_THREADS];
  __shared__ int total[1];  // of the entries

  // As part of a group, a thread has 16 bytes of rows ...
  const int lane = threadIdx.x % LANES, group = threadIdx.x / LANES;
  const int head = blockIdx.y, image = blockIdx.z, channel = lane * LENGTH<T>;
  const Rows<const T> map = find_rows(call, value, image, head, channel);
  const auto map_slope = find_rows(call, sums.sums, image, head, channel);
  const Tile tile = find_tile(call, blockIdx.x, TILE);
  for (int i = group; i < TILE; i += GROUPS) {
    const T* row = slope + call.rows(image) * D + call.row(tile.query(i), head) * D;
    down[i * LANES + lane] =
        tile.has(i) ? *reinterpret_cast<const uint4*>(row + channel) : make_uint4(0, 0, 0, 0);
  }
  sums.prepare(call, image, head);
  // ... and by itself it has each fourth point of one query.
  const int mine = threadIdx.x / TURN, turn = threadIdx.x % TURN;
  const bool live = tile.has(mine);
  const uint32_t query = live ? tile.query(mine) : tile.first;
  points = points.of_image(call, image, call.p).of(call, query, head, call.p);
  // Where its points start among all.
  const int64_t start = (call.rows(image) + call.row(query, head)) * call.p;
  points.template prepare<TURN, ANY>(turn, call.p);
  // The points of this group's lanes are those of these queries.
  const uint4* theirs = down + group * LANES / TURN * LANES + lane;
  __syncthreads();

  for (int l = 0; l < call.levels; ++l) {
    const PointLevel level = point_level(call.level[l], l, 1);
#pragma unroll 1
    for (int first = 0; first < call.level[l].points; first += TURN) {
      const int p = call.level[l].first_point + first + turn;
      const bool some = live && first + turn < call.level[l].points;
      const float2 location = some ? points.location(p, level) : make_float2(0, 0);
      const float weight = some ? points.weight(p) : 0;
      const Spot spot = find_spot(level, location);
      const float4 found = find_shares(spot, weight);
      const auto by_point = find_slope<T, LANES>(
          map, level, spot, found, lane, LANES,
          [&](int s) { return unpack<T>(theirs[s / TURN * LANES]); },
          [](int, uint32_t, float) {});
      if (some) slopes.put(points, start + p, level, weight, by_point);

      buckets[threadIdx.x] = make_int4(0, 0, 0, 0);
      __syncthreads();
      if (threadIdx.x == 0) total[0] = 0;
      const uint4 corners = find_corners(level, spot, 1);
      const float shares[4] = {found.x, found.y, found.z, found.w};
      const uint32_t pixels[4] = {corners.x, corners.y, corners.z, corners.w};
      int* counts = reinterpret_cast<int*>(buckets);
      const uint32_t x = uint32_t(spot.x.base), y = uint32_t(spot.y.base);
      int before[4];  // corners in the bucket that came earlier
#pragma unroll
      for (int c = 0; c < 4; ++c)
        if (shares[c] != 0)  // outside the map they are 0; NaN is not 0
          before[c] = atomicAdd(counts + find_bucket(x + c % 2, y + c / 2), 1);
      __syncthreads();
      find_begins(buckets, total);
      __syncthreads();
#pragma unroll
      for (int c = 0; c < 4; ++c)
        if (shares[c] != 0)
          entries[counts[find_bucket(x + c % 2, y + c / 2)] + before[c]] = {
              shares[c], pixels[c] * TILE + mine};
      __syncthreads();
      // An odd number for each group: the groups of a warp read from other banks.
      const int part = (total[0] / GROUPS + 1) | 1;
      add_entries<T, LANES>(entries, group * part, min(group * part + part, total[0]),
                            down + lane, sums, map_slope);
    }
  }
  slopes.template finish<TURN>(points, start, turn, call.p, live);
}

}  // namespace detr_steps::cuda
