// Rows of numbers in vector registers. No torch, no intrinsics of one kind of
// processor: the vector types that GCC and Clang have everywhere.

#pragma once

#include <cstdint>

#define DETR_STEPS_INLINE inline __attribute__((always_inline))

namespace detr_steps {

#if defined(__AVX__)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;  // SSE, NEON: what is wider goes through memory
#endif

// A vector, and the same vector anywhere in memory (`aligned` to its numbers only).
template <typename T>
struct Vector;
template <>
struct Vector<float> {
  typedef float type __attribute__((vector_size(VECTOR_BYTES)));
  typedef float anywhere
      __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
};
template <>
struct Vector<double> {
  typedef double type __attribute__((vector_size(VECTOR_BYTES)));
  typedef double anywhere
      __attribute__((vector_size(VECTOR_BYTES), aligned(8), may_alias));
};

// WIDTH numbers side by side, as so many vectors.
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
struct Row<T, 1> {  // for what is left over of an odd width
  typedef T Piece, Anywhere;
  static constexpr int LENGTH = 1, PIECES = 1;
  Piece pieces[1];
};

template <typename R, typename T>
DETR_STEPS_INLINE R load(const T* from) {
  R row;
  for (int i = 0; i < R::PIECES; ++i)
    row.pieces[i] =
        *reinterpret_cast<const typename R::Anywhere*>(from + i * R::LENGTH);
  return row;
}

template <typename R, typename T>
DETR_STEPS_INLINE void store(T* to, const R& row) {
  for (int i = 0; i < R::PIECES; ++i)
    *reinterpret_cast<typename R::Anywhere*>(to + i * R::LENGTH) = row.pieces[i];
}

// row += share * other
template <typename T, int WIDTH>
DETR_STEPS_INLINE void add(Row<T, WIDTH>& row, T share, const Row<T, WIDTH>& other) {
  for (int i = 0; i < Row<T, WIDTH>::PIECES; ++i)
    row.pieces[i] += share * other.pieces[i];
}

// The products of two rows, their pieces added up: one piece.
template <typename T, int WIDTH>
DETR_STEPS_INLINE typename Row<T, WIDTH>::Piece multiply(
    const Row<T, WIDTH>& a, const Row<T, WIDTH>& b) {
  typename Row<T, WIDTH>::Piece sum = a.pieces[0] * b.pieces[0];
  for (int i = 1; i < Row<T, WIDTH>::PIECES; ++i) sum += a.pieces[i] * b.pieces[i];
  return sum;
}

// Call `work` for one slice after another of a row of `width` numbers, as few and as
// wide ones as there are. Its first argument only tells the type of the slice.
template <typename T, typename Work>
DETR_STEPS_INLINE void each_slice(int width, Work&& work) {
  int at = 0;
  for (; at + 32 <= width; at += 32) work(Row<T, 32>(), at);
  for (; at + 16 <= width; at += 16) work(Row<T, 16>(), at);
  for (; at + 8 <= width; at += 8) work(Row<T, 8>(), at);
  for (; at < width; ++at) work(Row<T, 1>(), at);
}

// --- sums across a vector -----------------------------------------------------------

// Numbers of two vectors in a new order; those of the second count on from the first.
#if defined(__clang__) || __GNUC__ >= 12
#define DETR_STEPS_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define DETR_STEPS_SHUFFLE(a, b, ...) \
  __builtin_shuffle(a, b, Orders<sizeof(a[0])>::type{__VA_ARGS__})
template <int BYTES>
struct Orders;
template <>
struct Orders<4> {
  typedef int32_t type __attribute__((vector_size(VECTOR_BYTES)));
};
template <>
struct Orders<8> {
  typedef int64_t type __attribute__((vector_size(VECTOR_BYTES)));
};
#endif

// Add the sum of each of four vectors to one of four numbers. Two vectors become one of
// half sums, until each sum is one number: a third of the work of one after the other.
// One function for each number of numbers that a vector may have.
template <int LENGTH>
struct Length {};

template <typename V, typename T>
DETR_STEPS_INLINE void add_sums(const V (&v)[4], T* four, Length<8>) {
  typedef T Four
      __attribute__((vector_size(4 * sizeof(T)), aligned(sizeof(T)), may_alias));
  V two[2];
  for (int i = 0; i < 2; ++i)
    two[i] = DETR_STEPS_SHUFFLE(v[2 * i], v[2 * i + 1], 0, 8, 1, 9, 4, 12, 5, 13) +
             DETR_STEPS_SHUFFLE(v[2 * i], v[2 * i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  const V one = DETR_STEPS_SHUFFLE(two[0], two[1], 0, 1, 8, 9, 4, 5, 12, 13) +
                DETR_STEPS_SHUFFLE(two[0], two[1], 2, 3, 10, 11, 6, 7, 14, 15);
  const Four low = {one[0], one[1], one[2], one[3]};
  const Four high = {one[4], one[5], one[6], one[7]};
  *reinterpret_cast<Four*>(four) += low + high;
}

template <typename V, typename T>
DETR_STEPS_INLINE void add_sums(const V (&v)[4], T* four, Length<4>) {
  typedef V Four __attribute__((aligned(sizeof(T)), may_alias));
  V two[2];
  for (int i = 0; i < 2; ++i)
    two[i] = DETR_STEPS_SHUFFLE(v[2 * i], v[2 * i + 1], 0, 4, 2, 6) +
             DETR_STEPS_SHUFFLE(v[2 * i], v[2 * i + 1], 1, 5, 3, 7);
  *reinterpret_cast<Four*>(four) += DETR_STEPS_SHUFFLE(two[0], two[1], 0, 1, 4, 5) +
                                    DETR_STEPS_SHUFFLE(two[0], two[1], 2, 3, 6, 7);
}

template <typename V, typename T>
DETR_STEPS_INLINE void add_sums(const V (&v)[4], T* four, Length<2>) {
  for (int i = 0; i < 4; ++i) four[i] += v[i][0] + v[i][1];
}

template <typename T>
DETR_STEPS_INLINE void add_sums(const T (&v)[4], T* four, Length<1>) {
  for (int i = 0; i < 4; ++i) four[i] += v[i];
}

// --- memory -------------------------------------------------------------------------

// Ask for `count` numbers that are needed soon; a wrong address does no harm.
template <typename T>
inline void fetch(const T* from, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / int64_t(sizeof(T)))
    __builtin_prefetch(from + i);
}

// The same for memory that will be written.
template <typename T>
inline void fetch_to_write(const T* from, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / int64_t(sizeof(T)))
    __builtin_prefetch(from + i, 1);
}

// Copy `rows` rows of `width` numbers whose starts are so many numbers apart.
template <typename T>
inline void copy_rows(
    const T* from, int64_t from_step, T* to, int64_t to_step, int64_t rows, int width) {
  for (int64_t i = 0; i < rows; ++i)
    each_slice<T>(width, [&](auto slice, int at) {
      store(to + i * to_step + at, load<decltype(slice)>(from + i * from_step + at));
    });
}

}  // namespace detr_steps
