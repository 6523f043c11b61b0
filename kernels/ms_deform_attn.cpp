// Deformable attention for torch's CPU tensors.
//
// Bound through torch's stable interface: that compiles in seconds, and what is built
// against one torch loads into later ones.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <limits>
#include <tuple>
#include <vector>

#include "levels.h"
#include "ms_deform_attn_cpu.h"

namespace {

using detr_steps::Corners;
using detr_steps::fetch;
using detr_steps::fetch_to_write;
using detr_steps::Levels;
using torch::headeronly::ScalarType;
using torch::stable::contiguous;
using torch::stable::Tensor;

// What is the same for all queries: h, w of the first level, h, w of the next, ...; and
// how many points each level has.
typedef std::vector<int64_t> Shapes, Counts;

constexpr int64_t AHEAD = 4;  // queries between asking for numbers and using them
constexpr int64_t GRAIN = 16;  // queries that a thread takes at once, at least
constexpr uint64_t MUCH = 1 << 20;  // bytes of an image's maps: more than caches hold

// Sizes of one call by the library's letters, and where things start in memory. P
// counts the points of all levels.
struct Sizes {
  int64_t b, s, m, d, q, p;

  int64_t pixels(int64_t image, int64_t head) const {  // value [B, S, M, D]
    return (image * s * m + head) * d;
  }
  int64_t points(int64_t image, int64_t query, int64_t head) const {  // [B, Q, M, P]
    return ((image * q + query) * m + head) * p;
  }
  int64_t result(int64_t image, int64_t query, int64_t head) const {  // [B, Q, M, D]
    return ((image * q + query) * m + head) * d;
  }
  // Are the maps read so often that it pays to copy each head's into one piece, where
  // neighbours share a cache line? And are there maps enough for all threads?
  bool packs() const {
    return q * p >= 2 * s && b * m >= int64_t(torch::stable::get_num_threads());
  }
};

Sizes check(const Tensor& value, const Shapes& shapes, const Counts& counts,
            const Tensor& locations, const Tensor& weights) {
  STD_TORCH_CHECK(value.dim() == 4 && locations.dim() == 5 && weights.dim() == 4 &&
                      !counts.empty() && shapes.size() == 2 * counts.size(),
                  "ms_deform_attn: expected value [B, S, M, D], (h, w) and a number of "
                  "points of each level, locations [B, Q, M, P, 2] and weights "
                  "[B, Q, M, P]");
  const Sizes n{value.size(0), value.size(1),     value.size(2),
                value.size(3), locations.size(1), weights.size(3)};
  const int64_t wanted[] = {n.b, n.q, n.m, n.p, 2};
  bool fits = detr_steps::belong_together(shapes, counts, n.s, n.p);
  for (int i = 0; i < 5; ++i) fits = fits && locations.size(i) == wanted[i];
  for (int i = 0; i < 4; ++i) fits = fits && weights.size(i) == wanted[i];
  STD_TORCH_CHECK(fits,
                  "ms_deform_attn: levels, tokens and points do not belong together");
  STD_TORCH_CHECK(value.scalar_type() == locations.scalar_type() &&
                      value.scalar_type() == weights.scalar_type(),
                  "ms_deform_attn: value, locations and weights must have one dtype");
  const int64_t most = std::numeric_limits<int32_t>::max();
  STD_TORCH_CHECK(n.b <= most && n.s <= most && n.m <= most && n.d <= most &&
                      n.q <= most && n.p <= most,
                  "ms_deform_attn: a size of 2^31 or more");
  STD_TORCH_CHECK(n.d == 0 || n.s * n.m <= most / n.d,
                  "ms_deform_attn: an image's value has 2^31 numbers or more");
  return n;
}

template <typename Work>
void dispatch(const Tensor& value, const Work& work) {
  if (value.scalar_type() == ScalarType::Float) return work(float());
  if (value.scalar_type() == ScalarType::Double) return work(double());
  STD_TORCH_CHECK(false, "ms_deform_attn: float32 or float64 expected");
}

template <typename T>
struct Inputs {
  const T *value, *locations, *weights;
};

template <typename T>
Inputs<T> inputs(const Tensor& value, const Tensor& locations, const Tensor& weights) {
  return {static_cast<const T*>(value.const_data_ptr()),
          static_cast<const T*>(locations.const_data_ptr()),
          static_cast<const T*>(weights.const_data_ptr())};
}

template <typename T>
T* output(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// --- forward ------------------------------------------------------------------------

// Few queries: every thread takes some of them. They read here and there, and memory is
// far away: the places of all heads are found first, so that then many rows can be on
// their way at once. (To ask for rows earlier gains nothing: that many is the limit.)
// Maps that no cache holds are read a few points of every head at a time: such points
// are near each other, and what all heads read at one pixel lies side by side.
template <typename T>
void forward_direct(const Sizes& n, const Shapes& shapes, const Counts& counts,
                    Inputs<T> in, T* result) {
  const auto tables = detr_steps::tables<T>(shapes, counts, int32_t(n.m * n.d));
  const int64_t of_head = int64_t(tables.size());
  const int few = n.s * n.m * n.d * sizeof(T) > MUCH ? 4 : detr_steps::LANES;
  torch::stable::parallel_for(0, n.b * n.q, GRAIN, [&](int64_t begin, int64_t end) {
    std::vector<Corners<T>> points(n.m * of_head);
    for (int64_t at = begin; at < end; ++at) {
      for (int64_t m = 0; m < n.m; ++m) {
        const int64_t i = n.points(0, at, m);
        detr_steps::find(tables, in.locations + 2 * i, in.weights + i,
                         &points[m * of_head]);
      }
      detr_steps::read_heads(tables, points, in.value + n.pixels(at / n.q, 0), int(n.d),
                             result + n.result(0, at, 0), few);
    }
  });
}

// Many queries: every thread takes some heads of some images, and packs their maps.
template <typename T>
void forward_packed(const Sizes& n, const Shapes& shapes, const Counts& counts,
                    Inputs<T> in, T* result) {
  const auto tables = detr_steps::tables<T>(shapes, counts, int32_t(n.d));
  torch::stable::parallel_for(0, n.b * n.m, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> map(n.s * n.d);
    std::vector<Corners<T>> points(tables.size());
    for (int64_t at = begin; at < end; ++at) {
      const int64_t b = at / n.m, m = at % n.m;
      detr_steps::copy_rows(in.value + n.pixels(b, m), n.m * n.d, map.data(), n.d, n.s,
                            int(n.d));
      for (int64_t q = 0; q < n.q; ++q) {
        const int64_t i = n.points(b, q, m), soon = n.points(b, q + AHEAD, m);
        fetch(in.locations + 2 * soon, 2 * n.p);
        fetch(in.weights + soon, n.p);
        fetch_to_write(result + n.result(b, q + AHEAD, m), n.d);
        detr_steps::find(tables, in.locations + 2 * i, in.weights + i, points.data());
        detr_steps::read<T>(tables, points.data(), map.data(), int(n.d),
                            result + n.result(b, q, m));
      }
    }
  });
}

Tensor forward(const Tensor& any_value, Shapes shapes, Counts counts,
               const Tensor& any_locations, const Tensor& any_weights) {
  const Sizes n = check(any_value, shapes, counts, any_locations, any_weights);
  const Tensor value = contiguous(any_value), locations = contiguous(any_locations),
               weights = contiguous(any_weights);
  Tensor result = torch::stable::new_empty(value, {n.b, n.q, n.m * n.d});
  if (n.p == 0) torch::stable::zero_(result);
  if (n.p == 0 || result.numel() == 0) return result;
  dispatch(value, [&](auto zero) {
    typedef decltype(zero) T;
    (n.packs() ? forward_packed<T> : forward_direct<T>)(
        n, shapes, counts, inputs<T>(value, locations, weights), output<T>(result));
  });
  return result;
}

// --- backward -----------------------------------------------------------------------

template <typename T>
struct Grads {
  T *value, *locations, *weights;
};

// All queries of one head of one image.
template <typename T>
void backward_head(const Sizes& n, const std::vector<Levels<T>>& tables, Inputs<T> in,
                   const T* grad, Grads<T> out, int64_t b, int64_t m, const T* map,
                   T* grad_map) {
  for (int64_t q = 0; q < n.q; ++q) {
    const int64_t i = n.points(b, q, m), soon = n.points(b, q + AHEAD, m);
    fetch(in.locations + 2 * soon, 2 * n.p);
    fetch(in.weights + soon, n.p);
    fetch(grad + n.result(b, q + AHEAD, m), n.d);
    fetch_to_write(out.locations + 2 * soon, 2 * n.p);
    fetch_to_write(out.weights + soon, n.p);
    detr_steps::read_backward(tables, in.locations + 2 * i, in.weights + i, map,
                              int(n.d), grad + n.result(b, q, m), grad_map,
                              out.locations + 2 * i, out.weights + i);
  }
}

// Every thread takes some heads of some images: nobody else writes to their maps, so
// that no addition needs to be atomic, and the result never depends on the threads.
template <typename T>
void backward_all(const Sizes& n, const Shapes& shapes, const Counts& counts,
                  Inputs<T> in, const T* grad, Grads<T> out, bool packs) {
  const int64_t apart = n.m * n.d;  // from a pixel to the next, in `value`
  const auto tables =
      detr_steps::tables<T>(shapes, counts, int32_t(packs ? n.d : apart));
  torch::stable::parallel_for(0, n.b * n.m, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> map(packs ? n.s * n.d : 0), grad_map(map.size());
    for (int64_t at = begin; at < end; ++at) {
      const int64_t b = at / n.m, m = at % n.m;
      const T* pixels = in.value + n.pixels(b, m);
      T* grads = out.value + n.pixels(b, m);
      if (!packs) {
        backward_head(n, tables, in, grad, out, b, m, pixels, grads);
        continue;
      }
      detr_steps::copy_rows(pixels, apart, map.data(), n.d, n.s, int(n.d));
      grad_map.assign(grad_map.size(), T(0));
      backward_head<T>(n, tables, in, grad, out, b, m, map.data(), grad_map.data());
      detr_steps::copy_rows<T>(grad_map.data(), n.d, grads, apart, n.s, int(n.d));
    }
  });
}

// Always deterministic.
std::tuple<Tensor, Tensor, Tensor> backward(
    const Tensor& any_value, Shapes shapes, Counts counts, const Tensor& any_locations,
    const Tensor& any_weights, const Tensor& any_grad, bool) {
  const Sizes n = check(any_value, shapes, counts, any_locations, any_weights);
  const Tensor value = contiguous(any_value), locations = contiguous(any_locations),
               weights = contiguous(any_weights), grad = contiguous(any_grad);
  STD_TORCH_CHECK(grad.numel() == n.b * n.q * n.m * n.d &&
                      grad.scalar_type() == value.scalar_type(),
                  "ms_deform_attn: the gradient does not look like the result");
  const Tensor grads[] = {torch::stable::new_empty(value, {n.b, n.s, n.m, n.d}),
                         torch::stable::empty_like(locations),
                         torch::stable::empty_like(weights)};
  const bool work = value.numel() > 0 && n.q * n.p > 0, packs = n.packs();
  for (int i = 0; i < 3; ++i)
    if (!work || (i == 0 && !packs)) {
      Tensor each = grads[i];
      torch::stable::zero_(each);
    }
  if (work)
    dispatch(value, [&](auto zero) {
      typedef decltype(zero) T;
      backward_all<T>(
          n, shapes, counts, inputs<T>(value, locations, weights),
          static_cast<const T*>(grad.const_data_ptr()),
          {output<T>(grads[0]), output<T>(grads[1]), output<T>(grads[2])}, packs);
    });
  return {grads[0], grads[1], grads[2]};
}

}  // namespace

// What these take and return is defined in detr_steps/ops/ms_deform_attn.py.
STABLE_TORCH_LIBRARY_IMPL(detr_steps, CPU, library) {
  library.impl("ms_deform_attn", TORCH_BOX(&forward));
  library.impl("ms_deform_attn_backward", TORCH_BOX(&backward));
}
