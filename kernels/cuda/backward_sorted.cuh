// Backward step "sorted": a block adds up what it can before it asks the L2 cache.
//
// What changes: a block takes the 8 x 8 queries of a square and one head, and goes
// level by level, four points of each query at a time: one point a thread. Their
// corners, up to 1024 of them, are sorted by pixel in shared memory, so that corners in
// the same pixel follow one another. Groups of lanes then walk the sorted list: they
// add up share times upstream gradient, and only where the pixel changes does a row go
// to memory.
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

#include "gradients.cuh"

namespace detr_steps::cuda {

constexpr int SORTED_THREADS = 256;
constexpr int TURN = SORTED_THREADS / TILE;  // points of a query that are done together
constexpr int BUCKETS_ACROSS = 32;
constexpr int BUCKETS = BUCKETS_ACROSS * BUCKETS_ACROSS;  // four for each thread
constexpr uint32_t MOST_PIXELS = 1u << 26;  // an entry has 26 bits for the pixel

// A corner of a point: adds `share` times a query's upstream gradient to a pixel's row.
struct alignas(8) Entry {
  float share;
  uint32_t where;  // pixel * TILE + query of the block

  __device__ __forceinline__ uint32_t pixel() const { return where / TILE; }
  __device__ __forceinline__ uint32_t query() const { return where % TILE; }
};

struct alignas(16) Two {  // read at once
  Entry entry[2];
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

// A row under way: what the entries of one pixel add up to.
template <typename T, typename Sums>
struct Run {
  typename Sums::Number row[LENGTH<T>] = {};
  uint32_t pixel;

  // `upstream`: the lane's 16 bytes of the gradient of each query's result.
  __device__ __forceinline__ void add(
      Entry entry, const uint4* upstream, const Sums& sums,
      const Rows<typename Sums::Number>& grad_map) {
    if (entry.pixel() != pixel) {
      sums.put(grad_map, pixel, row);
      pixel = entry.pixel();
#pragma unroll
      for (int n = 0; n < LENGTH<T>; ++n) row[n] = 0;
    }
    const Vector<T> grad = unpack<T>(upstream[entry.query()]);
#pragma unroll
    for (int n = 0; n < LENGTH<T>; ++n) row[n] += sums.term(entry.share * grad.at[n]);
  }
};

// Walk one group's part of the sorted list, from `first`, an even number.
template <typename T, typename Sums>
__device__ __forceinline__ void add_entries(
    const Entry* entries, int first, int end, const uint4* upstream, const Sums& sums,
    const Rows<typename Sums::Number>& grad_map) {
  if (first >= end) return;
  Run<T, Sums> run;
  run.pixel = entries[first].pixel();
  int i = first;
#pragma unroll 1
  for (; i + 1 < end; i += 2) {
    const Two two = *reinterpret_cast<const Two*>(entries + i);
    run.add(two.entry[0], upstream, sums, grad_map);
    run.add(two.entry[1], upstream, sums, grad_map);
  }
  if (i < end) run.add(entries[i], upstream, sums, grad_map);
  sums.put(grad_map, run.pixel, run.row);
}

// What a block keeps of a query, to leave registers to the rows.
template <typename Points>
struct alignas(16) Query {
  Points points;
  int64_t first;  // where they start among all points; -1: the tile has no such query
};

template <typename T, int D, typename Points, typename Sums>
__global__ void __launch_bounds__(SORTED_THREADS, BLOCKS_AT_ONCE<D>)
    backward_sorted(Call call, const T* __restrict__ value, Points points,
                    const T* __restrict__ grad, Sums sums,
                    typename Points::Grads grads) {
  constexpr int LANES = D / LENGTH<T>;  // that share a row
  constexpr int GROUPS = SORTED_THREADS / LANES;
  __shared__ Query<Points> queries[TILE];
  // The gradients of the queries' results: for each lane its 16 bytes of all of them
  // (and 16 bytes more, so that lanes read from other banks).
  __shared__ uint4 upstream[LANES][TILE + 1];
  __shared__ int4 buckets[SORTED_THREADS];
  __shared__ Two pairs[2 * SORTED_THREADS];
  __shared__ int total[1];  // of the entries

  // As part of a group, a thread has 16 bytes of rows ...
  const int lane = threadIdx.x % LANES, group = threadIdx.x / LANES;
  const int head = blockIdx.y, image = blockIdx.z, channel = lane * LENGTH<T>;
  const Rows<const T> map = find_rows(call, value, image, head, channel);
  const auto grad_map = find_rows(call, sums.sums, image, head, channel);
  sums.prepare(call, image, head);
  const Tile tile = find_tile(call, blockIdx.x, TILE);
  for (int i = group; i < TILE; i += GROUPS) {
    const T* row = grad + (call.rows(image) + call.row(tile.query(i), head)) * D;
    uint4 some = make_uint4(0, 0, 0, 0);
    if (tile.has(i)) some = *reinterpret_cast<const uint4*>(row + channel);
    upstream[lane][i] = some;
  }
  // ... and by itself it has each fourth point of one query.
  const int mine = threadIdx.x / TURN, turn = threadIdx.x % TURN;
  const bool exists = tile.has(mine);
  const uint32_t number = exists ? tile.query(mine) : tile.first;
  points = points.of_image(call, image, call.p).of(call, number, head, call.p);
  points.template prepare<TURN, ANY>(turn, call.p);
  const int64_t first = (call.rows(image) + call.row(number, head)) * call.p;
  if (turn == 0) queries[mine] = {points, exists ? first : -1};
  // The queries of the points that the lanes of this group have.
  const uint4* theirs = upstream[lane] + group * LANES / TURN;
  __syncthreads();

  for (int l = 0; l < call.levels; ++l) {
#pragma unroll 1
    for (int k = 0; k < call.level[l].points; k += TURN) {
      const PointLevel level = point_level(call.level[l], l, 1);
      // Find this thread's point; one that does not exist weighs nothing.
      const int p = call.level[l].first_point + k + turn;
      const bool some = queries[mine].first >= 0 && k + turn < call.level[l].points;
      float2 location = make_float2(0, 0);
      float weight = 0;
      if (some) {
        location = queries[mine].points.location(p, level);
        weight = queries[mine].points.weight(p);
      }
      const Spot spot = find_spot(level, location);
      const PointGrad<float> by_point = find_grad<T, LANES>(
          map, level, spot, lane, [&](int s) { return unpack<T>(theirs[s / TURN]); },
          [](int c, int s, uint32_t pixel) {});
      buckets[threadIdx.x] = make_int4(0, 0, 0, 0);
      __syncthreads();
      if (some)
        grads.put(queries[mine].points, queries[mine].first + p, level, weight,
                   by_point);
      if (threadIdx.x == 0) total[0] = 0;

      // Sort its corners among all: count, find where buckets begin, put in place.
      const float4 found = find_shares(spot, weight);
      const float shares[4] = {found.x, found.y, found.z, found.w};
      const uint4 corners = find_corners(level, spot, 1);
      const uint32_t pixels[4] = {corners.x, corners.y, corners.z, corners.w};
      const uint32_t x = uint32_t(spot.x.base), y = uint32_t(spot.y.base);
      int* counts = reinterpret_cast<int*>(buckets);
      int before[4] = {};  // corners of the bucket that came earlier
#pragma unroll
      for (int c = 0; c < 4; ++c)
        if (shares[c] != 0)  // outside the map they are 0; NaN is not 0
          before[c] = atomicAdd(counts + find_bucket(x + c % 2, y + c / 2), 1);
      __syncthreads();
      find_begins(buckets, total);
      __syncthreads();
      Entry* entries = pairs[0].entry;
#pragma unroll
      for (int c = 0; c < 4; ++c)
        if (shares[c] != 0)
          entries[counts[find_bucket(x + c % 2, y + c / 2)] + before[c]] = {
              shares[c], pixels[c] * TILE + mine};
      __syncthreads();

      // Walk the list, each group as long a part: 2, 6, 10, ... entries, so that the
      // groups of a warp read from other banks.
      const int least = (total[0] + GROUPS - 1) / GROUPS;
      const int part = (least + 1) / 4 * 4 + 2;
      add_entries<T>(entries, group * part, min(group * part + part, total[0]),
                     upstream[lane], sums, grad_map);
    }
  }
  grads.template finish<TURN>(queries[mine].points, queries[mine].first, turn, call.p);
}

}  // namespace detr_steps::cuda
