// Packed matrices (see microkernel.h), and activations in the form that `multiply` reads.
#pragma once

#include "microkernel.h"
#include "team.h"
#include "types.h"

namespace lm {

template <class Mode>
inline int64_t steps_of(int64_t depth) {
  return ceil_div(depth, Mode::kStep);
}

// Elements of one block of kLanes columns.
template <class Mode>
inline int64_t block_of(int64_t depth) {
  return steps_of<Mode>(depth) * kLanes * Mode::kStep;
}

template <class Mode>
void pack(const LmPack& job) {
  using Weight = typename Mode::Weight;
  const Weight* from = static_cast<const Weight*>(job.source);
  int64_t block = block_of<Mode>(job.k);
  for (int64_t n = 0; n < job.n; ++n) {
    int64_t column = job.to_column + n;
    Weight* to = static_cast<Weight*>(job.to) + column / kLanes * block + column % kLanes * Mode::kStep;
    const Weight* row = from + n * job.row_stride;
    for (int64_t k = 0; k < job.k; ++k)
      to[k / Mode::kStep * kLanes * Mode::kStep + k % Mode::kStep] = row[k * job.column_stride];
  }
}

// Elements between the rows of an operand of this depth. Not a power of two, or all rows of a tile would meet in the
// same few cache sets.
inline int64_t operand_stride(int64_t depth) { return ceil_div(depth, 32) * 32 + 16; }

// Writes one row of numbers as an operand, filled up with zeros to a whole depth step.
template <class Operand, class T>
inline void to_operand(Operand* to, const T* from, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) store_part(to + i, load_part(from + i, count - i), count - i);
  if (count % 2) put(to + count, 0.0f);
}

// Rows that `multiply` can read: the caller's own where their form allows, else a copy.
template <class Mode>
struct Rows {
  const typename Mode::Operand* data;
  int64_t stride;
};

// Whether rows in storage type can be read as they are.
template <class Mode>
inline bool readable(int64_t depth) {
  return sizeof(typename Mode::Operand) == sizeof(typename Mode::Weight) && depth % Mode::kStep == 0;
}

// Copies rows to operands, the team's threads together.
template <class Mode, class T>
inline void operand_stage(Member& member, const T* x, int64_t x_stride, int64_t rows, int64_t depth,
                          typename Mode::Operand* to, int64_t stride) {
  constexpr int64_t kRowsATask = 4;
  member.each(ceil_div(rows, kRowsATask), [&](int64_t task) {
    int64_t end = task * kRowsATask + kRowsATask < rows ? task * kRowsATask + kRowsATask : rows;
    for (int64_t row = task * kRowsATask; row < end; ++row)
      to_operand(to + row * stride, x + row * x_stride, depth);
  });
}

}  // namespace lm
