// Step "points": find each point once.
//
// What changes: in the naive kernel every channel's thread works out for itself where a
// point lies, D times the same 60 instructions. Here the lanes that share a query and
// head take its points in turn, one lane a point, and leave what they found in shared
// memory: four shares and four offsets, 32 bytes. Then all lanes read all points.
// Why faster: the arithmetic is done once instead of D times, and what is left for each
// point is two loads from shared memory (the same for all lanes of a group: one
// broadcast), four from the map and the multiply-adds.

#pragma once

#include "numbers.cuh"

namespace detr_steps::cuda {

// P as a template argument: the number of points, or ANY number up to MAX_POINTS.
constexpr int ANY = 0;
template <int P>
constexpr int ROOM = P == ANY ? MAX_POINTS : P;
template <int P>
__device__ __forceinline__ int count_points(const Call& call) {
  return P == ANY ? call.p : P;
}

// --- the level of each point --------------------------------------------------------

// What a lane must know about the map that a point reads. Distances count units (of 16
// bytes, or of whatever one load of the kernel takes) from the first pixel of the
// first level: 32 bits are enough for them.
struct alignas(16) PointLevel {
  Extent<float> x, y;
  uint32_t start, line;   // of the level; from a line of pixels to the next
  uint32_t right, below;  // to a pixel's neighbours, 0 where there is no other pixel
  int index;              // which level
  float across, down, of_box;  // what offsets count
};

// `unit`: from a pixel to the next.
__device__ __forceinline__ PointLevel point_level(
    const Level& level, int index, uint32_t unit) {
  const uint32_t line = level.w * unit;
  return {extent<float>(level.w), extent<float>(level.h), level.start * unit, line,
          level.w > 1 ? unit : 0, level.h > 1 ? line : 0, index, level.across,
          level.down, level.of_box};
}

// List the levels of all points, once per block. Ends with a barrier.
template <int P>
__device__ __forceinline__ void list_levels(
    const Call& call, uint32_t unit, PointLevel* levels) {
  for (int p = threadIdx.x; p < count_points<P>(call); p += blockDim.x) {
    int l = 0;
#pragma unroll
    for (int i = 1; i < MAX_LEVELS; ++i) l += p >= call.level[i].first_point;
    levels[p] = point_level(call.level[l], l, unit);
  }
  __syncthreads();
}

// --- one point ----------------------------------------------------------------------

struct Spot {
  Pair<float> x, y;
};

__device__ __forceinline__ Spot find_spot(const PointLevel& level, float2 location) {
  return {pair(location.x, level.x), pair(location.y, level.y)};
}

// Corners are in the order top left, top right, bottom left, bottom right.
__device__ __forceinline__ float4 find_shares(const Spot& spot, float weight) {
  const float top = weight * spot.y.near, bottom = weight * spot.y.far;
  return make_float4(top * spot.x.near, top * spot.x.far, bottom * spot.x.near,
                     bottom * spot.x.far);
}

__device__ __forceinline__ uint4 find_corners(
    const PointLevel& level, const Spot& spot, uint32_t unit) {
  uint4 at;
  at.x = level.start + uint32_t(spot.y.base) * level.line + uint32_t(spot.x.base) * unit;
  at.y = at.x + level.right;
  at.z = at.x + level.below;
  at.w = at.z + level.right;
  return at;
}

// --- where points come from ---------------------------------------------------------

struct GivenGrads;  // gradients.cuh
struct AskedGrads;

// Locations and weights as they lie in memory.
struct Given {
  typedef GivenGrads Grads;
  const float* locations;  // [B, Q, M, P, 2]
  const float* weights;    // [B, Q, M, P]

  // Those of an image, and of those the ones of a query and head; `count` is P.
  __device__ __forceinline__ Given of_image(
      const Call& call, int image, int count) const {
    const int64_t before = call.rows(image) * count;
    return {settled(locations + 2 * before), settled(weights + before)};
  }
  __device__ __forceinline__ Given of(
      const Call& call, uint32_t query, uint32_t head, int count) const {
    const uint32_t first = call.row(query, head) * count;
    return {locations + size_t(2 * first), weights + size_t(first)};
  }
  // Called by all 32 lanes of a warp before the other two.
  template <int LANES, int P>
  __device__ __forceinline__ void prepare(int lane, int count) {}

  __device__ __forceinline__ float2 location(int p, const PointLevel& level) const {
    return __ldg(reinterpret_cast<const float2*>(locations) + p);
  }
  __device__ __forceinline__ float weight(int p) const { return __ldg(weights + p); }
};

// Step "fused": what a layer asks for. Locations and weights are worked out here and
// never stored. Why faster: a pass over memory for the softmax and two for the locations
// are saved, for one and a half instructions a point. And the locations are 32-bit
// numbers, whatever the rest of the model computes in: in bfloat16 they would be off by
// half a pixel.
struct Asked {
  typedef AskedGrads Grads;
  const float* references;  // [B, Q, L, 2 or 4]: (x, y) or boxes (cx, cy, w, h)
  const float* offsets;     // [B, Q, M, P, 2], in pixels, or in shares of boxes
  const float* logits;      // [B, Q, M, P]: weights before the softmax
  int numbers;              // of a reference: 2 or 4
  float largest, scale;  // of the softmax: see prepare

  __device__ __forceinline__ Asked of_image(
      const Call& call, int image, int count) const {
    const int64_t before = call.rows(image) * count;
    const int64_t place = int64_t(image) * call.q * call.levels;  // of [B, Q, L]
    return {settled(references + place * numbers), settled(offsets + 2 * before),
            settled(logits + before), numbers, 0, 0};
  }
  __device__ __forceinline__ Asked of(
      const Call& call, uint32_t query, uint32_t head, int count) const {
    const uint32_t first = call.row(query, head) * count;
    const uint32_t place = query * call.levels * numbers;
    return {references + size_t(place), offsets + size_t(2 * first),
            logits + size_t(first), numbers, 0, 0};
  }
  // The softmax over all points needs two things of all lanes: the largest logit, so
  // that no exponential overflows, and the sum of exponentials. After the last of the
  // exchanges every lane of the group has both.
  template <int LANES, int P>
  __device__ __forceinline__ void prepare(int lane, int count) {
    largest = __ldg(logits);
#pragma unroll
    for (int first = 0; first < ROOM<P>; first += LANES)
      if (first + lane < count) largest = fmaxf(largest, __ldg(logits + first + lane));
#pragma unroll
    for (int step = 1; step < LANES; step *= 2)
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, step));
    float sum = 0;
#pragma unroll
    for (int first = 0; first < ROOM<P>; first += LANES)
      if (first + lane < count) sum += expf(__ldg(logits + first + lane) - largest);
#pragma unroll
    for (int step = 1; step < LANES; step *= 2)
      sum += __shfl_xor_sync(0xffffffffu, sum, step);
    scale = inverse(sum);
  }

  __device__ __forceinline__ float2 location(int p, const PointLevel& level) const {
    const float2 offset = __ldg(reinterpret_cast<const float2*>(offsets) + p);
    float2 at;
    if (numbers == 4) {
      const float4 box =
          __ldg(reinterpret_cast<const float4*>(references) + level.index);
      at.x = box.x + offset.x * level.of_box * box.z;
      at.y = box.y + offset.y * level.of_box * box.w;
    } else {
      const float2 center =
          __ldg(reinterpret_cast<const float2*>(references) + level.index);
      at.x = center.x + offset.x * level.across;
      at.y = center.y + offset.y * level.down;
    }
    return at;
  }
  __device__ __forceinline__ float weight(int p) const {
    return expf(__ldg(logits + p) - largest) * scale;
  }
};

// --- all points of a query and head -------------------------------------------------

// Find them and leave shares and corners in shared memory, for all lanes of the group
// to read. Ends with a barrier of the warp, which is all that needs to wait: a group's
// lanes are in one. So all 32 lanes must come here, also those with nothing to do (a
// barrier for some lanes only costs ten instructions and a vote).
template <int LANES, int P, typename Points>
__device__ __forceinline__ void find_points(
    Points points, const PointLevel* levels, uint32_t unit, int count, int lane,
    float4* shares, uint4* corners) {
  points.template prepare<LANES, P>(lane, count);
#pragma unroll 2
  for (int first = 0; first < ROOM<P>; first += LANES) {
    const int p = first + lane;
    if (p >= count) continue;
    const PointLevel level = levels[p];
    const Spot spot = find_spot(level, points.location(p, level));
    shares[p] = find_shares(spot, points.weight(p));
    corners[p] = find_corners(level, spot, unit);
  }
  __syncwarp();
}

}  // namespace detr_steps::cuda
