// What the bindings of the CUDA kernels share: checks, memory, the launch itself. Bound
// through torch's stable interface, as the CPU's loops are (ms_deform_attn.cpp).

#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "cuda/launch.h"

namespace detr_steps::cuda {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// What is the same for all queries: h, w of the first level, h, w of the next one, ...;
// and how many points each level has.
typedef std::vector<int64_t> Shapes, Counts;

// --- what is given ------------------------------------------------------------------

// As the kernels read memory: no gaps, and 16 bytes at once.
inline Tensor settle(const Tensor& given) {
  const Tensor tensor = torch::stable::contiguous(given);
  const auto address = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
  return address % 16 == 0 ? tensor : torch::stable::clone(tensor);
}

// Locations, offsets, weights and gradients of them are float32, whatever the value is;
// only to check kernels there is all in float64.
inline ScalarType exact(const Tensor& value) {
  return value.scalar_type() == ScalarType::Double ? ScalarType::Double
                                                   : ScalarType::Float;
}

inline bool looks(const Tensor& tensor, const Tensor& value, ScalarType type,
           const std::vector<int64_t>& shape) {
  bool same = tensor.dim() == int64_t(shape.size()) && tensor.is_cuda() &&
              tensor.get_device_index() == value.get_device_index();
  for (size_t i = 0; same && i < shape.size(); ++i)
    same = tensor.size(i) == shape[i];
  STD_TORCH_CHECK(!same || tensor.scalar_type() == type,
                  "ms_deform_attn: on a GPU the value is float16, bfloat16, float32 or "
                  "float64, the gradient of the result like it, and all else float32 "
                  "(or float64 with the last)");
  return same;
}

// `where` [B, Q, M, P, 2] are locations or offsets, `weights` [B, Q, M, P] may be logits.
inline Call check(const Tensor& value, const Shapes& shapes, const Counts& counts,
           const Tensor& where, const Tensor& weights) {
  STD_TORCH_CHECK(value.dim() == 4 && where.dim() == 5 && !counts.empty() &&
                      shapes.size() == 2 * counts.size(),
                  "ms_deform_attn: expected value [B, S, M, D], (h, w) and a number of "
                  "points of each level, locations [B, Q, M, P, 2] and weights "
                  "[B, Q, M, P]");
  STD_TORCH_CHECK(counts.size() <= MAX_LEVELS, "ms_deform_attn: ", counts.size(),
                  " levels, but the kernels know ", MAX_LEVELS,
                  ": backend torch takes any number");
  const int64_t b = value.size(0), s = value.size(1), m = value.size(2);
  const int64_t q = where.size(1), most = std::numeric_limits<int32_t>::max();
  int64_t tokens = 0, points = 0;
  bool fits = value.is_cuda();
  for (size_t l = 0; l < counts.size(); ++l) {
    const int64_t h = shapes[2 * l], w = shapes[2 * l + 1];
    fits = fits && h > 0 && w > 0 && h <= s && w <= s && counts[l] >= 0;
    tokens += fits ? h * w : 0;
    points += counts[l];
  }
  fits = fits && tokens == s && looks(where, value, exact(value), {b, q, m, points, 2}) &&
         looks(weights, value, exact(value), {b, q, m, points});
  STD_TORCH_CHECK(fits,
                  "ms_deform_attn: levels, tokens and points do not belong together");
  STD_TORCH_CHECK(b <= most && s <= most && m <= most && value.size(3) <= most &&
                      q <= most && points <= most,
                  "ms_deform_attn: a size of 2^31 or more");
  const Call call = make_call(int(b), int(s), int(m), int(value.size(3)), int(q),
                              int(counts.size()), shapes.data(), counts.data());
  STD_TORCH_CHECK(call.fits(), "ms_deform_attn: an image's value, locations or result "
                               "has 2^31 numbers or more, or there are more than 65,535 "
                               "images: backend torch takes them");
  return call;
}

// References [B, Q, L, 2 or 4] beside offsets and logits, all float32.
inline Call check_asked(const Tensor& value, const Shapes& shapes, const Counts& counts,
                 const Tensor& references, const Tensor& offsets,
                 const Tensor& logits) {
  const Call call = check(value, shapes, counts, offsets, logits);
  const int64_t numbers = references.dim() == 4 && references.size(3) == 4 ? 4 : 2;
  STD_TORCH_CHECK(looks(references, value, ScalarType::Float,
                        {call.b, call.q, call.levels, numbers}),
                  "ms_deform_attn: expected references [B, Q, L, 2 or 4]");
  return call;
}

inline bool nothing(const Call& call) {  // a grid must not be empty
  return int64_t(call.b) * call.s * call.q * call.m * call.d * call.p == 0;
}

template <typename T>
const T* read(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <typename T>
T* write(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

inline AskedArrays asked(const Tensor& references, const Tensor& offsets,
                         const Tensor& logits) {
  return {read<float>(references), read<float>(offsets), read<float>(logits),
          int(references.size(3))};
}

// --- a launch -----------------------------------------------------------------------

// `work(number)` with a number of the type that the value has.
template <typename Work>
bool dispatch(const Tensor& value, const Work& work) {
  const ScalarType type = value.scalar_type();
  if (type == ScalarType::Float) return work(float());
  if (type == ScalarType::Half) return work(half_bits());
  if (type == ScalarType::BFloat16) return work(bfloat_bits());
  if (type == ScalarType::Double) return work(double());
  STD_TORCH_CHECK(false, "ms_deform_attn: float16, bfloat16, float32 or float64 wanted");
  return false;
}

// The GPU of the tensors becomes the current one, and `work(number, stream)` gets the
// stream on which torch computes there. A launch that fails tells nobody: one has to
// ask.
template <typename Work>
bool launch(const Tensor& value, const Work& work) {
  const int32_t index = value.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(index);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index, &stream));
  const bool taken = dispatch(value, [&](auto number) {
    return work(number, static_cast<Stream>(stream));
  });
  const cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(error == cudaSuccess,
                  "ms_deform_attn: the kernel did not start, or one before it failed: ",
                  cudaGetErrorString(error));
  return taken;
}

// --- forward ------------------------------------------------------------------------

inline Tensor empty_result(const Call& call, const Tensor& value) {
  const int64_t channels = int64_t(call.m) * call.d;
  if (nothing(call))  // what has no points reads zeros
    return torch::stable::new_zeros(value, {call.b, call.q, channels});
  return torch::stable::new_empty(value, {call.b, call.q, channels});
}

inline void demand(bool taken, const Call& call) {
  STD_TORCH_CHECK(taken, "ms_deform_attn: this kernel does not take D = ", call.d, ", ",
                  call.p, " points and numbers of this type");
}

// `start(call, value, locations, weights, result, stream)` gets plain pointers, and
// says whether it takes the shape.
template <typename Start>
Tensor run_forward(const Tensor& any_value, const Shapes& shapes, const Counts& counts,
                   const Tensor& any_locations, const Tensor& any_weights,
                   const Start& start) {
  const Call call = check(any_value, shapes, counts, any_locations, any_weights);
  const Tensor result = empty_result(call, any_value);
  if (nothing(call)) return result;
  const Tensor value = settle(any_value), locations = settle(any_locations),
               weights = settle(any_weights);
  const bool taken = launch(value, [&](auto number, Stream stream) {
    typedef decltype(number) T;
    return start(call, read<T>(value), read<Wide<T>>(locations),
                 read<Wide<T>>(weights), write<T>(result), stream);
  });
  demand(taken, call);
  return result;
}

// --- backward -----------------------------------------------------------------------

// Of the value, of locations or offsets, of weights or logits. The first is added up in
// float32 at least: sums of a thousand numbers in half precision would lose one in a
// hundred.
struct Grads {
  Tensor value, where, weights;

  // As torch wants them.
  std::tuple<Tensor, Tensor, Tensor> like(const Tensor& given) const {
    return {torch::stable::to(value, given.scalar_type()), where, weights};
  }
};

inline Grads empty_grads(const Call& call, const Tensor& value, const Tensor& where,
                           const Tensor& weights) {
  const auto empty = [&](const Tensor& like, const std::vector<int64_t>& shape) {
    return nothing(call) ? torch::stable::new_zeros(like, shape)
                         : torch::stable::new_empty(like, shape);
  };
  return {torch::stable::new_zeros(value, {call.b, call.s, call.m, call.d},
                                   exact(value)),
          empty(where, {call.b, call.q, call.m, call.p, 2}),
          empty(weights, {call.b, call.q, call.m, call.p})};
}

inline void check_grad(const Call& call, const Tensor& value, const Tensor& grad) {
  STD_TORCH_CHECK(looks(grad, value, value.scalar_type(),
                        {call.b, call.q, int64_t(call.m) * call.d}),
                  "ms_deform_attn: the gradient does not look like the result");
}

// `start(call, value, locations, weights, grad, grad_value, grad_locations,
// grad_weights, scratch, stream)`; `scratch`: zeros, as many as the step wants.
template <typename Start>
std::tuple<Tensor, Tensor, Tensor> run_backward(
    const Tensor& any_value, const Shapes& shapes, const Counts& counts,
    const Tensor& any_locations, const Tensor& any_weights, const Tensor& any_grad,
    Backward step, const Start& start) {
  const Call call = check(any_value, shapes, counts, any_locations, any_weights);
  check_grad(call, any_value, any_grad);
  const Grads grads = empty_grads(call, any_value, any_locations, any_weights);
  if (nothing(call)) return grads.like(any_value);
  const Tensor value = settle(any_value), locations = settle(any_locations),
               weights = settle(any_weights), grad = settle(any_grad);
  const Tensor scratch = torch::stable::new_zeros(
      value, {backward_scratch(step, call)}, ScalarType::Byte);
  const bool taken = launch(value, [&](auto number, Stream stream) {
    typedef decltype(number) T;
    typedef Wide<T> W;
    return start(call, read<T>(value), read<W>(locations), read<W>(weights),
                 read<T>(grad), write<W>(grads.value), write<W>(grads.where),
                 write<W>(grads.weights), scratch.mutable_data_ptr(), stream);
  });
  demand(taken, call);
  return grads.like(value);
}

// `start(call, value, asked, grad, grad_value, grad_offsets, grad_logits, stream)`;
// never in float64.
template <typename Start>
std::tuple<Tensor, Tensor, Tensor> run_backward_fused(
    const Tensor& any_value, const Shapes& shapes, const Counts& counts,
    const Tensor& any_references, const Tensor& any_offsets, const Tensor& any_logits,
    const Tensor& any_grad, const Start& start) {
  const Call call = check_asked(any_value, shapes, counts, any_references, any_offsets,
                                any_logits);
  check_grad(call, any_value, any_grad);
  const Grads grads = empty_grads(call, any_value, any_offsets, any_logits);
  if (nothing(call)) return grads.like(any_value);
  const Tensor value = settle(any_value), references = settle(any_references),
               offsets = settle(any_offsets), logits = settle(any_logits),
               grad = settle(any_grad);
  const bool taken = launch(value, [&](auto number, Stream stream) {
    typedef decltype(number) T;
    if constexpr (sizeof(T) < 8)
      return start(call, read<T>(value), asked(references, offsets, logits),
                   read<T>(grad), write<float>(grads.value), write<float>(grads.where),
                   write<float>(grads.weights), stream);
    return false;
  });
  demand(taken, call);
  return grads.like(value);
}

}  // namespace detr_steps::cuda
