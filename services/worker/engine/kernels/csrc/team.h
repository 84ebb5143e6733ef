// Threads: one parallel region a call, on the OpenMP runtime that torch has loaded.
//
// The runtime is called through its plain C interface, which libgomp, libomp and libiomp5 all export, instead of
// through `#pragma omp`. So the symbols resolve to whatever torch brought along, no second pool of threads can
// arise, and any compiler will do.
#pragma once

#include <sched.h>

#include <atomic>
#include <cstdint>

extern "C" {
void GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned flags);
int omp_get_thread_num();
int omp_get_num_threads();
}

namespace lm {

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// What the threads of one region share.
struct TeamState {
  alignas(64) std::atomic<int64_t> arrived{0};
  alignas(64) std::atomic<int64_t> epoch{0};
  alignas(64) std::atomic<int64_t> taken[2] = {{0}, {0}};
};

// One thread's view of its team.
class Member {
 public:
  Member(TeamState* state, int id, int size) : state_(state), id_(id), size_(size) {}

  int id() const { return id_; }
  int size() const { return size_; }

  void barrier() {
    if (size_ == 1) return;
    ++epoch_;
    if (state_->arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == epoch_ * size_) {
      state_->epoch.store(epoch_, std::memory_order_release);
      return;
    }
    // Steps are short, so spin; but let others run once this has clearly become a wait for a busy core.
    for (int spins = 0; state_->epoch.load(std::memory_order_acquire) < epoch_; ++spins) {
      if (spins < 2000) relax();
      else sched_yield();
    }
  }

  // Runs task(i) for every i below `count`, each on whichever thread is free, and waits for all.
  template <class Task>
  void each(int64_t count, Task&& task) {
    each_ahead(count, [&](int64_t i, int64_t) { task(i); });
  }

  // The same with task(i, next): `next` is what this thread has taken up after i, so that it can be asked of memory
  // in time; it is `count` or more when there is nothing. A thread's first task is the one of its own number.
  template <class Task>
  void each_ahead(int64_t count, Task&& task) {
    if (size_ == 1) {
      for (int64_t i = 0; i < count; ++i) task(i, i + 1);
      return;
    }
    // Two counters take turns: the one of the last loop is idle now, so it can be set back for the next.
    std::atomic<int64_t>& taken = state_->taken[loops_ & 1];
    if (id_ == 0) state_->taken[(loops_ + 1) & 1].store(0, std::memory_order_relaxed);
    ++loops_;
    for (int64_t i = id_, next; i < count; i = next) {
      next = size_ + taken.fetch_add(1, std::memory_order_relaxed);
      task(i, next);
    }
    barrier();
  }

 private:
  TeamState* state_;
  int id_;
  int size_;
  int64_t epoch_ = 0;
  int64_t loops_ = 0;
};

// Runs body(member) on up to `threads` threads, and returns when all are done.
template <class Body>
void run_team(int64_t threads, const Body& body) {
  if (threads <= 1) {
    Member alone(nullptr, 0, 1);
    body(alone);
    return;
  }
  struct Call {
    TeamState state;
    const Body* body;
  } call{{}, &body};
  GOMP_parallel(
      [](void* data) {
        Call* shared = static_cast<Call*>(data);
        Member member(&shared->state, omp_get_thread_num(), omp_get_num_threads());
        (*shared->body)(member);
      },
      &call, static_cast<unsigned>(threads), 0);
}

}  // namespace lm
