// Deformable attention on a CPU, from plain pointers: no torch here.
//
// Shapes: value [B, S, M, D], locations [B, Q, M, P, 2], weights [B, Q, M, P] and
// result [B, Q, M, D], where P = L * K counts the points of all levels. Every function
// here works on one query and one head: first it finds the corners of LANES points at
// once (what the compiler turns into vector instructions), then it walks the points,
// each of whose four corners is a row of D numbers side by side in memory.

#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "ms_deform_attn.h"

namespace detr_steps {

constexpr int LANES = 16;  // points whose corners are found together

// --- rows: WIDTH numbers side by side, in vector registers --------------------------

constexpr int VECTOR_BYTES = 32;

template <typename T>
struct Vector;
template <>
struct Vector<float> {
  typedef float type __attribute__((vector_size(VECTOR_BYTES)));
};
template <>
struct Vector<double> {
  typedef double type __attribute__((vector_size(VECTOR_BYTES)));
};

template <typename T, int WIDTH>
struct Row {
  typedef typename Vector<T>::type Piece;
  static constexpr int LENGTH = VECTOR_BYTES / sizeof(T);  // numbers in a piece
  static constexpr int PIECES = WIDTH / LENGTH;
  static_assert(WIDTH % LENGTH == 0, "a row is made of whole vectors");
  Piece pieces[PIECES];
};

template <typename T>
struct Row<T, 1> {  // what is left over of an odd width
  typedef T Piece;
  static constexpr int LENGTH = 1, PIECES = 1;
  Piece pieces[1];
};

template <typename R>
inline __attribute__((always_inline)) R load(const void* from) {
  R row;
  std::memcpy(&row, from, sizeof(R));
  return row;
}

template <typename R>
inline __attribute__((always_inline)) void store(void* to, const R& row) {
  std::memcpy(to, &row, sizeof(R));
}

// row += share * other
template <typename T, int WIDTH>
inline __attribute__((always_inline)) void add(
    Row<T, WIDTH>& row, T share, const Row<T, WIDTH>& other) {
  for (int i = 0; i < Row<T, WIDTH>::PIECES; ++i)
    row.pieces[i] += share * other.pieces[i];
}

// Call `work` for one slice after another of a row of `width` numbers: as few and as
// wide ones as there are.
template <typename T, typename Work>
inline __attribute__((always_inline)) void each_slice(int width, Work&& work) {
  int at = 0;
  for (; at + 32 <= width; at += 32) work(Row<T, 32>(), at);
  for (; at + 16 <= width; at += 16) work(Row<T, 16>(), at);
  for (; at + 8 <= width; at += 8) work(Row<T, 8>(), at);
  for (; at < width; ++at) work(Row<T, 1>(), at);
}

// --- where the points of a query lie ------------------------------------------------

// What LANES points need to know about their levels, point by point: the same for all
// queries. Steps and starts count numbers, not bytes.
template <typename T>
struct Levels {
  alignas(64) T width[LANES], last_x[LANES], second_x[LANES];
  alignas(64) T height[LANES], last_y[LANES], second_y[LANES];
  alignas(64) int32_t start[LANES], line[LANES], step_x[LANES], step_y[LANES];
  int32_t pixel;  // from a pixel to the next; step_x is 0 where there is none
  int count;  // points in use; the rest repeats the last one
};

// One table for every LANES points. `pixel` is the way from a pixel to the next one.
template <typename T>
std::vector<Levels<T>> tables(
    const std::vector<int64_t>& shapes, int points, int32_t pixel) {
  const int levels = int(shapes.size() / 2), all = levels * points;
  std::vector<Levels<T>> found((all + LANES - 1) / LANES);
  std::vector<int32_t> starts(levels, 0);
  for (int l = 1; l < levels; ++l)
    starts[l] = starts[l - 1] + int32_t(shapes[2 * l - 2] * shapes[2 * l - 1]) * pixel;
  for (size_t i = 0; i < found.size() * LANES; ++i) {
    const int l = (int(i) < all ? int(i) : all - 1) / points;
    const int h = int(shapes[2 * l]), w = int(shapes[2 * l + 1]), lane = i % LANES;
    Levels<T>& table = found[i / LANES];
    const Extent<T> x = extent<T>(w), y = extent<T>(h);
    table.width[lane] = x.size, table.last_x[lane] = x.last;
    table.second_x[lane] = x.second;
    table.height[lane] = y.size, table.last_y[lane] = y.last;
    table.second_y[lane] = y.second;
    table.start[lane] = starts[l];
    table.pixel = pixel, table.line[lane] = pixel * w;
    table.step_x[lane] = w > 1 ? pixel : 0, table.step_y[lane] = h > 1 ? pixel * w : 0;
    table.count = lane < LANES && int(i) < all ? lane + 1 : table.count;
  }
  return found;
}

// The corners of LANES points of one query and head, in the order top left, top right,
// bottom left, bottom right.
template <typename T>
struct Corners {
  alignas(64) int32_t at[LANES];  // where the top left one starts
  alignas(64) T share[4][LANES];  // of each corner, times the point's weight
};

// What the way back needs besides: Pair by Pair, but each member side by side.
template <typename T>
struct Shares {
  alignas(64) T near[LANES], far[LANES], near_slope[LANES], far_slope[LANES];
};

template <typename T>
struct Points : Corners<T> {
  alignas(64) T weight[LANES];
  Shares<T> x, y;
};

// Locations and weights of LANES points; those that do not exist weigh nothing.
template <typename T>
struct Given {
  alignas(64) T padded_at[2 * LANES], padded_weights[LANES];
  const T *at, *weights;

  inline __attribute__((always_inline)) Given(
      const T* locations, const T* all, int count) {
    at = locations, weights = all;
    if (count == LANES) return;
    for (int i = 0; i < 2 * LANES; ++i)
      padded_at[i] = i < 2 * count ? locations[i] : T(0);
    for (int i = 0; i < LANES; ++i) padded_weights[i] = i < count ? all[i] : T(0);
    at = padded_at, weights = padded_weights;
  }
};

template <typename T>
inline __attribute__((always_inline)) void keep(
    Shares<T>& shares, int i, const Pair<T>& pair) {
  shares.near[i] = pair.near, shares.far[i] = pair.far;
  shares.near_slope[i] = pair.near_slope, shares.far_slope[i] = pair.far_slope;
}

template <typename T>
inline __attribute__((always_inline)) void keep(int, int, const Pair<T>&) {}

// Find the corners of LANES points: a loop without branches, which the compiler turns
// into vector instructions.
template <typename T>
inline __attribute__((always_inline)) void locate(
    const Levels<T>& levels, const T* locations, const T* weights,
    Corners<T>& found, Points<T>* points) {
  const Given<T> given(locations, weights, levels.count);
  for (int i = 0; i < LANES; ++i) {
    const Pair<T> x = pair(
        given.at[2 * i], {levels.width[i], levels.last_x[i], levels.second_x[i]});
    const Pair<T> y = pair(
        given.at[2 * i + 1], {levels.height[i], levels.last_y[i], levels.second_y[i]});
    const T weight = given.weights[i], top = weight * y.near, bottom = weight * y.far;
    found.at[i] = levels.start[i] + int32_t(y.base) * levels.line[i] +
                  int32_t(x.base) * levels.pixel;
    found.share[0][i] = top * x.near, found.share[1][i] = top * x.far;
    found.share[2][i] = bottom * x.near, found.share[3][i] = bottom * x.far;
    if (points) {
      points->weight[i] = weight;
      keep(points->x, i, x), keep(points->y, i, y);
    }
  }
}

// --- the way there ------------------------------------------------------------------

// Add the rows that LANES points read to `sum`: one running sum for each corner, so
// that no addition waits for the one before.
template <typename T, typename R>
inline __attribute__((always_inline)) R add_rows(
    const Levels<T>& levels, const Corners<T>& corners, const T* map, R sum) {
  R sums[3] = {};
  for (int i = 0; i < levels.count; ++i) {
    const T* at = map + corners.at[i];
    const T* below = at + levels.step_y[i];
    const int32_t right = levels.step_x[i];
    add(sum, corners.share[0][i], load<R>(at));
    add(sums[0], corners.share[1][i], load<R>(at + right));
    add(sums[1], corners.share[2][i], load<R>(below));
    add(sums[2], corners.share[3][i], load<R>(below + right));
  }
  for (const R& each : sums) add(sum, T(1), each);
  return sum;
}

// Read all points of one query and head: `width` numbers to `result`.
template <typename T>
inline void read(
    const std::vector<Levels<T>>& tables, const T* locations, const T* weights,
    const T* map, int width, T* result) {
  bool first = true;
  for (const Levels<T>& levels : tables) {
    Corners<T> corners;
    locate<T>(levels, locations, weights, corners, nullptr);
    each_slice<T>(width, [&](auto zero, int at) {
      typedef decltype(zero) R;
      const R before = first ? R() : load<R>(result + at);
      store(result + at, add_rows(levels, corners, map + at, before));
    });
    locations += 2 * LANES, weights += LANES, first = false;
  }
}

// --- the way back -------------------------------------------------------------------

// Products of the rows with the slope, not yet added up: [corner][point][vector].
template <typename T>
struct Products {
  static constexpr int LENGTH = VECTOR_BYTES / sizeof(T);
  alignas(64) T parts[4][LANES][LENGTH];
};

template <typename T, int WIDTH>
inline __attribute__((always_inline)) void multiply(
    const Row<T, WIDTH>& a, const Row<T, WIDTH>& b, T* product, bool first) {
  typedef typename Row<T, WIDTH>::Piece Piece;
  Piece sum = a.pieces[0] * b.pieces[0];
  for (int i = 1; i < Row<T, WIDTH>::PIECES; ++i) sum += a.pieces[i] * b.pieces[i];
  if (!first) sum += load<Piece>(product);
  store(product, sum);
}

// Walk the points once: multiply what they read by the slope, and hand each corner its
// share of the slope.
template <typename T, typename R>
inline __attribute__((always_inline)) void spread_rows(
    const Levels<T>& levels, const Corners<T>& corners, const T* map, const T* slope,
    T* map_slope, Products<T>& products, bool first) {
  const R down = load<R>(slope);
  for (int i = 0; i < levels.count; ++i) {
    const int32_t right = levels.step_x[i], below = levels.step_y[i];
    const int32_t at[4] = {corners.at[i], corners.at[i] + right,
                           corners.at[i] + below, corners.at[i] + below + right};
    for (int c = 0; c < 4; ++c) {
      multiply(load<R>(map + at[c]), down, products.parts[c][i], first);
      R row = load<R>(map_slope + at[c]);
      add(row, corners.share[c][i], down);
      store(map_slope + at[c], row);
    }
  }
}

// Add the products up and turn them into the slopes of locations and weights.
template <typename T>
inline __attribute__((always_inline)) void finish(
    const Levels<T>& levels, const Points<T>& points, const Products<T>& products,
    T* locations_slope, T* weights_slope) {
  alignas(64) T dots[4][LANES], out[2 * LANES], agree[LANES];
  for (int c = 0; c < 4; ++c)
    for (int i = 0; i < LANES; ++i) {
      T sum = 0;
      for (int j = 0; j < Products<T>::LENGTH; ++j) sum += products.parts[c][i][j];
      dots[c][i] = sum;
    }
  for (int i = 0; i < LANES; ++i) {
    const T top = points.x.near[i] * dots[0][i] + points.x.far[i] * dots[1][i];
    const T bottom = points.x.near[i] * dots[2][i] + points.x.far[i] * dots[3][i];
    const T dx = points.y.near[i] * (points.x.near_slope[i] * dots[0][i] +
                                     points.x.far_slope[i] * dots[1][i]) +
                 points.y.far[i] * (points.x.near_slope[i] * dots[2][i] +
                                    points.x.far_slope[i] * dots[3][i]);
    const T dy = points.y.near_slope[i] * top + points.y.far_slope[i] * bottom;
    agree[i] = points.y.near[i] * top + points.y.far[i] * bottom;
    out[2 * i] = dx * points.weight[i] * levels.width[i];
    out[2 * i + 1] = dy * points.weight[i] * levels.height[i];
  }
  std::memcpy(locations_slope, out, 2 * levels.count * sizeof(T));
  std::memcpy(weights_slope, agree, levels.count * sizeof(T));
}

// One query and head on the way back; `slope` is that of its `width` results.
template <typename T>
inline void read_backward(
    const std::vector<Levels<T>>& tables, const T* locations, const T* weights,
    const T* map, int width, const T* slope, T* map_slope, T* locations_slope,
    T* weights_slope) {
  for (const Levels<T>& levels : tables) {
    Points<T> points;
    Products<T> products;
    locate<T>(levels, locations, weights, points, &points);
    bool first = width >= 8;
    if (!first) std::memset(&products, 0, sizeof(products));  // single numbers follow
    each_slice<T>(width, [&](auto zero, int at) {
      typedef decltype(zero) R;
      spread_rows<T, R>(
          levels, points, map + at, slope + at, map_slope + at, products, first);
      first = false;
    });
    finish(levels, points, products, locations_slope, weights_slope);
    locations += 2 * LANES, weights += LANES;
    locations_slope += 2 * LANES, weights_slope += LANES;
  }
}

// --- one head's map, packed ---------------------------------------------------------

// Copy rows of `width` numbers: with many queries it pays to have the map of one head
// in one piece, where neighbours share a cache line.
template <typename T>
inline void copy_rows(
    const T* from, int64_t from_step, T* to, int64_t to_step, int64_t rows, int width) {
  for (int64_t i = 0; i < rows; ++i)
    each_slice<T>(width, [&](auto zero, int at) {
      store(to + i * to_step + at, load<decltype(zero)>(from + i * from_step + at));
    });
}

}  // namespace detr_steps
