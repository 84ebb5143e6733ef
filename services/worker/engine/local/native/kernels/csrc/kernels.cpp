// The library's functions for one mode. Compiled once for each, with LM_MODE (a class of microkernel.h) and LM_SUFFIX.
#include <chrono>
#include <system_error>

#include "attention.h"
#include "forward.h"
#include "linear.h"
#include "rowwise.h"

#define LM_PASTE(name, suffix) lm_##name##_##suffix
#define LM_JOIN(name, suffix) LM_PASTE(name, suffix)
#define LM_NAME(name) LM_JOIN(name, LM_SUFFIX)

using Mode = lm::LM_MODE;

namespace {

// Python gets 0, or 1 where the system had no more memory or threads to give.
template <class Job>
int guarded(void (*run)(const Job&), const Job* job) {
  try {
    run(*job);
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  } catch (const std::system_error&) {
    return 1;
  }
}

}  // namespace

extern "C" {

int LM_NAME(pack)(const LmPack* job) { return guarded(lm::pack<Mode>, job); }
int LM_NAME(linear)(const LmLinear* job) { return guarded(lm::linear<Mode>, job); }
int LM_NAME(attention)(const LmAttention* job) { return guarded(lm::attention<Mode>, job); }
int LM_NAME(rope)(const LmRope* job) { return guarded(lm::rope<Mode>, job); }
int LM_NAME(norm)(const LmNorm* job) { return guarded(lm::norm<Mode>, job); }
int LM_NAME(forward)(const LmForward* job) { return guarded(lm::forward<Mode>, job); }
int LM_NAME(argmax)(const LmArgmax* job) { return guarded(lm::argmax<Mode>, job); }

// Seconds that `repeats` products of cached operands take on one thread: which mode multiplies faster here.
double LM_NAME(seconds)(int64_t repeats) {
  constexpr int64_t kSteps = 64;
  static Mode::Operand a[lm::kMaxRows * kSteps * Mode::kStep];
  static Mode::Weight b[lm::kMaxBlocks * lm::kLanes * kSteps * Mode::kStep];
  static float c[lm::kMaxRows * lm::kMaxBlocks * lm::kLanes];
  auto from = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < repeats; ++i)
    lm::multiply<Mode>(lm::kMaxRows, lm::kMaxBlocks, kSteps, a, kSteps * Mode::kStep, b,
                       lm::kLanes * kSteps * Mode::kStep, c, lm::kMaxBlocks * lm::kLanes, true);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - from).count();
}

int64_t LM_NAME(lanes)() { return lm::kLanes; }

}  // extern "C"
