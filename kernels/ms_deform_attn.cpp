// Binds the loops to torch, through its stable ABI: compiles in seconds, and what is
// built against one torch loads into later ones.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <limits>
#include <tuple>
#include <vector>

#include "ms_deform_attn_cpu.h"

namespace {

using detr_steps::Levels;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
typedef std::vector<int64_t> Shapes;  // h, w of the first level, h, w of the next, ...

constexpr int64_t AHEAD = 4;  // queries between asking for numbers and using them

// Sizes of one call, by the letters of the library.
struct Sizes {
  int64_t b, s, m, d, q, p;
  int points;  // K
  int64_t value(int64_t i, int64_t head) const { return (i * s * m + head) * d; }
  int64_t result(int64_t i, int64_t query, int64_t head) const {
    return ((i * q + query) * m + head) * d;
  }
  int64_t weight(int64_t i, int64_t query, int64_t head) const {
    return ((i * q + query) * m + head) * p;
  }
  // Is a head's map read often enough to be worth copying into one piece?
  bool packs() const {
    return q * p >= 2 * s && b * m >= torch::stable::get_num_threads();
  }
};

Sizes check(const Tensor& value, const Shapes& shapes, const Tensor& locations,
            const Tensor& weights) {
  STD_TORCH_CHECK(value.dim() == 4 && locations.dim() == 6 && weights.dim() == 5 &&
                      shapes.size() >= 2 && shapes.size() % 2 == 0,
                  "ms_deform_attn: expected value [B, S, M, D], (h, w) of each level, "
                  "locations [B, Q, M, L, K, 2], weights [B, Q, M, L, K]");
  const int64_t levels = shapes.size() / 2;
  const Sizes sizes{value.size(0), value.size(1), value.size(2), value.size(3),
                    locations.size(1), levels * locations.size(4),
                    int(locations.size(4))};
  int64_t tokens = 0;
  for (int64_t l = 0; l < levels; ++l) tokens += shapes[2 * l] * shapes[2 * l + 1];
  bool fits = tokens == sizes.s && locations.size(3) == levels && locations.size(5) == 2;
  for (int i = 0; i < 5; ++i) fits = fits && locations.size(i) == weights.size(i);
  fits = fits && locations.size(0) == sizes.b && locations.size(2) == sizes.m;
  STD_TORCH_CHECK(fits, "ms_deform_attn: levels, tokens and points do not belong "
                        "together");
  STD_TORCH_CHECK(value.scalar_type() == locations.scalar_type() &&
                      value.scalar_type() == weights.scalar_type(),
                  "ms_deform_attn: value, locations and weights must have one dtype");
  STD_TORCH_CHECK(sizes.s * sizes.m * sizes.d <= std::numeric_limits<int32_t>::max(),
                  "ms_deform_attn: an image of 2^31 numbers or more");
  return sizes;
}

template <typename Work>
void dispatch(const Tensor& value, const Work& work) {
  if (value.scalar_type() == ScalarType::Float) return work(float());
  if (value.scalar_type() == ScalarType::Double) return work(double());
  STD_TORCH_CHECK(false, "ms_deform_attn: float32 or float64 expected");
}

template <typename T>
const T* input(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <typename T>
T* output(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// Few queries: every thread takes some of them, with all their heads.
template <typename T>
void forward_direct(const Sizes& n, const Shapes& shapes, const T* value,
                    const T* locations, const T* weights, T* result) {
  const auto tables = detr_steps::tables<T>(shapes, n.points, int32_t(n.m * n.d));
  torch::stable::parallel_for(0, n.b * n.q, 16, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at)
      for (int64_t m = 0; m < n.m; ++m) {
        const int64_t i = n.weight(0, at, m);
        detr_steps::read<T>(tables, locations + 2 * i, weights + i,
                            value + n.value(at / n.q, m), int(n.d),
                            result + n.result(0, at, m));
      }
  });
}

// Many queries: every thread takes some heads of some images, and packs their maps.
template <typename T>
void forward_packed(const Sizes& n, const Shapes& shapes, const T* value,
                    const T* locations, const T* weights, T* result) {
  const auto tables = detr_steps::tables<T>(shapes, n.points, int32_t(n.d));
  torch::stable::parallel_for(0, n.b * n.m, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> map(n.s * n.d);
    for (int64_t at = begin; at < end; ++at) {
      const int64_t b = at / n.m, m = at % n.m;
      detr_steps::copy_rows(value + n.value(b, m), n.m * n.d, map.data(), n.d, n.s,
                            int(n.d));
      for (int64_t q = 0; q < n.q; ++q) {
        const int64_t i = n.weight(b, q, m), soon = n.weight(b, q + AHEAD, m);
        detr_steps::prefetch(locations + 2 * soon, 2 * n.p);
        detr_steps::prefetch(weights + soon, n.p);
        detr_steps::prefetch<1>(result + n.result(b, q + AHEAD, m), n.d);
        detr_steps::read<T>(tables, locations + 2 * i, weights + i, map.data(),
                            int(n.d), result + n.result(b, q, m));
      }
    }
  });
}

Tensor forward(const Tensor& any_value, Shapes shapes, const Tensor& any_locations,
               const Tensor& any_weights) {
  const Sizes n = check(any_value, shapes, any_locations, any_weights);
  const Tensor value = torch::stable::contiguous(any_value);
  const Tensor locations = torch::stable::contiguous(any_locations);
  const Tensor weights = torch::stable::contiguous(any_weights);
  Tensor result = torch::stable::new_empty(value, {n.b, n.q, n.m * n.d});
  if (n.p == 0) torch::stable::zero_(result);
  if (n.p == 0 || result.numel() == 0) return result;
  dispatch(value, [&](auto zero) {
    typedef decltype(zero) T;
    (n.packs() ? forward_packed<T> : forward_direct<T>)(
        n, shapes, input<T>(value), input<T>(locations), input<T>(weights),
        output<T>(result));
  });
  return result;
}

// Every thread takes some heads of some images: nobody else writes to their maps, so
// that no addition needs to be atomic and the result never depends on the threads.
template <typename T>
void backward(const Sizes& n, const Shapes& shapes, const T* value, const T* locations,
              const T* weights, const T* slope, T* value_slope, T* locations_slope,
              T* weights_slope) {
  const bool packs = n.packs();
  const int64_t step = packs ? n.d : n.m * n.d;
  const auto tables = detr_steps::tables<T>(shapes, n.points, int32_t(step));
  torch::stable::parallel_for(0, n.b * n.m, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> packed(packs ? n.s * n.d : 0), packed_slope(packed.size());
    for (int64_t at = begin; at < end; ++at) {
      const int64_t b = at / n.m, m = at % n.m;
      const T* map = value + n.value(b, m);
      T* map_slope = value_slope + n.value(b, m);
      if (packs) {
        detr_steps::copy_rows(map, n.m * n.d, packed.data(), n.d, n.s, int(n.d));
        std::fill(packed_slope.begin(), packed_slope.end(), T(0));
        map = packed.data(), map_slope = packed_slope.data();
      }
      for (int64_t q = 0; q < n.q; ++q) {
        const int64_t i = n.weight(b, q, m), soon = n.weight(b, q + AHEAD, m);
        detr_steps::prefetch(locations + 2 * soon, 2 * n.p);
        detr_steps::prefetch(weights + soon, n.p);
        detr_steps::prefetch(slope + n.result(b, q + AHEAD, m), n.d);
        detr_steps::prefetch<1>(locations_slope + 2 * soon, 2 * n.p);
        detr_steps::prefetch<1>(weights_slope + soon, n.p);
        detr_steps::read_backward<T>(
            tables, locations + 2 * i, weights + i, map, int(n.d),
            slope + n.result(b, q, m), map_slope, locations_slope + 2 * i,
            weights_slope + i);
      }
      if (packs)
        detr_steps::copy_rows<T>(map_slope, n.d, value_slope + n.value(b, m),
                                 n.m * n.d, n.s, int(n.d));
    }
  });
}

std::tuple<Tensor, Tensor, Tensor> backward_all(
    const Tensor& any_value, Shapes shapes, const Tensor& any_locations,
    const Tensor& any_weights, const Tensor& any_slope) {
  const Sizes n = check(any_value, shapes, any_locations, any_weights);
  const Tensor value = torch::stable::contiguous(any_value);
  const Tensor locations = torch::stable::contiguous(any_locations);
  const Tensor weights = torch::stable::contiguous(any_weights);
  const Tensor slope = torch::stable::contiguous(any_slope);
  STD_TORCH_CHECK(slope.numel() == n.b * n.q * n.m * n.d &&
                      slope.scalar_type() == value.scalar_type(),
                  "ms_deform_attn: the slope must look like the result");
  Tensor value_slope = torch::stable::new_empty(value, {n.b, n.s, n.m, n.d});
  if (!n.packs() || n.q * n.p == 0) torch::stable::zero_(value_slope);
  Tensor locations_slope = torch::stable::empty_like(locations);
  Tensor weights_slope = torch::stable::empty_like(weights);
  if (value.numel() > 0 && n.q * n.p > 0)
    dispatch(value, [&](auto zero) {
      typedef decltype(zero) T;
      backward<T>(n, shapes, input<T>(value), input<T>(locations), input<T>(weights),
                  input<T>(slope), output<T>(value_slope),
                  output<T>(locations_slope), output<T>(weights_slope));
    });
  return {value_slope, locations_slope, weights_slope};
}

}  // namespace

STABLE_TORCH_LIBRARY(detr_steps, library) {
  library.def(
      "ms_deform_attn(Tensor value, int[] shapes, Tensor locations, Tensor weights) "
      "-> Tensor");
  library.def(
      "ms_deform_attn_backward(Tensor value, int[] shapes, Tensor locations, "
      "Tensor weights, Tensor slope) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(detr_steps, CPU, library) {
  library.impl("ms_deform_attn", TORCH_BOX(&forward));
  library.impl("ms_deform_attn_backward", TORCH_BOX(&backward_all));
}
