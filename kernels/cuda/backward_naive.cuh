// Backward step "naive": one block for each query and head, one thread for a channel.
//
// The design of the operator that came with the paper, and where its time goes: every
// thread finds each point for itself; every channel of every corner is added to the
// value's gradient by an instruction of its own, 4 bytes at a time; and for each point
// the whole block meets twice, to add up over the channels what the gradients of its
// location and weight need. (The original has one thread add D numbers while the others
// wait: 129 of its 290 instructions per point. Here the lanes of a warp add up in
// pairs.)
//
// It stays in use for shapes that the faster steps do not take and for float64: any D,
// any number of points and levels up to MAX_LEVELS.

#pragma once

#include "gradients.cuh"

namespace detr_steps::cuda {

constexpr int MOST_WARPS = 32;  // of a block; D > 1024: a thread takes several channels

// Blocks of whole warps: as many threads as channels, or a few more.
template <typename T, typename Sums>
__global__ void backward_naive(
    Call call, const T* __restrict__ value, const Wide<T>* __restrict__ locations,
    const Wide<T>* __restrict__ weights, const T* __restrict__ grad, Sums sums,
    Wide<T>* __restrict__ grad_locations, Wide<T>* __restrict__ grad_weights) {
  typedef Wide<T> W;
  __shared__ W room[MOST_WARPS][3];
  const uint32_t query = blockIdx.x / call.m, head = blockIdx.x - query * call.m;
  const int image = blockIdx.y;
  const int64_t row = call.rows(image) + blockIdx.x;  // of [B, Q, M]
  const T *map = value + call.map(image, head), *upstream = grad + row * call.d;
  typename Sums::Number* grad_map = sums.sums + call.map(image, head);
  sums.prepare(call, image, head);

  int64_t at = row * call.p;  // of [B, Q, M, P]
  for (int l = 0; l < call.levels; ++l) {
    const Level level = call.level[l];
    for (int k = 0; k < level.points; ++k, ++at) {
      const Pair<W> x = pair(locations[2 * at], extent<W>(level.w));
      const Pair<W> y = pair(locations[2 * at + 1], extent<W>(level.h));
      const W weight = weights[at];
      const W shares[4] = {weight * y.near * x.near, weight * y.near * x.far,
                           weight * y.far * x.near, weight * y.far * x.far};
      const int pixel = call.m * call.d, right = level.w > 1 ? pixel : 0;
      const int below = level.h > 1 ? level.w * pixel : 0;
      const int first = (level.start + int(y.base) * level.w + int(x.base)) * pixel;
      const int corners[4] = {first, first + right, first + below,
                              first + below + right};
      W dots[4] = {};
#pragma unroll 1
      for (int channel = threadIdx.x; channel < call.d; channel += blockDim.x) {
        const W grad_here = widen(upstream[channel]);
        for (int c = 0; c < 4; ++c) {
          dots[c] += grad_here * widen(map[corners[c] + channel]);
          if (shares[c] != 0)  // outside the map they are 0; NaN is not 0
            sums.add_one(grad_map + corners[c] + channel,
                         sums.term(shares[c] * grad_here));
        }
      }
      PointGrad<W> mine;
      for (int c = 0; c < 4; ++c) mine.add(c, dots[c], x, y);
      W all[3] = {mine.x, mine.y, mine.weight};
      sum_block(all, room);
      if (threadIdx.x > 0) continue;
      grad_locations[2 * at] = all[0] * weight * level.w;
      grad_locations[2 * at + 1] = all[1] * weight * level.h;
      grad_weights[at] = all[2];
    }
  }
}

}  // namespace detr_steps::cuda
