// The library's functions for the mode that this driver is compiled for, and the sizes that the Python side gives to
// buffers.
#pragma once

#include "memory.h"
#include "microkernel.h"
#include "types.h"

#define LM_PASTE(name, suffix) lm_##name##_##suffix
#define LM_JOIN(name, suffix) LM_PASTE(name, suffix)
#define LM_NAME(name) LM_JOIN(name, LM_SUFFIX)

extern "C" {
int LM_NAME(pack)(const LmPack* job);
int LM_NAME(linear)(const LmLinear* job);
int LM_NAME(attention)(const LmAttention* job);
int LM_NAME(rope)(const LmRope* job);
int LM_NAME(norm)(const LmNorm* job);
int LM_NAME(forward)(const LmForward* job);
int LM_NAME(choose)(const LmChoose* job);
}

namespace sanitize {

using Mode = lm::LM_MODE;
using Weight = Mode::Weight;

template <class Job>
void call(int (*kernel)(const Job*), const Job& job) {
  if (kernel(&job)) fail("a kernel says that there is no memory, or no thread");
}

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Elements of a packed matrix; packing.py's packed_size.
inline int64_t packed_size(int64_t columns, int64_t depth) {
  return round_up(columns, lm::kLanes) * round_up(depth, Mode::kStep);
}

// Packs a random matrix [columns, depth] into `to`, from its column `first` on.
inline void pack_random(Random& dice, int64_t columns, int64_t depth, Weight* to, int64_t first) {
  Memory memory;
  const Weight* source = memory.random<Weight>("pack source", columns * depth, 0.1f, dice);
  call(LM_NAME(pack), LmPack{source, depth, 1, columns, depth, to, first});
}

// A random matrix [columns, depth], packed.
inline const Weight* packed_random(Memory& memory, const std::string& name, Random& dice, int64_t columns,
                                   int64_t depth) {
  Weight* to = memory.zeros<Weight>(name, packed_size(columns, depth));
  pack_random(dice, columns, depth, to, 0);
  return to;
}

}  // namespace sanitize
