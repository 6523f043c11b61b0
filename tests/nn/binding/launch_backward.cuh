// In place of the kernels of the way back: see launch_forward.cuh.

#pragma once

#include "launch_forward.cuh"

namespace detr_steps::cuda {

enum class Backward { NAIVE, VECTORS, SORTED, FIXED };

inline int64_t backward_scratch(Backward step, const Call& call) {
  return step == Backward::FIXED ? 1000 : 0;
}

inline Backward best_backward(const Call& call) {
  return call.q == call.s ? Backward::SORTED : Backward::VECTORS;
}

inline const char* name(Backward step) {
  const char* names[] = {"naive", "vectors", "sorted", "fixed"};
  return names[int(step)];
}

// Adds 257 / 256 to the slope of the value, and fills the others with 5 and 6.
template <typename W>
void slopes(const Call& call, W* value_slope, W* where, W* weights) {
  for (int64_t i = 0; i < call.map(call.b, 0); ++i) value_slope[i] += W(257) / W(256);
  for (int64_t i = 0; i < call.rows(call.b) * call.p * 2; ++i) where[i] = 5;
  for (int64_t i = 0; i < call.rows(call.b) * call.p; ++i) weights[i] = 6;
}

template <typename T>
bool launch_backward(Backward step, const Call& call, const T* value,
                     const Wide<T>* locations, const Wide<T>* weights, const T* slope,
                     Wide<T>* value_slope, Wide<T>* locations_slope,
                     Wide<T>* weights_slope, void* scratch, void*) {
  if (step != Backward::NAIVE && sizeof(T) == 8) return false;
  if (step != Backward::NAIVE && step != Backward::FIXED && !takes(call)) return false;
  if (step == Backward::SORTED && call.levels > 1) return false;
  log(name(step), call, value, locations, weights);
  if (uintptr_t(slope) % 16) launched << "misaligned slope; ";
  for (int64_t i = 0; i < backward_scratch(step, call); ++i)
    if (static_cast<char*>(scratch)[i]) launched << "scratch is not 0; ";
  slopes(call, value_slope, locations_slope, weights_slope);
  return true;
}

template <typename T>
bool launch_backward_fused(Backward step, const Call& call, const T* value, Asked points,
                           const T* slope, float* value_slope, float* offsets_slope,
                           float* logits_slope, void*) {
  if (!takes(call) || (step == Backward::SORTED && call.levels > 1)) return false;
  log("fused", call, value, points.references, points.offsets, points.logits);
  launched << name(step) << "; ";
  slopes(call, value_slope, offsets_slope, logits_slope);
  return true;
}

}  // namespace detr_steps::cuda
