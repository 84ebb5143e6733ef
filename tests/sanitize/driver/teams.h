// The thread team itself: of changing size, of several callers at once, asleep, ended, and in a child of fork.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "forward_cases.h"

namespace sanitize {

constexpr unsigned kChildSeconds = 60;
constexpr useconds_t kUntilWorkersSleep = 2000;  // microseconds; team.h's patience is 300

inline void expect_same(const Step& step, int threads, const Outcome& expected, const char* when) {
  if (step.run(threads) != expected)
    fail(std::string("teams: ") + std::to_string(threads) + " threads come to something else " + when);
}

// Workers of a large team come to the calls of a smaller one, and go.
inline void check_changing_sizes(const Step& step, const Outcome& expected, int times) {
  with_own_team([&] {
    for (int i = 0; i < times; ++i) {
      for (int threads : {2, 5, 3, 1, 4, 2}) expect_same(step, threads, expected, "as the team changes its size");
      if (i % 4 == 0) usleep(kUntilWorkersSleep);
    }
  });
}

inline void check_callers_at_once(const Step& step, const Outcome& expected, const std::vector<int>& threads,
                                  int times) {
  std::vector<std::thread> callers;
  for (int count : threads)
    for (int twice = 0; twice < 2; ++twice)
      callers.emplace_back([&, count] {
        for (int i = 0; i < times; ++i) expect_same(step, count, expected, "beside other callers");
      });
  for (std::thread& caller : callers) caller.join();
}

// Of this process; 0 where the system does not show them.
inline int64_t threads_there_are() {
  const std::filesystem::path tasks = "/proc/self/task";
  if (!std::filesystem::exists(tasks)) return 0;
  return std::distance(std::filesystem::directory_iterator(tasks), std::filesystem::directory_iterator());
}

// A child has the memory of a team and none of its threads: it makes new ones, or its calling thread does all the work.
inline void check_child(const Step& step, const Outcome& expected, int threads) {
  alarm(kChildSeconds);  // who waits for threads that are not there waits for ever
  const int64_t before = threads_there_are();
  expect_same(step, threads, expected, "in a child");
  if (before && threads_there_are() != before + threads - 1) fail("teams: a child of fork has not as many threads");
  for (int more : {threads, threads + 1, threads}) expect_same(step, more, expected, "in a child, again");
}

inline void check_fork(const Step& step, const Outcome& expected, int threads) {
  expect_same(step, threads, expected, "before a fork");
  for (bool asleep : {false, true}) {
    if (asleep) usleep(kUntilWorkersSleep);
    const pid_t child = fork();
    if (child < 0) fail("teams: no child");
    if (child == 0) {
      check_child(step, expected, threads);
      _exit(0);
    }
    int status = 0;
    if (waitpid(child, &status, 0) != child || status != 0)
      fail("teams: a child of fork ended with status " + std::to_string(status));
    expect_same(step, threads, expected, "after a fork");
  }
}

inline void check_teams(const std::vector<int>& threads, bool quick) {
  const Step step(shapes()[1], adapter_kinds(), {{1, 40}, {9, 9}});
  const Outcome expected = step.run(1);
  const int times = quick ? 5 : 30;
  check_changing_sizes(step, expected, times);
  check_callers_at_once(step, expected, threads, times);
  for (int count : threads) check_fork(step, expected, count);
}

}  // namespace sanitize
