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
  typedef float anywhere __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
};
template <>
struct Vector<double> {
  typedef double type __attribute__((vector_size(VECTOR_BYTES)));
  typedef double anywhere
      __attribute__((vector_size(VECTOR_BYTES), aligned(8), may_alias));
};

template <typename T, int WIDTH>
struct Row {
  typedef typename Vector<T>::type Piece;
  typedef typename Vector<T>::anywhere Anywhere;
  static constexpr int LENGTH = VECTOR_BYTES / sizeof(T);  // numbers in a piece
  static constexpr int PIECES = WIDTH / LENGTH;
  static_assert(WIDTH % LENGTH == 0, "a row is made of whole vectors");
  Piece pieces[PIECES];
};

template <typename T>
struct Row<T, 1> {  // what is left over of an odd width
  typedef T Piece, Anywhere;
  static constexpr int LENGTH = 1, PIECES = 1;
  Piece pieces[1];
};

template <typename R, typename T>
inline __attribute__((always_inline)) R load(const T* from) {
  R row;
  for (int i = 0; i < R::PIECES; ++i)
    row.pieces[i] = *reinterpret_cast<const typename R::Anywhere*>(from + i * R::LENGTH);
  return row;
}

template <typename R, typename T>
inline __attribute__((always_inline)) void store(T* to, const R& row) {
  for (int i = 0; i < R::PIECES; ++i)
    *reinterpret_cast<typename R::Anywhere*>(to + i * R::LENGTH) = row.pieces[i];
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

// Numbers of two vectors in a new order; those of the second count on from the first.
#if defined(__clang__) || __GNUC__ >= 12
#define DETR_STEPS_SHUFFLE(kind, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define DETR_STEPS_SHUFFLE(kind, a, b, ...) __builtin_shuffle(a, b, kind{__VA_ARGS__})
#endif

// The sums of four vectors: the vectors are halved and laid together until each has
// but one number left.
inline __attribute__((always_inline)) void sums(
    const Vector<float>::type (&v)[4], float* four) {
  typedef int32_t Order __attribute__((vector_size(VECTOR_BYTES)));
  typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));
  Vector<float>::type two[2];
  for (int i = 0; i < 2; ++i)
    two[i] = DETR_STEPS_SHUFFLE(Order, v[2 * i], v[2 * i + 1], 0, 8, 1, 9, 4, 12, 5, 13) +
             DETR_STEPS_SHUFFLE(Order, v[2 * i], v[2 * i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  const Vector<float>::type one =
      DETR_STEPS_SHUFFLE(Order, two[0], two[1], 0, 1, 8, 9, 4, 5, 12, 13) +
      DETR_STEPS_SHUFFLE(Order, two[0], two[1], 2, 3, 10, 11, 6, 7, 14, 15);
  const Four low = {one[0], one[1], one[2], one[3]};
  const Four high = {one[4], one[5], one[6], one[7]};
  *reinterpret_cast<Four*>(four) += low + high;
}

inline __attribute__((always_inline)) void sums(
    const Vector<double>::type (&v)[4], double* four) {
  typedef int64_t Order __attribute__((vector_size(VECTOR_BYTES)));
  Vector<double>::type two[2];
  for (int i = 0; i < 2; ++i)
    two[i] = DETR_STEPS_SHUFFLE(Order, v[2 * i], v[2 * i + 1], 0, 4, 2, 6) +
             DETR_STEPS_SHUFFLE(Order, v[2 * i], v[2 * i + 1], 1, 5, 3, 7);
  *reinterpret_cast<Vector<double>::anywhere*>(four) +=
      DETR_STEPS_SHUFFLE(Order, two[0], two[1], 0, 1, 4, 5) +
      DETR_STEPS_SHUFFLE(Order, two[0], two[1], 2, 3, 6, 7);
}

template <typename T>
inline __attribute__((always_inline)) void sums(const T (&v)[4], T* four) {
  for (int c = 0; c < 4; ++c) four[c] += v[c];
}

template <typename T, int WIDTH>
inline __attribute__((always_inline)) typename Row<T, WIDTH>::Piece multiply(
    const Row<T, WIDTH>& a, const Row<T, WIDTH>& b) {
  typename Row<T, WIDTH>::Piece sum = a.pieces[0] * b.pieces[0];
  for (int i = 1; i < Row<T, WIDTH>::PIECES; ++i) sum += a.pieces[i] * b.pieces[i];
  return sum;
}

// Walk the points once: multiply what they read by the slope, and hand each corner its
// share of the slope.
template <typename R, typename T>
inline __attribute__((always_inline)) void spread_rows(
    const Levels<T>& levels, const Corners<T>& corners, const T* map, const T* slope,
    T* map_slope, T (*dots)[4]) {
  const R down = load<R>(slope);
  for (int i = 0; i < levels.count; ++i) {
    const int32_t right = levels.step_x[i], below = levels.step_y[i];
    const int32_t top = corners.at[i];
    const int32_t at[4] = {top, top + right, top + below, top + below + right};
    typename R::Piece products[4];
    for (int c = 0; c < 4; ++c) products[c] = multiply(load<R>(map + at[c]), down);
    sums(products, dots[i]);
    for (int c = 0; c < 4; ++c) {
      R row = load<R>(map_slope + at[c]);
      add(row, corners.share[c][i], down);
      store(map_slope + at[c], row);
    }
  }
}

// Turn products of rows and slope into the slopes of locations and weights.
template <typename T>
inline __attribute__((always_inline)) void finish(
    const Levels<T>& levels, const Points<T>& points, const T (*dots)[4],
    T* locations_slope, T* weights_slope) {
  alignas(64) T out[2 * LANES], agree[LANES];
  for (int i = 0; i < LANES; ++i) {
    const T top = points.x.near[i] * dots[i][0] + points.x.far[i] * dots[i][1];
    const T bottom = points.x.near[i] * dots[i][2] + points.x.far[i] * dots[i][3];
    const T dx = points.y.near[i] * (points.x.near_slope[i] * dots[i][0] +
                                     points.x.far_slope[i] * dots[i][1]) +
                 points.y.far[i] * (points.x.near_slope[i] * dots[i][2] +
                                    points.x.far_slope[i] * dots[i][3]);
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
    alignas(64) T dots[LANES][4] = {};
    locate<T>(levels, locations, weights, points, &points);
    each_slice<T>(width, [&](auto zero, int at) {
      typedef decltype(zero) R;
      spread_rows<R>(levels, points, map + at, slope + at, map_slope + at, dots);
    });
    finish(levels, points, dots, locations_slope, weights_slope);
    locations += 2 * LANES, weights += LANES;
    locations_slope += 2 * LANES, weights_slope += LANES;
  }
}

// Ask for `count` numbers that will be needed soon; a wrong address does no harm.
template <int WRITE = 0, typename T>
inline void prefetch(const T* from, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / int64_t(sizeof(T)))
    __builtin_prefetch(from + i, WRITE);
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
