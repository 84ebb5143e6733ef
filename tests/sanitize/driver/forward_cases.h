// `forward` over shapes, batches and adapters: the same bits on one thread and on several.
#pragma once

#include <thread>

#include "step.h"

namespace sanitize {

inline const std::vector<Shape>& shapes() {
  static const std::vector<Shape> shapes = {
      // name, hidden, gated, heads, kv_heads, key_dim, value_dim, rotary, layers, window, softcap,
      // biases, head_norms, after_norms
      {"plain", 64, 96, 4, 2, 16, 16, 16, 2, 0, 0, false, false, false},
      {"odd", 33, 50, 3, 1, 7, 5, 6, 3, 5, 2, true, true, true},
      {"half turned", 100, 77, 6, 2, 20, 20, 10, 2, 530, 0, true, false, false},
      {"wide heads", 72, 130, 9, 3, 64, 72, 64, 1, 0, 0, false, true, true},
  };
  return shapes;
}

inline const std::vector<AdapterKind>& adapter_kinds() {
  static const std::vector<AdapterKind> kinds = {
      // rank, uneven, modules, multipliers, biases, norms
      {16, false, kEvery, false, false, false},
      {1, false, kQ + kV, false, false, true},
      {3, true, kEvery, true, true, false},
      {17, false, kK + kO + kUp, true, false, false},
      {0, false, kQ + kGate + kDown, false, true, true},
  };
  return kinds;
}

inline const std::vector<std::vector<Sequence>>& batches() {
  static const std::vector<std::vector<Sequence>> batches = {
      {{1, 1}},
      {{1, 700}},
      {{1, 5}, {1, 33}, {1, 600}, {1, 17}, {1, 16}, {1, 1}, {1, 129}, {1, 64}, {1, 1030}},
      {{1, 90}, {40, 40}, {1, 1300}, {7, 130}, {151, 700}},
  };
  return batches;
}

// Everything at once, in little time.
inline const std::vector<Sequence>& small_batch() {
  static const std::vector<Sequence> batch = {{1, 33}, {5, 5}, {1, 530}, {137, 560}};
  return batch;
}

struct ForwardCase {
  std::string name;
  std::unique_ptr<Step> step;
  Outcome expected;
};

// A caller that has never called before: its team is of exactly so many threads.
template <class Work>
void with_own_team(Work&& work) {
  std::thread(work).join();
}

inline void check_forward(const std::vector<int>& threads, bool quick) {
  std::vector<ForwardCase> cases;
  for (const Shape& shape : shapes())
    for (const auto& batch : quick ? std::vector<std::vector<Sequence>>{small_batch()} : batches()) {
      auto step = std::make_unique<Step>(shape, adapter_kinds(), batch);
      Outcome expected = step->run(1);
      cases.push_back({std::string(shape.name) + ", " + std::to_string(batch.size()) + " sequences", std::move(step),
                       std::move(expected)});
    }
  for (int count : threads)
    with_own_team([&] {
      for (const ForwardCase& one : cases)
        if (one.step->run(count) != one.expected)
          fail("forward: " + one.name + ": 1 and " + std::to_string(count) + " threads differ");
    });
}

}  // namespace sanitize
