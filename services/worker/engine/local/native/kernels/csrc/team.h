// Threads: one parallel region a call, on a pool of our own.
//
// Not OpenMP's: its runtime sends threads to sleep between regions as soon as there are more of them than cores, as
// there are once anything but one thread has used torch; and waking them costs more than a kernel takes. Ours spin for
// as long as the next call of the same step may take to come, and sleep after that.
#pragma once

#include <sched.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

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

// The workers of one calling thread; it is itself the first of every team. They end with it.
class Pool {
 public:
  using Body = void (*)(void* data, int id, int size);

  static Pool& of_this_thread() {
    static thread_local Pool pool;
    return pool;
  }

  Pool() = default;
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  ~Pool() {
    stopping_ = true;
    begin();
    for (std::thread& worker : workers_) worker.join();
  }

  // Runs body(data, id, size) for every id below `size`, and returns when all are done.
  void run(int size, Body body, void* data) {
    while (static_cast<int>(workers_.size()) + 1 < size) {
      int id = static_cast<int>(workers_.size()) + 1;
      workers_.emplace_back([this, id, seen = round_.load()] { work(id, seen); });
    }
    body_ = body;
    data_ = data;
    size_ = size;
    done_.store(0, std::memory_order_relaxed);
    begin();
    body(data, 0, size);
    // All workers report, those that had nothing to do too: then none looks at this call any more.
    const int64_t all = static_cast<int64_t>(workers_.size());
    for (int spins = 0; done_.load(std::memory_order_acquire) < all; ++spins) {
      if (spins < kSpins) relax();
      else sched_yield();
    }
  }

 private:
  // Sequentially consistent, like what `work` does before it sleeps: either sees the other's.
  void begin() {
    round_.fetch_add(1);
    if (asleep_.load() == 0) return;
    std::lock_guard<std::mutex> lock(mutex_);
    woken_.notify_all();
  }

  void work(int id, int64_t seen) {
    for (;;) {
      wait_for_more_than(seen);
      ++seen;
      if (stopping_) return;
      if (id < size_) body_(data_, id, size_);
      done_.fetch_add(1, std::memory_order_release);
    }
  }

  void wait_for_more_than(int64_t seen) {
    using Clock = std::chrono::steady_clock;
    const Clock::time_point patience = Clock::now() + std::chrono::microseconds(kPatienceMicroseconds);
    do {
      for (int i = 0; i < kSpins; ++i) {
        if (round_.load(std::memory_order_acquire) != seen) return;
        relax();
      }
    } while (Clock::now() < patience);
    std::unique_lock<std::mutex> lock(mutex_);
    asleep_.fetch_add(1);
    woken_.wait(lock, [&] { return round_.load() != seen; });
    asleep_.fetch_sub(1);
  }

  static constexpr int kSpins = 200;
  static constexpr int kPatienceMicroseconds = 300;

  std::vector<std::thread> workers_;
  alignas(64) std::atomic<int64_t> round_{0};
  alignas(64) std::atomic<int64_t> done_{0};
  std::atomic<int64_t> asleep_{0};
  Body body_ = nullptr;
  void* data_ = nullptr;
  int size_ = 0;
  bool stopping_ = false;
  std::mutex mutex_;
  std::condition_variable woken_;
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
  Pool::of_this_thread().run(
      static_cast<int>(threads),
      [](void* data, int id, int size) {
        Call* shared = static_cast<Call*>(data);
        Member member(&shared->state, id, size);
        (*shared->body)(member);
      },
      &call);
}

}  // namespace lm
