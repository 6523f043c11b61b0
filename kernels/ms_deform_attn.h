// Where a point falls between the pixels of a map. No torch here, and nothing that
// only a CPU knows: the CPU loops and the CUDA kernels both compute with this.
//
// Pixel j of an axis sits at (j + 0.5) / size; a location is a share of the map. One
// axis at a time: a point lies between two neighbours, `base` and `base + 1`, and each
// counts the more the nearer it is. Both always exist, so that nobody has to ask
// whether a corner may be read: near the border and beyond it the pair is the
// outermost one, and what lies outside only changes the shares.

#pragma once

#if defined(__CUDACC__)
#define DETR_STEPS_BOTH __host__ __device__ __forceinline__
#else
#define DETR_STEPS_BOTH inline __attribute__((always_inline))
#endif

namespace detr_steps {

// One axis of one level: `last` is the largest base, and `second` is 1 where there are
// two pixels at all (a map one pixel wide reads that pixel twice, the second time with
// share 0).
template <typename T>
struct Extent {
  T size, last, second;
};

template <typename T>
DETR_STEPS_BOTH Extent<T> extent(int size) {
  return {T(size), T(size > 1 ? size - 2 : 0), T(size > 1)};
}

// The smaller one; NaN where both are NaN. On a GPU that is one instruction, a choice
// two.
template <typename T>
DETR_STEPS_BOTH T smaller(T a, T b) {
#if defined(__CUDA_ARCH__)
  return min(a, b);
#else
  return a < b ? a : b;
#endif
}

// The two pixels that a point reads along one axis.
template <typename T>
struct Pair {
  T base;                    // a whole number, 0 <= base <= last
  T near, far;               // shares of pixel base and of pixel base + 1
  T near_grad, far_grad;     // their derivatives: what one pixel further changes
};

// Find the pair of a location. Beyond the map both shares are 0; NaN gives base 0 and
// shares NaN, so that it shows in the result.
template <typename T>
DETR_STEPS_BOTH Pair<T> pair(T location, Extent<T> along) {
  const T zero = 0, one = 1;
  // location * size - 0.5, rounded in the same steps as by torch's grid_sample: exactly
  // on a pixel the derivative jumps, and this way both take it from the same side.
  const T grid = T(2) * location - one;
  const T x = (grid + one) * (along.size * T(0.5)) - T(0.5);
  T held = x > zero ? x : zero;  // in this order NaN becomes 0
  held = smaller(held, along.last);
  const T base = T(int(held));
  const T t = x - base;  // 0 <= t < 1 inside, less or more at the border
  // Each share is a tent, 1 - distance: 1 on its own pixel, 0 on both neighbours.
  const T near = smaller(one - t, one + t), far = smaller(t, T(2) - t);
  Pair<T> found;
  found.base = base;
  found.near = near < zero ? zero : near;
  found.far = (far < zero ? zero : far) * along.second;
  const T rises = t >= -one ? one : zero, falls = t < one ? -one : zero;
  found.near_grad = t < zero ? rises : falls;
  const T left = t >= zero ? one : zero, right = t < T(2) ? -one : zero;
  found.far_grad = (t < one ? left : right) * along.second;
  return found;
}

}  // namespace detr_steps
