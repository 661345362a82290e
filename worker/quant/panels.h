// How matrices with as many rows as the layer are kept while a layer is
// quantized: cut into panels of RowChunk(rows) rows, each panel column by
// column. A pass works on one panel at a time, which stays in the cache, and a
// column of a panel is one contiguous run. Private to this folder.
//
//   const RowPanels panels(rows, columns);
//   RawVector<float> w(rows * columns);
//   PackPanels(weight, panels, w.data());
//   for (int64_t p = 0; p < panels.count(); ++p) {
//     const float* column_j = w.data() + panels.At(p, j);  // Height(p) values
//   }
#ifndef BITWRIGHT_WORKER_QUANT_PANELS_H_
#define BITWRIGHT_WORKER_QUANT_PANELS_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#include "worker/quant/parallel.h"

namespace bitwright::quant {

class RowPanels {
 public:
  RowPanels(int64_t rows, int64_t columns)
      : rows_(rows), columns_(columns), chunk_(RowChunk(rows)) {}

  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  int64_t count() const { return (rows_ + chunk_ - 1) / chunk_; }
  // First row and number of rows of a panel.
  int64_t First(int64_t panel) const { return panel * chunk_; }
  int64_t Height(int64_t panel) const {
    return std::min(chunk_, rows_ - First(panel));
  }
  // Where column `column` of a panel begins.
  int64_t At(int64_t panel, int64_t column) const {
    return First(panel) * columns_ + column * Height(panel);
  }

 private:
  const int64_t rows_, columns_, chunk_;
};

// in [rows, columns], row by row → out, by panels.
template <typename T>
void PackPanels(const T* in, const RowPanels& panels, T* out);
// One panel of them.
template <typename T>
void PackPanel(const T* in, const RowPanels& panels, int64_t panel, T* out);
// The other way.
template <typename T>
void UnpackPanels(const T* in, const RowPanels& panels, T* out);

// in [rows, columns] with leading dimension `columns` → out [columns, rows]
// with leading dimension `stride`.
template <typename T>
void Transpose(const T* in, int64_t rows, int64_t columns, T* out,
               int64_t stride);

namespace panels_internal {

constexpr int64_t kLine = 64;    // bytes of a cache line
constexpr int64_t kVector = 16;  // bytes of a register of SSE2 or NEON

template <typename T>
struct VectorOf {  // GCC ignores the attribute on an alias template.
  typedef T type __attribute__((vector_size(kVector)));
};
template <typename T>
using Vector = typename VectorOf<T>::type;

// a0 b0 a1 b1 ..., from value kFrom of each on.
template <int kFrom, typename V, int... kAt>
V Interleave(V a, V b, std::integer_sequence<int, kAt...>) {
  return V{(kAt % 2 == 0 ? a : b)[kFrom + kAt / 2]...};
}

// A square of in, to out: as many rows as a vector has values. Interleaving
// each row with the one half the square below it, as often as halves fit,
// transposes.
template <typename T>
void TransposeSquare(const T* in, T* out, int64_t stride) {
  constexpr int kWidth = kVector / sizeof(T);
  static_assert(kWidth > 1 && (kWidth & (kWidth - 1)) == 0);
  using Places = std::make_integer_sequence<int, kWidth>;
  Vector<T> row[kWidth], next[kWidth];
  for (int i = 0; i < kWidth; ++i) {
    std::memcpy(&row[i], in + i * stride, kVector);
  }
  for (int step = 1; step < kWidth; step *= 2) {
    for (int i = 0; i < kWidth / 2; ++i) {
      const Vector<T> a = row[i], b = row[i + kWidth / 2];
      next[2 * i] = Interleave<0>(a, b, Places{});
      next[2 * i + 1] = Interleave<kWidth / 2>(a, b, Places{});
    }
    std::copy_n(next, kWidth, row);
  }
  for (int i = 0; i < kWidth; ++i) {
    std::memcpy(out + i * stride, &row[i], kVector);
  }
}

// `n` values of a tile's row. A whole line is moved by registers.
template <typename T>
void CopyLine(const T* in, int64_t n, T* out) {
  if (n * sizeof(T) == kLine) {
    std::memcpy(out, in, kLine);
  } else {
    std::copy_n(in, n, out);
  }
}

}  // namespace panels_internal

// By square tiles of one cache line's length that go through buffers, so that
// every line is touched once: rows are often a power of two apart, and then
// their lines push each other out of the cache. What the tiles ahead read and
// write, or what lies beyond the last, is asked for early: so many rows at once
// are more than a processor follows by itself.
template <typename T>
void Transpose(const T* in, int64_t rows, int64_t columns, T* out,
               int64_t stride) {
  using panels_internal::CopyLine, panels_internal::TransposeSquare;
  using panels_internal::kLine, panels_internal::kVector;
  constexpr int64_t kTile = kLine / sizeof(T);
  constexpr int64_t kSquare = kVector / sizeof(T);
  constexpr int64_t kAhead = 2 * kTile;
  alignas(kLine) T tile[kTile * kTile] = {};
  alignas(kLine) T turned[kTile * kTile];
  for (int64_t r0 = 0; r0 < rows; r0 += kTile) {
    const int64_t height = std::min(kTile, rows - r0);
    for (int64_t j0 = 0; j0 < columns; j0 += kTile) {
      const int64_t width = std::min(kTile, columns - j0);
      for (int64_t r = 0; r < height; ++r) {
        const T* from = in + (r0 + r) * columns + j0;
        __builtin_prefetch(from + kAhead);
        CopyLine(from, width, tile + r * kTile);
      }
      for (int64_t r = 0; r < height; r += kSquare) {
        for (int64_t j = 0; j < width; j += kSquare) {
          TransposeSquare(tile + r * kTile + j, turned + j * kTile + r, kTile);
        }
      }
      for (int64_t j = 0; j < width; ++j) {
        T* to = out + (j0 + j) * stride + r0;
        __builtin_prefetch(to + kAhead * stride, /*rw=*/1);
        CopyLine(turned + j * kTile, height, to);
      }
    }
  }
}

template <typename T>
void PackPanel(const T* in, const RowPanels& panels, int64_t panel, T* out) {
  const int64_t begin = panels.At(panel, 0);
  const int64_t height = panels.Height(panel);
  Transpose(in + begin, height, panels.columns(), out + begin, height);
}

template <typename T>
void PackPanels(const T* in, const RowPanels& panels, T* out) {
  ParallelFor(panels.count(),
              [&](int64_t p) { PackPanel(in, panels, p, out); });
}

template <typename T>
void UnpackPanels(const T* in, const RowPanels& panels, T* out) {
  ParallelFor(panels.count(), [&](int64_t p) {
    const int64_t begin = panels.At(p, 0);
    Transpose(in + begin, panels.columns(), panels.Height(p), out + begin,
              panels.columns());
  });
}

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_PANELS_H_
