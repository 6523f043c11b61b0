// Step "naive": one thread for each number of the result.
//
// The design of the operator that came with the paper: a thread takes one channel of
// one query and head and walks all its points. Neighbouring threads are neighbouring
// channels, so that a warp reads whole rows, 4 bytes a lane; that much is good. But all
// D threads of a query and head find the same points, one by one, each for itself:
// around 100 instructions for every point, of which 4 multiply and add.
//
// It stays in use, for shapes that the faster steps do not take and for float64: any
// D, any number of points and levels up to MAX_LEVELS.

#pragma once

#include "numbers.cuh"

namespace detr_steps::cuda {

template <typename T>
__global__ void forward_naive(
    Call call, const T* __restrict__ value, const Wide<T>* __restrict__ locations,
    const Wide<T>* __restrict__ weights, T* __restrict__ result) {
  typedef Wide<T> W;
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;  // in the image's result
  const uint32_t row = i / call.d, channel = i % call.d;     // of [Q, M]
  if (row >= uint32_t(call.q) * call.m) return;
  const int image = blockIdx.y, head = row % call.m;
  const T* map = value + call.map(image, head) + channel;
  const int64_t pixel = int64_t(call.m) * call.d;  // numbers from a pixel to the next
  const int64_t before = call.rows(image);
  const W* location = locations + (before + row) * call.p * 2;
  const W* weight = weights + (before + row) * call.p;
  W sum = 0;
  for (int l = 0; l < call.levels; ++l) {
    const Level level = call.level[l];
    const int right = level.w > 1, below = level.h > 1;
    for (int k = 0; k < level.points; ++k, location += 2, ++weight) {
      const Pair<W> x = pair(location[0], extent<W>(level.w));
      const Pair<W> y = pair(location[1], extent<W>(level.h));
      const T* top = map + (level.start + int(y.base) * level.w + int(x.base)) * pixel;
      const T* bottom = top + below * level.w * pixel;
      const W upper = x.near * widen(top[0]) + x.far * widen(top[right * pixel]);
      const W lower = x.near * widen(bottom[0]) + x.far * widen(bottom[right * pixel]);
      sum += *weight * (y.near * upper + y.far * lower);
    }
  }
  result[before * call.d + i] = narrow<T>(sum);
}

}  // namespace detr_steps::cuda
