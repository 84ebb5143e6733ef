// The one inner loop: C [rows, columns] (+)= A [rows, depth] x B [depth, columns], accumulated in float32.
//
// Linear layers, both halves of LoRA and both products of attention are calls of `multiply`. B is packed: blocks of
// kLanes columns, each holding, depth step after depth step, one vector of the step's weights. A bfloat16 step is two
// rows of B interleaved, [kLanes][2], which is what the dot instruction eats; float32 has one. A is plain rows.
#pragma once

#include <cstdint>

#include "simd.h"

namespace lm {

// How numbers are stored and multiplied. `Weight` is what B holds, `Operand` what A holds.
struct Float32 {
  using Weight = float;
  using Operand = float;
  static constexpr int kStep = 1;  // rows of B in a depth step
};
// bfloat16 widened to float32 in registers. Exact products; and on CPUs whose dot instruction runs at half the rate
// of two fused multiply-adds (Sapphire and Emerald Rapids), twice as fast as it.
struct Bf16Widened {
  using Weight = bf16;
  using Operand = float;
  static constexpr int kStep = 2;
};
// bfloat16 through the AVX512-BF16 dot instruction.
struct Bf16Dot {
  using Weight = bf16;
  using Operand = bf16;
  static constexpr int kStep = 2;
};

// What to ask memory for while computing.
enum class Ahead {
  kNothing,
  kStream,  // `ahead` is the address of what comes next: as many lines a step as the step itself reads
  kList,    // `ahead` is a list of pieces of kPiece bytes: two lines a step
  kSparse,  // the same, one line a step
};

// Depth steps in which a piece is asked for.
constexpr int64_t steps_a_piece(Ahead ahead) { return ahead == Ahead::kSparse ? 8 : 4; }

constexpr int64_t kLine = 64;
constexpr int64_t kPiece = 8 * kLine;

constexpr int kMaxRows = kLanes == 16 ? 8 : 4;
constexpr int kMaxBlocks = kLanes == 16 ? 3 : 2;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Splits `total` into the fewest parts of at most `limit`, as equal as they come; returns the size of a part.
inline int64_t even_part(int64_t total, int64_t limit) {
  return ceil_div(total, ceil_div(total, limit));
}

// Keeps the compiler from moving loads across, where early ones would cost it registers that it does not have.
inline void in_order() { asm volatile("" ::: "memory"); }

// Row i of an operand. Three rows share a pointer, so that eight cost three registers and one for the stride.
template <class Operand>
inline const Operand& row_at(const char* const* thirds, int64_t stride, int i) {
  return *reinterpret_cast<const Operand*>(thirds[i / 3] + (i % 3) * stride);
}

template <class Mode, int kRows, int kBlocks, Ahead kAhead>
inline void multiply_tile(int64_t steps, const typename Mode::Operand* a, int64_t a_stride,
                          const typename Mode::Weight* b, int64_t b_stride, float* c, int64_t c_stride,
                          bool accumulate, const void* ahead) {
  using Operand = typename Mode::Operand;
  constexpr int kVector = kLanes * Mode::kStep;
  constexpr int kThirds = (kRows + 2) / 3;
  Vec acc[kRows][kBlocks];
  LM_UNROLL
  for (int i = 0; i < kRows; ++i) {
    LM_UNROLL
    for (int j = 0; j < kBlocks; ++j) acc[i][j] = Vec{};
  }
  if (accumulate) {
    LM_UNROLL
    for (int i = 0; i < kRows; ++i) {
      LM_UNROLL
      for (int j = 0; j < kBlocks; ++j) acc[i][j] = load(c + i * c_stride + j * kLanes);
    }
  }
  const int64_t stride = a_stride * static_cast<int64_t>(sizeof(Operand));
  const char* thirds[kThirds];
  LM_UNROLL
  for (int i = 0; i < kThirds; ++i) thirds[i] = reinterpret_cast<const char*>(a) + 3 * i * stride;
  for (int64_t s = 0; s < steps; ++s) {
    if constexpr (kAhead == Ahead::kStream) {
      LM_UNROLL
      for (int j = 0; j < kBlocks; ++j)
        __builtin_prefetch(static_cast<const char*>(ahead) + (s * kBlocks + j) * kLine, 0, 2);
    }
    if constexpr (kAhead == Ahead::kList) {
      const char* piece = static_cast<const char* const*>(ahead)[s >> 2] + (s & 3) * 2 * kLine;
      __builtin_prefetch(piece, 0, 2);
      __builtin_prefetch(piece + kLine, 0, 2);
    }
    if constexpr (kAhead == Ahead::kSparse)
      __builtin_prefetch(static_cast<const char* const*>(ahead)[s >> 3] + (s & 7) * kLine, 0, 2);
    if constexpr (Mode::kStep == 1) {
      Vec w[kBlocks];
      LM_UNROLL
      for (int j = 0; j < kBlocks; ++j) w[j] = load(b + j * b_stride);
      LM_UNROLL
      for (int i = 0; i < kRows; ++i) {
        Vec x = splat(row_at<Operand>(thirds, stride, i));
        LM_UNROLL
        for (int j = 0; j < kBlocks; ++j) acc[i][j] += x * w[j];
      }
#if defined(__AVX512BF16__)
    } else if constexpr (sizeof(Operand) == 2) {
      __m512bh w[kBlocks];
      LM_UNROLL
      for (int j = 0; j < kBlocks; ++j)
        w[j] = reinterpret_cast<__m512bh>(VecU(*reinterpret_cast<const VecUAny*>(b + j * b_stride)));
      LM_UNROLL
      for (int i = 0; i < kRows; ++i) {
        int32_t pair;
        std::memcpy(&pair, &row_at<Operand>(thirds, stride, i), 4);
        __m512bh x = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
        LM_UNROLL
        for (int j = 0; j < kBlocks; ++j)
          acc[i][j] = reinterpret_cast<Vec>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(acc[i][j]), x, w[j]));
      }
#endif
    } else {
      Vec w[kBlocks];
      LM_UNROLL
      for (int j = 0; j < kBlocks; ++j)
        w[j] = reinterpret_cast<Vec>(*reinterpret_cast<const VecUAny*>(b + j * b_stride) << 16);
      LM_UNROLL
      for (int i = 0; i < kRows; ++i) {
        Vec x = splat(row_at<Operand>(thirds, stride, i));
        LM_UNROLL
        for (int j = 0; j < kBlocks; ++j) acc[i][j] += x * w[j];
      }
      in_order();
      LM_UNROLL
      for (int j = 0; j < kBlocks; ++j)
        w[j] = reinterpret_cast<Vec>(*reinterpret_cast<const VecUAny*>(b + j * b_stride) & 0xffff0000u);
      LM_UNROLL
      for (int i = 0; i < kRows; ++i) {
        Vec x = splat((&row_at<Operand>(thirds, stride, i))[1]);
        LM_UNROLL
        for (int j = 0; j < kBlocks; ++j) acc[i][j] += x * w[j];
      }
    }
    b += kVector;
    LM_UNROLL
    for (int i = 0; i < kThirds; ++i) thirds[i] += Mode::kStep * sizeof(Operand);
    in_order();
  }
  LM_UNROLL
  for (int i = 0; i < kRows; ++i) {
    LM_UNROLL
    for (int j = 0; j < kBlocks; ++j) store(c + i * c_stride + j * kLanes, acc[i][j]);
  }
}

template <class Mode>
using Tile = void (*)(int64_t, const typename Mode::Operand*, int64_t, const typename Mode::Weight*, int64_t, float*,
                      int64_t, bool, const void*);

template <class Mode, Ahead kAhead, int kBlocks>
constexpr Tile<Mode> tile_of(int64_t rows) {
  if constexpr (kMaxRows == 8) {
    constexpr Tile<Mode> tiles[] = {
        multiply_tile<Mode, 1, kBlocks, kAhead>, multiply_tile<Mode, 2, kBlocks, kAhead>,
        multiply_tile<Mode, 3, kBlocks, kAhead>, multiply_tile<Mode, 4, kBlocks, kAhead>,
        multiply_tile<Mode, 5, kBlocks, kAhead>, multiply_tile<Mode, 6, kBlocks, kAhead>,
        multiply_tile<Mode, 7, kBlocks, kAhead>, multiply_tile<Mode, 8, kBlocks, kAhead>};
    return tiles[rows - 1];
  } else {
    constexpr Tile<Mode> tiles[] = {
        multiply_tile<Mode, 1, kBlocks, kAhead>, multiply_tile<Mode, 2, kBlocks, kAhead>,
        multiply_tile<Mode, 3, kBlocks, kAhead>, multiply_tile<Mode, 4, kBlocks, kAhead>};
    return tiles[rows - 1];
  }
}

// Any number of rows against up to kMaxBlocks blocks. `b_stride`: elements from one block to the next at the same depth.
// With a list ahead, each part of the rows (see even_part) reads the next pieces of it.
template <class Mode, Ahead kAhead = Ahead::kNothing>
inline void multiply(int64_t rows, int64_t blocks, int64_t steps, const typename Mode::Operand* a, int64_t a_stride,
                     const typename Mode::Weight* b, int64_t b_stride, float* c, int64_t c_stride, bool accumulate,
                     const void* ahead = nullptr) {
  int64_t part = even_part(rows, kMaxRows);
  for (int64_t row = 0; row < rows; row += part) {
    int64_t count = rows - row < part ? rows - row : part;
    Tile<Mode> tile = blocks == 1   ? tile_of<Mode, kAhead, 1>(count)
                      : blocks == 2 ? tile_of<Mode, kAhead, 2>(count)
                                    : tile_of<Mode, kAhead, kMaxBlocks>(count);
    tile(steps, a + row * a_stride, a_stride, b, b_stride, c + row * c_stride, c_stride, accumulate, ahead);
    if constexpr (kAhead == Ahead::kList || kAhead == Ahead::kSparse)
      ahead = static_cast<const char* const*>(ahead) + ceil_div(steps, steps_a_piece(kAhead));
  }
}

}  // namespace lm
