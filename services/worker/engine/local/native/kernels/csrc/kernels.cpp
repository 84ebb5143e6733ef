// The library's functions for one mode. Compiled once for each, with LM_MODE (a class of microkernel.h) and LM_SUFFIX.
#include <system_error>

#include "attention.h"
#include "choose.h"
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
int LM_NAME(choose)(const LmChoose* job) { return guarded(lm::choose<Mode>, job); }

int64_t LM_NAME(lanes)() { return lm::kLanes; }

// structs.py mirrors types.h by hand: held against each other when the library is loaded.
#define LM_SIZE_OF(name) int64_t LM_NAME(size_of_##name)() { return sizeof(Lm##name); }
LM_SIZE_OF(Segment)
LM_SIZE_OF(Site)
LM_SIZE_OF(AdapterPart)
LM_SIZE_OF(AdapterSite)
LM_SIZE_OF(LayerNorms)
LM_SIZE_OF(Run)
LM_SIZE_OF(Runs)
LM_SIZE_OF(Pack)
LM_SIZE_OF(Linear)
LM_SIZE_OF(Cache)
LM_SIZE_OF(Sequences)
LM_SIZE_OF(Attention)
LM_SIZE_OF(Rope)
LM_SIZE_OF(Norm)
LM_SIZE_OF(Layer)
LM_SIZE_OF(Turns)
LM_SIZE_OF(Forward)
LM_SIZE_OF(ChooseRow)
LM_SIZE_OF(Choose)

}  // extern "C"
