// The backward pass of one point: from four dot products to the gradients of where it
// lies and of what it weighs, and where those go.
//
// Dot c is the row of corner c times the upstream gradient, that of the query's result:
// the gradient of that corner's share. The derivatives of the four shares by the
// location are known from finding them (ms_deform_attn.h); the chain rule gives
// the rest.

#pragma once

#include "points.cuh"
#include "reduce.cuh"

namespace detr_steps::cuda {

template <typename W>
struct PointGrad {
  W x = 0, y = 0;  // of the location, in pixels, and not yet times the weight
  W weight = 0;

  // `c`: 0 top left, 1 top right, 2 bottom left, 3 bottom right.
  __device__ __forceinline__ void add(
      int c, W dot, const Pair<W>& along_x, const Pair<W>& along_y) {
    const bool right = c & 1, lower = c & 2;
    const W by_x = dot * (right ? along_x.far : along_x.near);
    const W by_y = lower ? along_y.far : along_y.near;
    weight += by_x * by_y;
    x += dot * (right ? along_x.far_grad : along_x.near_grad) * by_y;
    y += by_x * (lower ? along_y.far_grad : along_y.near_grad);
  }
};

// Gradients of `Given` locations and weights. `at` counts all points, [B, Q, M, P].
struct GivenGrads {
  float* locations;  // [B, Q, M, P, 2]
  float* weights;    // [B, Q, M, P]

  __device__ __forceinline__ void put(
      const Given& points, int64_t at, const PointLevel& level, float weight,
      const PointGrad<float>& grad) {
    reinterpret_cast<float2*>(locations)[at] =
        make_float2(grad.x * weight * level.x.size, grad.y * weight * level.y.size);
    weights[at] = grad.weight;
  }

  // Called by all lanes that share a query, after all its points, which start at
  // `first`; that is negative for lanes without one.
  template <int LANES>
  __device__ __forceinline__ void finish(
      const Given& points, int64_t first, int lane, int count) {}
};

// Gradients of what is `Asked`: offsets, and logits through the softmax. With w its
// weights and g their gradients, logit p has the gradient w_p (g_p - sum of all w g).
// The sum is known after the last point only; until then the gradients of the weights
// wait where those of the logits will be.
struct AskedGrads {
  float* offsets;  // [B, Q, M, P, 2]
  float* logits;   // [B, Q, M, P]
  float sum = 0;   // of this lane's w g

  __device__ __forceinline__ void put(
      const Asked& points, int64_t at, const PointLevel& level, float weight,
      const PointGrad<float>& grad) {
    float2 by_offset = make_float2(grad.x * weight, grad.y * weight);  // of pixels
    if (points.numbers == 4) {
      const float4 box =
          __ldg(reinterpret_cast<const float4*>(points.references) + level.index);
      by_offset.x *= level.x.size * level.of_box * box.z;
      by_offset.y *= level.y.size * level.of_box * box.w;
    }
    reinterpret_cast<float2*>(offsets)[at] = by_offset;
    logits[at] = grad.weight;
    sum += weight * grad.weight;
  }

  template <int LANES>
  __device__ __forceinline__ void finish(
      const Asked& points, int64_t first, int lane, int count) {
    const float all = sum_to_all<LANES>(sum);
    if (first < 0) return;
    for (int p = lane; p < count; p += LANES)
      logits[first + p] = points.weight(p) * (logits[first + p] - all);
  }
};

// Blocks of 256 threads that must fit on a multiprocessor at a time. More of them would
// hide more waiting, but then a thread has too few registers for the rows under way.
template <int D>
constexpr int BLOCKS_AT_ONCE = D > 32 ? 2 : 3;

// The gradients of LANES points, of which each lane of a group has one. Together the
// lanes read one row after another, 16 bytes a lane, and multiply it with
// `upstream(s)`, the gradient of the result of lane s's query. Then they add up, and
// lane s keeps what belongs to its own point. `also(c, s, pixel)` may do more with
// corner c of the point of lane s. One corner after the other, in a loop that is not
// unrolled: the registers that rows need are then needed once.
template <typename T, int LANES, typename Upstream, typename Also>
__device__ __forceinline__ PointGrad<float> find_grad(
    const Rows<const T>& value, const PointLevel& level, const Spot& spot, int lane,
    Upstream upstream, Also also) {
  const uint32_t first = find_corners(level, spot, 1).x;
  PointGrad<float> grad;
#pragma unroll 1
  for (int c = 0; c < 4; ++c) {
    const uint32_t right = c & 1 ? level.right : 0, below = c & 2 ? level.below : 0;
    float products[LANES];
#pragma unroll
    for (int s = 0; s < LANES; ++s) {
      const uint32_t pixel = __shfl_sync(ALL, first + right + below, s, LANES);
      products[s] = dot(load<T>(value[pixel]), upstream(s));
      also(c, s, pixel);
    }
    grad.add(c, sum_across<LANES>(products, lane), spot.x, spot.y);
  }
  return grad;
}

}  // namespace detr_steps::cuda
