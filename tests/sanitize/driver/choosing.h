// `choose` over vocabularies of odd sizes and every kind of sampling: the same tokens on one thread and on several, and
// tokens that can be.
#pragma once

#include <cmath>
#include <limits>
#include <thread>

#include "library.h"

namespace sanitize {

// Settings of rows.
inline std::vector<LmChooseRow> samplings(int64_t n) {
  std::vector<LmChooseRow> made;
  auto add = [&](double temperature, int64_t top_k, double top_p, double min_p, int64_t logprobs) {
    LmChooseRow row{};
    row.greedy = temperature == 0;
    row.temperature = temperature;
    row.top_k = top_k;
    row.top_p = top_p;
    row.min_p = min_p;
    row.repetition = 1;
    row.logprobs = logprobs;
    made.push_back(row);
  };
  add(0, 0, 1, 0, -1);
  add(0, 0, 1, 0, 5);
  add(1, 0, 1, 0, 0);
  add(0.01, 0, 1, 0, -1);
  add(1, 1, 1, 0, 1);
  add(0.7, 5, 1, 0, n + 3);
  add(1, n + 3, 1, 0, -1);
  add(1, n, 0.5, 0, -1);
  add(1, 0, 0.9, 0, n);
  add(2, 0, 0.999999, 0, -1);
  add(1, 0, 1e-9, 0, -1);
  add(1, 0, 1, 0.05, 0);
  add(100, 0, 1, 1, -1);
  add(1, 7, 0.9, 0.05, 20);
  add(1, 0, 0.95, 1e-8, n);  // the last row fills all that there is room for
  return made;
}

// The same with penalties and biases, where there are tokens to put them on.
inline LmChooseRow reweighted(Memory& memory, Random& dice, LmChooseRow row, int64_t n) {
  std::vector<int32_t> tokens, counts;
  std::vector<float> bias;
  for (int64_t i = 0; i < std::min<int64_t>(n, 9); ++i) {
    tokens.push_back(static_cast<int32_t>(i == 0 ? n - 1 : dice.below(n)));
    counts.push_back(static_cast<int32_t>(dice.below(4)));
    bias.push_back(dice.number(100));
  }
  row.repetition = 1.3;
  row.presence = 0.5;
  row.frequency = -0.2;
  row.seen = row.biased = static_cast<int64_t>(tokens.size());
  row.seen_token = memory.copy("seen token", tokens);
  row.seen_count = memory.copy("seen count", counts);
  row.biased_token = memory.copy("biased token", tokens);
  row.bias = memory.copy("token bias", bias);
  return row;
}

class Choice {
 public:
  // `gap`: numbers between the rows of logits.
  Choice(int64_t n, int64_t gap) : dice_(11), n_(n), stride_(n + gap) {
    std::vector<LmChooseRow> rows;
    for (double draw : {0.4, 0.0, 0.999999999})
      for (LmChooseRow row : samplings(n)) {
        row.draw = draw;
        rows.push_back(draw == 0.4 ? row : reweighted(memory_, dice_, row, n));
      }
    const int64_t count = static_cast<int64_t>(rows.size());
    x_ = memory_.random<Weight>("logits", (count - 1) * stride_ + n, 8, dice_);
    const float none = std::numeric_limits<float>::quiet_NaN(), infinite = std::numeric_limits<float>::infinity();
    for (int64_t r = 0; r < count; ++r) {
      const int64_t kind = r % 11, place = dice_.below(n);
      if (kind == 3) lm::put(x_ + r * stride_ + place, none);
      if (kind == 5) lm::put(x_ + r * stride_ + place, infinite);
      if (kind == 7 && n > 1) lm::put(x_ + r * stride_ + place, -infinite);
      if (kind == 9) std::fill_n(x_ + r * stride_, r + 1 < count ? n : 0, x_[r * stride_]);  // all alike
      broken_.push_back(kind == 3 || kind == 5);
      most_ = std::max(most_, std::min(rows[static_cast<size_t>(r)].logprobs, n));
    }
    rows_ = memory_.copy("rows", rows);
  }

  Outcome run(int threads) const {
    const int64_t count = memory_.count(rows_);
    Memory memory;
    LmChoose job{};
    job.x = x_;
    job.x_stride = stride_;
    job.n = n_;
    job.rows = static_cast<int64_t>(broken_.size());
    job.row = rows_;
    job.token = memory.empty<int64_t>("token", job.rows);
    job.logprob = memory.zeros<float>("logprob", job.rows);
    job.top_token = memory.zeros<int64_t>("top token", job.rows * most_);
    job.top_logprob = memory.zeros<float>("top logprob", job.rows * most_);
    job.top_stride = most_;
    job.threads = threads;
    call(LM_NAME(choose), job);
    for (int64_t r = 0; r < count; ++r) check(job, r);
    Outcome outcome;
    for (const void* result : {static_cast<const void*>(job.token), static_cast<const void*>(job.logprob),
                               static_cast<const void*>(job.top_token), static_cast<const void*>(job.top_logprob)})
      outcome.add(memory, result);
    return outcome;
  }

 private:
  // Whether this can be at all; tests/unit/kernels say whether it is right.
  void check(const LmChoose& job, int64_t r) const {
    const LmChooseRow& row = rows_[r];
    const int64_t token = job.token[r];
    auto expect = [&](bool holds, const char* what) {
      if (!holds) fail("choose: row " + std::to_string(r) + " of " + std::to_string(n_) + " logits: " + what);
    };
    auto logit = [&](int64_t i) { return lm::to_float(x_[r * stride_ + i]); };
    if (broken_[static_cast<size_t>(r)]) return expect(token == -1, "a token of what is not finite");
    expect(token >= 0 && token < n_, "no token of the vocabulary");
    const bool likeliest = row.greedy || row.top_k == 1 || row.top_p < 1e-6 || row.min_p == 1;
    if (likeliest && !row.seen)
      for (int64_t i = 0; i < n_; ++i) expect(logit(i) <= logit(token), "not the likeliest token");
    if (row.logprobs < 0) return;
    expect(job.logprob[r] <= 1e-3f, "no log probability");
    expect(std::isfinite(job.logprob[r]) || std::isinf(logit(token)), "an infinite one of a finite logit");
    const int64_t* top_token = job.top_token + r * job.top_stride;
    for (int64_t i = 0; i < std::min(row.logprobs, n_); ++i) {
      expect(top_token[i] >= 0 && top_token[i] < n_, "no alternative of the vocabulary");
      if (i == 0) continue;
      const float before = logit(top_token[i - 1]), here = logit(top_token[i]);
      expect(before > here || (before == here && top_token[i - 1] < top_token[i]), "alternatives out of order");
    }
  }

  Memory memory_;
  Random dice_;
  int64_t n_;
  int64_t stride_;  // from row to row
  int64_t most_ = 0;  // alternatives that any row asks for
  Weight* x_;
  const LmChooseRow* rows_;
  std::vector<bool> broken_;  // rows that are not finite
};

inline void check_choose(const std::vector<int>& threads, bool quick) {
  for (int64_t n : quick ? std::vector<int64_t>{1, 97} : std::vector<int64_t>{1, 7, 64, 65, 1000, 1025, 4099}) {
    const Choice choice(n, n % 4);
    const Outcome expected = choice.run(1);
    for (int count : threads)
      if (choice.run(count) != expected)
        fail("choose: " + std::to_string(n) + " logits: 1 and " + std::to_string(count) + " threads differ");
  }
}

}  // namespace sanitize
