// Do the levels of a call belong to its tensors? No torch here: the CPU's binding and
// that of the GPU both ask this before anything is read.

#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace detr_steps {

// Do levels of these `shapes` (h, w of the first, h, w of the next, ...) hold so many
// `tokens`, and do their `counts` make so many `points`? What is left is counted down:
// sums and products could exceed 64 bits and, wrapped around, look as if they fitted.
inline bool belong_together(
    const std::vector<int64_t>& shapes, const std::vector<int64_t>& counts,
    int64_t tokens, int64_t points) {
  for (size_t l = 0; l < counts.size(); ++l) {
    const int64_t h = shapes[2 * l], w = shapes[2 * l + 1], k = counts[l];
    if (h < 1 || w < 1 || k < 0 || h > tokens / w || k > points) return false;
    tokens -= h * w;
    points -= k;
  }
  return tokens == 0 && points == 0;
}

}  // namespace detr_steps
