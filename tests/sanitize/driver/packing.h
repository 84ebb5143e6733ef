// `pack`: every number where microkernel.h says, and nothing else written.
#pragma once

#include "library.h"

namespace sanitize {

struct PackCase {
  int64_t columns;
  int64_t depth;
  int64_t first;    // packed column
  bool transposed;  // in the source
};

inline void check_pack(const PackCase& one) {
  const int64_t steps = round_up(one.depth, Mode::kStep) / Mode::kStep;
  Memory memory;
  Random dice(3);
  const Weight* source = memory.random<Weight>("matrix", one.columns * one.depth, 1, dice);
  Weight* to = memory.zeros<Weight>("packed", packed_size(one.first + one.columns, one.depth));
  const int64_t row_stride = one.transposed ? 1 : one.depth, column_stride = one.transposed ? one.columns : 1;
  call(LM_NAME(pack), LmPack{source, row_stride, column_stride, one.columns, one.depth, to, one.first});
  for (int64_t i = 0; i < memory.count(to); ++i) {
    const int64_t vector = i / Mode::kStep / lm::kLanes;
    const int64_t column = vector / steps * lm::kLanes + i / Mode::kStep % lm::kLanes - one.first;
    const int64_t at = vector % steps * Mode::kStep + i % Mode::kStep;
    const bool inside = column >= 0 && column < one.columns && at < one.depth;
    if (to[i] != (inside ? source[column * row_stride + at * column_stride] : Weight{}))
      fail("pack: " + std::to_string(one.columns) + " columns of " + std::to_string(one.depth) + ": number " +
           std::to_string(i) + " is wrong");
  }
}

inline void check_packs() {
  for (int64_t columns : {1, 3, 16, 17, 50})
    for (int64_t depth : {1, 2, 7, 64})
      for (int64_t first : {0, 1, 16, 21})
        for (bool transposed : {false, true}) check_pack({columns, depth, first, transposed});
}

}  // namespace sanitize
