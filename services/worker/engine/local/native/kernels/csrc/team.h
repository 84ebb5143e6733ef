// Threads: one parallel region a call, on a pool of our own.
//
// Not OpenMP's: its runtime sends threads to sleep between regions as soon as there are more of them than cores, as
// there are once anything but one thread has used torch; and waking them costs more than a kernel takes. Ours spin for
// as long as the next call of the same step may take to come, and sleep after that.
//
// What is waited for is always work, never a thread: tasks are counted, not who has come to do them, so that one thread
// whose core is busy with something else holds nobody up. Who waits long sleeps: to yield would hand a whole time slice
// to whatever else the machine runs.
#pragma once

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#endif
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <climits>
#include <cstdint>
#include <cstdlib>
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

// A number that threads wait for. Sequentially consistent throughout: who adds and then looks for sleepers, and who says
// that he sleeps and then looks at the number, cannot both miss the other.
class Count {
 public:
  int32_t value() const { return value_.load(); }
  void set(int32_t value) { value_.store(value); }
  void reset() { value_.store(0), sleepers_.store(0); }
  // What it is then. It may go round, as the count of a worker's rounds does in a day.
  int32_t add(int32_t more) {
    return static_cast<int32_t>(static_cast<uint32_t>(value_.fetch_add(more)) + static_cast<uint32_t>(more));
  }

  // To be called after the number has changed to what somebody may wait for.
  void wake() {
    if (sleepers_.load() == 0) return;
#if defined(__linux__)
    syscall(SYS_futex, reinterpret_cast<int32_t*>(&value_), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
#endif
  }

  // Returns once done(number): spins at first, for as long as `patient` says so, and sleeps after that.
  template <class Done, class Patient>
  int32_t wait(Done&& done, Patient&& patient) {
    for (int64_t spins = 0;; ++spins) {
      const int32_t seen = value();
      if (done(seen)) return seen;
      if (patient(spins)) relax();
      else sleep(seen);
    }
  }

 private:
  void sleep(int32_t seen) {
    sleepers_.fetch_add(1);
#if defined(__linux__)
    // Returns at once where the number is not `seen` any more.
    syscall(SYS_futex, reinterpret_cast<int32_t*>(&value_), FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
#else
    sched_yield();
#endif
    sleepers_.fetch_sub(1);
  }

  alignas(64) std::atomic<int32_t> value_{0};
  std::atomic<int32_t> sleepers_{0};
};

static_assert(sizeof(std::atomic<int32_t>) == sizeof(int32_t), "the kernel looks at it as a number");

// About 20 microseconds: a task of another thread takes less.
inline bool spins_for_a_task(int64_t spins) { return spins < 2000; }

// What the threads of one region share: the tasks of each of its loops.
struct TeamState {
  struct Loop {
    alignas(64) std::atomic<int64_t> taken{0};
    Count finished;
  };
  static constexpr int64_t kLoops = 8;
  Loop loop[kLoops];
};

// One thread's view of its team.
class Member {
 public:
  Member(TeamState* state, int id, int size) : state_(state), id_(id), size_(size) {}

  int id() const { return id_; }
  int size() const { return size_; }

  // Runs task(i) for every i below `count`, each on whichever thread is free, and returns when all are done.
  template <class Task>
  void each(int64_t count, Task&& task) {
    each_ahead(count, [&](int64_t i, int64_t) { task(i); });
  }

  // The same with task(i, next): `next` is what this thread has taken up after i, so that it can be asked of memory
  // in time; it is `count` or more when there is nothing.
  template <class Task>
  void each_ahead(int64_t count, Task&& task) {
    if (size_ == 1) {
      for (int64_t i = 0; i < count; ++i) task(i, i + 1);
      return;
    }
    if (loops_ == TeamState::kLoops) std::abort();
    TeamState::Loop& loop = state_->loop[loops_++];
    int32_t done = 0;
    for (int64_t i = loop.taken.fetch_add(1, std::memory_order_relaxed), next; i < count; i = next) {
      next = loop.taken.fetch_add(1, std::memory_order_relaxed);
      task(i, next);
      ++done;
    }
    const int32_t all = static_cast<int32_t>(count);
    if (done && loop.finished.add(done) == all) loop.finished.wake();
    loop.finished.wait([&](int32_t finished) { return finished == all; }, spins_for_a_task);
  }

 private:
  TeamState* state_;
  int id_;
  int size_;
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
    forget_after_fork();
    stopping_ = true;
    round_.add(1);
    round_.wake();
    for (std::thread& worker : workers_) worker.join();
  }

  // Runs body(data, id, size) for id 0 and for every other id below `size` whose thread comes before the work is done, and
  // returns when all that came are through.
  void run(int size, Body body, void* data) {
    forget_after_fork();
    while (static_cast<int>(workers_.size()) + 1 < size) {
      int id = static_cast<int>(workers_.size()) + 1;
      workers_.emplace_back([this, id, seen = round_.value()] { work(id, seen); });
    }
    body_ = body;
    data_ = data;
    size_ = size;
    left_.set(0);
    gate_.store(kOpen);
    round_.add(1);
    round_.wake();
    body(data, 0, size);
    // Closed: who comes now is too late, and looks at nothing of this call. Who came in before has to leave first.
    const int32_t came = gate_.fetch_sub(kOpen) / kOneMore;
    left_.wait([&](int32_t left) { return left == came; }, spins_for_a_task);
  }

 private:
  static constexpr int32_t kOpen = 1;  // the gate's lowest bit; above it, how many came in
  static constexpr int32_t kOneMore = 2;

  void work(int id, int32_t seen) {
    using Clock = std::chrono::steady_clock;
    for (;;) {
      const Clock::time_point patience = Clock::now() + std::chrono::microseconds(kPatienceMicroseconds);
      seen = round_.wait([&](int32_t round) { return round != seen; },
                         [&](int64_t spins) { return spins % 200 != 199 || Clock::now() < patience; });
      if (stopping_) return;
      if (!come_in()) continue;
      if (id < size_) body_(data_, id, size_);
      left_.add(1);
      left_.wake();
    }
  }

  bool come_in() {
    int32_t gate = gate_.load();
    while (gate & kOpen)
      if (gate_.compare_exchange_weak(gate, gate + kOneMore)) return true;
    return false;
  }

  // A child of fork has this memory and none of its threads.
  void forget_after_fork() {
    if (process_ == getpid()) return;
    process_ = getpid();
    if (workers_.empty()) return;
    new std::vector<std::thread>(std::move(workers_));  // never joined, nor destroyed: either would be the end
    workers_.clear();
    round_.reset();
    left_.reset();
  }

  static constexpr int kPatienceMicroseconds = 300;

  std::vector<std::thread> workers_;
  Count round_;
  alignas(64) std::atomic<int32_t> gate_{0};
  Count left_;
  Body body_ = nullptr;
  void* data_ = nullptr;
  int size_ = 0;
  std::atomic<bool> stopping_{false};
  pid_t process_ = getpid();
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
