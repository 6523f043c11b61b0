// Deformable attention on a CPU, from plain pointers: no torch here.
//
// Everything in this file works on one query and one head. First it finds the corners
// of LANES points at once, in loops without branches that the compiler turns into
// vector instructions. Then it walks the points: each of a point's four corners is a
// row of D numbers side by side in memory.

#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "ms_deform_attn.h"
#include "rows.h"

namespace detr_steps {

constexpr int LANES = 16;  // points whose corners are found together

template <typename T>
struct alignas(64) Lanes {
  T lane[LANES];
  DETR_STEPS_INLINE T& operator[](int i) { return lane[i]; }
  DETR_STEPS_INLINE T operator[](int i) const { return lane[i]; }
};

// --- the levels, as LANES points see them -------------------------------------------

template <typename T>
struct Extents {
  Lanes<T> size, last, second;

  void set(int i, Extent<T> one) {
    size[i] = one.size, last[i] = one.last, second[i] = one.second;
  }
  DETR_STEPS_INLINE Extent<T> operator[](int i) const {
    return {size[i], last[i], second[i]};
  }
};

// What is the same for all queries, point by point. Starts and steps count numbers, not
// bytes, from the first pixel of the first level.
template <typename T>
struct Levels {
  Extents<T> x, y;
  Lanes<int32_t> start;           // of the point's level
  Lanes<int32_t> line;            // from a line of pixels to the next
  Lanes<int32_t> right, below;    // to the neighbours; 0 where there is no other pixel
  int32_t pixel;                  // from a pixel to the next
  int count;                      // points in use; the rest are copies of the last
};

// One table for each LANES points. `shapes`: h, w of the first level, h, w of the
// second, ...; `points` of the first level, of the second, ...
template <typename T>
std::vector<Levels<T>> tables(
    const std::vector<int64_t>& shapes, const std::vector<int64_t>& points,
    int32_t pixel) {
  std::vector<int32_t> level, starts;  // of each point; of each level
  int32_t start = 0;
  for (size_t l = 0; l < points.size(); ++l) {
    level.insert(level.end(), size_t(points[l]), int32_t(l));
    starts.push_back(start);
    start += int32_t(shapes[2 * l] * shapes[2 * l + 1]) * pixel;
  }
  const int all = int(level.size());
  std::vector<Levels<T>> found((all + LANES - 1) / LANES);
  for (int first = 0; first < all; first += LANES) {
    Levels<T>& table = found[first / LANES];
    table.pixel = pixel;
    table.count = all - first < LANES ? all - first : LANES;
    for (int i = 0; i < LANES; ++i) {
      const int l = level[i < table.count ? first + i : all - 1];
      const int h = int(shapes[2 * l]), w = int(shapes[2 * l + 1]);
      table.x.set(i, extent<T>(w));
      table.y.set(i, extent<T>(h));
      table.start[i] = starts[l];
      table.line[i] = pixel * w;
      table.right[i] = w > 1 ? pixel : 0;
      table.below[i] = h > 1 ? pixel * w : 0;
    }
  }
  return found;
}

// --- where the points of a query lie ------------------------------------------------

template <typename T>
struct Pairs {
  Lanes<T> near, far, near_grad, far_grad;

  DETR_STEPS_INLINE void set(int i, const Pair<T>& one) {
    near[i] = one.near, far[i] = one.far;
    near_grad[i] = one.near_grad, far_grad[i] = one.far_grad;
  }
};

// Corners are in the order top left, top right, bottom left, bottom right.
template <typename T>
struct Corners {
  Lanes<int32_t> corner;  // where the top left one starts
  Lanes<T> share[4];      // of each corner, times the point's weight
};

template <typename T>
struct Points : Corners<T> {
  Lanes<T> weight;
  Pairs<T> x, y;
};

// Find the corners of LANES points. What of `found` nobody reads, the compiler leaves
// out: the forward pass needs no derivatives.
template <typename T>
DETR_STEPS_INLINE void locate(
    const Levels<T>& levels, const T* locations, const T* weights, Points<T>& found) {
  alignas(64) T some_locations[2 * LANES], some_weights[LANES];
  if (levels.count < LANES) {  // those that are missing weigh nothing
    for (int i = 0; i < 2 * LANES; ++i)
      some_locations[i] = i < 2 * levels.count ? locations[i] : T(0);
    for (int i = 0; i < LANES; ++i)
      some_weights[i] = i < levels.count ? weights[i] : T(0);
    locations = some_locations, weights = some_weights;
  }
  for (int i = 0; i < LANES; ++i) {
    const Pair<T> x = pair(locations[2 * i], levels.x[i]);
    const Pair<T> y = pair(locations[2 * i + 1], levels.y[i]);
    const T top = weights[i] * y.near, bottom = weights[i] * y.far;
    found.corner[i] = levels.start[i] + int32_t(y.base) * levels.line[i] +
                      int32_t(x.base) * levels.pixel;
    found.share[0][i] = top * x.near, found.share[1][i] = top * x.far;
    found.share[2][i] = bottom * x.near, found.share[3][i] = bottom * x.far;
    found.weight[i] = weights[i];
    found.x.set(i, x), found.y.set(i, y);
  }
}

// --- forward ------------------------------------------------------------------------

// Add what points `first` up to `end` read to `sum`. Each corner has a running sum of
// its own, so that no addition waits for the one before.
template <typename T, typename R>
DETR_STEPS_INLINE R add_rows(
    const Levels<T>& levels, const Corners<T>& points, int first, int end, const T* map,
    R sum) {
  R others[3] = {};
  for (int i = first; i < end; ++i) {
    const T *top = map + points.corner[i], *bottom = top + levels.below[i];
    const int32_t right = levels.right[i];
    add(sum, points.share[0][i], load<R>(top));
    add(others[0], points.share[1][i], load<R>(top + right));
    add(others[1], points.share[2][i], load<R>(bottom));
    add(others[2], points.share[3][i], load<R>(bottom + right));
  }
  for (const R& other : others) add(sum, T(1), other);
  return sum;
}

// Find where the points of one query and head lie, as many `found` as there are tables.
template <typename T>
inline void find(
    const std::vector<Levels<T>>& tables, const T* locations, const T* weights,
    Corners<T>* found) {
  for (const Levels<T>& levels : tables) {
    Points<T> points;
    locate(levels, locations, weights, points);
    *found++ = points;
    locations += 2 * LANES, weights += LANES;
  }
}

// Read some points of one table: `width` numbers to `result`, or added to it.
template <typename T>
inline void read_some(
    const Levels<T>& levels, const Corners<T>& points, int first, int end, const T* map,
    int width, T* result, bool adds) {
  each_slice<T>(width, [&](auto slice, int at) {
    typedef decltype(slice) R;
    const R before = adds ? load<R>(result + at) : R();
    store(result + at, add_rows(levels, points, first, end, map + at, before));
  });
}

// Read all points of one query and head.
template <typename T>
inline void read(
    const std::vector<Levels<T>>& tables, const Corners<T>* points, const T* map,
    int width, T* result) {
  for (size_t i = 0; i < tables.size(); ++i)
    read_some(tables[i], points[i], 0, tables[i].count, map, width, result, i > 0);
}

// Read all points of all heads of one query, `few` points of each head at a time.
// `points` has the tables of one head after another.
template <typename T>
inline void read_heads(
    const std::vector<Levels<T>>& tables, const std::vector<Corners<T>>& points,
    const T* map, int width, T* result, int few) {
  const int heads = int(points.size() / tables.size());
  for (size_t i = 0; i < tables.size(); ++i)
    for (int first = 0; first < tables[i].count; first += few) {
      const int left = tables[i].count - first, end = first + (left < few ? left : few);
      for (int m = 0; m < heads; ++m)
        read_some(tables[i], points[m * tables.size() + i], first, end, map + m * width,
                  width, result + m * width, i > 0 || first > 0);
    }
}

// --- backward -----------------------------------------------------------------------

// Walk the points once. `dots`, for each point and corner: the pixel's row times the
// upstream gradient, which is the gradient of that corner's share. And each corner's
// pixel gets its share of the upstream gradient.
template <typename R, typename T>
DETR_STEPS_INLINE void spread_rows(
    const Levels<T>& levels, const Points<T>& points, const T* map, const T* grad,
    T* grad_map, T (*dots)[4]) {
  const R upstream = load<R>(grad);
  for (int i = 0; i < levels.count; ++i) {
    const int32_t top = points.corner[i], bottom = top + levels.below[i];
    const int32_t right = levels.right[i];
    const int32_t at[4] = {top, top + right, bottom, bottom + right};
    typename R::Piece products[4];
    for (int c = 0; c < 4; ++c) products[c] = multiply(load<R>(map + at[c]), upstream);
    add_sums(products, dots[i], Length<R::LENGTH>());
    for (int c = 0; c < 4; ++c) {  // one by one: two corners may be the same pixel
      R row = load<R>(grad_map + at[c]);
      add(row, points.share[c][i], upstream);
      store(grad_map + at[c], row);
    }
  }
}

// Copy `count` numbers out of ALL; the usual case, all of them, takes a few vectors.
template <int ALL, typename T>
DETR_STEPS_INLINE void copy_some(T* to, const T* from, int count) {
  if (count == ALL) {
    std::memcpy(to, from, ALL * sizeof(T));
  } else {
    for (int i = 0; i < count; ++i) to[i] = from[i];
  }
}

// From `dots` to the gradients of locations and weights, by the chain rule: a share is
// the product of a weight, a share along x and one along y (ms_deform_attn.h), and a
// location counts in maps, not pixels: times the map's size.
template <typename T>
DETR_STEPS_INLINE void finish(
    const Levels<T>& levels, const Points<T>& points, const T (*dots)[4],
    T* grad_locations, T* grad_weights) {
  const Pairs<T>&x = points.x, &y = points.y;
  alignas(64) T by_location[2 * LANES], by_weight[LANES];
  for (int i = 0; i < LANES; ++i) {
    const T *top = dots[i], *bottom = dots[i] + 2;  // left and right of each
    const T top_read = x.near[i] * top[0] + x.far[i] * top[1];
    const T bottom_read = x.near[i] * bottom[0] + x.far[i] * bottom[1];
    const T top_grad = x.near_grad[i] * top[0] + x.far_grad[i] * top[1];
    const T bottom_grad = x.near_grad[i] * bottom[0] + x.far_grad[i] * bottom[1];
    const T by_x = y.near[i] * top_grad + y.far[i] * bottom_grad;
    const T by_y = y.near_grad[i] * top_read + y.far_grad[i] * bottom_read;
    by_weight[i] = y.near[i] * top_read + y.far[i] * bottom_read;
    by_location[2 * i] = by_x * points.weight[i] * levels.x.size[i];
    by_location[2 * i + 1] = by_y * points.weight[i] * levels.y.size[i];
  }
  copy_some<2 * LANES>(grad_locations, by_location, 2 * levels.count);
  copy_some<LANES>(grad_weights, by_weight, levels.count);
}

// The backward pass of one query and head; `grad` is that of its `width` results. Adds
// to `grad_map`, writes the other two.
template <typename T>
inline void read_backward(
    const std::vector<Levels<T>>& tables, const T* locations, const T* weights,
    const T* map, int width, const T* grad, T* grad_map, T* grad_locations,
    T* grad_weights) {
  for (const Levels<T>& levels : tables) {
    Points<T> points;
    alignas(64) T dots[LANES][4] = {};
    locate(levels, locations, weights, points);
    each_slice<T>(width, [&](auto slice, int at) {
      typedef decltype(slice) R;
      spread_rows<R>(levels, points, map + at, grad + at, grad_map + at, dots);
    });
    finish(levels, points, dots, grad_locations, grad_weights);
    locations += 2 * LANES, weights += LANES;
    grad_locations += 2 * LANES, grad_weights += LANES;
  }
}

}  // namespace detr_steps
