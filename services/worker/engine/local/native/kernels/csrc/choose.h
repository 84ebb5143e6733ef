// From logits to tokens, as sampling.proto orders it: sampler.py says the same in torch.
//
// The vocabulary is never sorted. Where top-k and top-p end is found by a histogram of how far logits lie below the
// largest: only the bin that the end falls into is brought into order.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "rowwise.h"

namespace lm {

constexpr int64_t kBlockOfLogits = 64;
constexpr int64_t kBlockOfWeights = 1024;
// Bits of a float of the distance below the largest that tell bins apart: its exponent and the first five after it.
constexpr int kBinShift = 18;
constexpr int64_t kBins = int64_t{1} << (31 - kBinShift);
// What lies further below the largest is looked at only where all above it did not reach top-p: e^-16 is 1e-7.
constexpr float kNear = 16.0f;
constexpr float kLargestLogit = 1e30f;  // neither temperature nor penalties may push one to infinity

struct Candidate {
  float logit;
  int32_t token;
};

// The likelier first; of equals the first.
inline bool before(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
}

// What one thread works with.
struct ChooseRoom {
  float* logits;          // [n]
  float* weights;         // [n], e^(logit - largest)
  float* block;           // [n / kBlockOfLogits], the largest logit of each
  double* sums;           // [n / kBlockOfWeights], of weights
  double* bin_weight;     // [kBins]
  int32_t* bin_count;     // [kBins]
  Candidate* candidates;  // [n]
};

inline float clamped(float value) { return std::min(std::max(value, -kLargestLogit), kLargestLogit); }

// The largest logit of each block, and of all.
inline float largest_of_blocks(const float* logits, int64_t n, float* block) {
  float largest = -std::numeric_limits<float>::infinity();
  for (int64_t from = 0; from < n; from += kBlockOfLogits) {
    const int64_t to = std::min(from + kBlockOfLogits, n);
    Vec best = splat(-std::numeric_limits<float>::infinity());
    int64_t i = from;
    for (; i + kLanes <= to; i += kLanes) best = maximum(load(logits + i), best);
    float most = highest(best);
    for (; i < to; ++i) most = std::max(most, logits[i]);
    block[from / kBlockOfLogits] = most;
    largest = std::max(largest, most);
  }
  return largest;
}

// Sum of e^(x - largest), each block of weights in double; the weights go to `to` where there is one.
template <class T>
inline double sum_of_weights(const T* x, int64_t n, float largest, double* sums, float* to) {
  const Vec nothing = splat(-87.0f);
  double total = 0;
  for (int64_t from = 0; from < n; from += kBlockOfWeights) {
    const int64_t end = std::min(from + kBlockOfWeights, n);
    Vec part{};
    for (int64_t i = from; i < end; i += kLanes) {
      Vec below = load_part(x + i, end - i) - splat(largest);
      if (end - i < kLanes)
        for (int64_t lane = end - i; lane < kLanes; ++lane) below[lane] = -100.0f;
      Vec weight = below < nothing ? Vec{} : exponential(below);
      if (to) store_part(to + i, weight, end - i);
      part += weight;
    }
    const double here = sum(part);
    if (sums) sums[from / kBlockOfWeights] = here;
    total += here;
  }
  return total;
}

// The token at which the running sum of all weights passes `target`.
inline int64_t invert(const float* weights, int64_t n, const double* sums, double target) {
  const int64_t blocks = ceil_div(n, kBlockOfWeights);
  double before = 0;
  int64_t b = 0, last = 0;
  for (int64_t i = 0; i < blocks; ++i)
    if (sums[i] > 0) last = i;
  while (b < last && before + sums[b] <= target) before += sums[b++];
  const int64_t to = std::min((b + 1) * kBlockOfWeights, n);
  int64_t token = -1;
  for (int64_t i = b * kBlockOfWeights; i < to; ++i) {
    if (weights[i] <= 0) continue;
    token = i;  // rounding may leave the target just beyond: the last with any weight is meant then
    before += weights[i];
    if (before > target) break;
  }
  return token;
}

// A row's weights, and what of them lies in reach.
struct Weighted {
  const ChooseRoom& room;
  int64_t n;
  float largest;
  float least;  // logits below it are passed over

  int64_t bin_of(float logit) const {
    const float below = largest - logit;
    uint32_t bits;
    std::memcpy(&bits, &below, 4);
    return bits >> kBinShift;
  }

  // each(logit, token) for all in reach, in order of tokens; stops where it returns true.
  template <class Each>
  void visit(float from, Each&& each) const {
    for (int64_t begin = 0; begin < n; begin += kBlockOfLogits) {
      if (room.block[begin / kBlockOfLogits] < from) continue;
      const int64_t end = std::min(begin + kBlockOfLogits, n);
      for (int64_t i = begin; i < end; ++i)
        if (room.logits[i] >= from && each(room.logits[i], static_cast<int32_t>(i))) return;
    }
  }

  void fill_bins() const {
    std::fill(room.bin_weight, room.bin_weight + kBins, 0.0);
    std::fill(room.bin_count, room.bin_count + kBins, 0);
    visit(least, [&](float logit, int32_t token) {
      const int64_t bin = bin_of(logit);
      room.bin_weight[bin] += room.weights[token];
      ++room.bin_count[bin];
      return false;
    });
  }

  // The candidate at which so many, or so much weight, are reached, the likelier first; below all logits where the reach
  // ends before.
  Candidate end(int64_t count, double weight) const {
    int64_t seen = 0;
    double sum = 0;
    for (int64_t bin = 0; bin < kBins; ++bin) {
      if (room.bin_count[bin] == 0) continue;
      if (seen + room.bin_count[bin] < count && sum + room.bin_weight[bin] < weight) {
        seen += room.bin_count[bin];
        sum += room.bin_weight[bin];
        continue;
      }
      int64_t here = 0;
      visit(least, [&](float logit, int32_t token) {
        if (bin_of(logit) == bin) room.candidates[here++] = {logit, token};
        return here == room.bin_count[bin];
      });
      std::sort(room.candidates, room.candidates + here, before);
      for (int64_t i = 0; i < here; ++i) {
        sum += room.weights[room.candidates[i].token];
        if (++seen >= count || sum >= weight) return room.candidates[i];
      }
    }
    return {-std::numeric_limits<float>::infinity(), std::numeric_limits<int32_t>::max()};
  }

  // each(weight, token) for all down to `last` whose weight is not below `floor`.
  template <class Each>
  void visit_kept(const Candidate& last, double floor, Each&& each) const {
    visit(std::max(last.logit, least), [&](float logit, int32_t token) {
      if (before(last, {logit, token}) || room.weights[token] < floor) return false;
      return each(room.weights[token], token);
    });
  }

  double sum_kept(const Candidate& last, double floor) const {
    double sum = 0;
    visit_kept(last, floor, [&](float weight, int32_t) {
      sum += weight;
      return false;
    });
    return sum;
  }
};

// A logit that the first k are not below: of so many blocks the largest are so many.
inline float below_the_first(int64_t k, int64_t n, const ChooseRoom& room) {
  const int64_t blocks = ceil_div(n, kBlockOfLogits);
  if (k > blocks) return -std::numeric_limits<float>::infinity();
  float* largest = reinterpret_cast<float*>(room.candidates);
  std::copy(room.block, room.block + blocks, largest);
  std::nth_element(largest, largest + k - 1, largest + blocks, std::greater<float>());
  return largest[k - 1];
}

// A token of those that top-k, top-p and min-p keep.
inline int64_t choose_kept(const LmChooseRow& row, int64_t n, float largest, const ChooseRoom& room) {
  const float all = -std::numeric_limits<float>::infinity();
  const Candidate none{all, std::numeric_limits<int32_t>::max()};
  const double total = sum_of_weights(room.logits, n, largest, nullptr, room.weights);
  // What min-p does not keep counts in what top-p is a part of, and nowhere else.
  const float floor =
      row.min_p > 0 && !row.top_k ? largest + static_cast<float>(std::log(row.min_p)) - 1e-3f : all;
  const float near = row.top_p < 1 ? std::max(floor, largest - kNear) : floor;
  Weighted reach{room, n, largest, row.top_k ? below_the_first(row.top_k, n, room) : near};
  Candidate last = none;
  if (row.top_k || row.top_p < 1) {
    reach.fill_bins();
    double whole = total;
    if (row.top_k) {
      last = reach.end(row.top_k, std::numeric_limits<double>::infinity());
      whole = reach.sum_kept(last, 0);
    }
    if (row.top_p < 1) {
      Candidate reached = reach.end(row.top_k ? row.top_k : n, row.top_p * whole);
      if (reached.token == none.token && !row.top_k && reach.least > floor) {
        reach.least = floor;
        reach.fill_bins();
        reached = reach.end(n, row.top_p * whole);
      }
      last = reached;
    }
  }
  const double target = row.draw * reach.sum_kept(last, row.min_p);
  double running = 0;
  int64_t token = -1;
  reach.visit_kept(last, row.min_p, [&](float weight, int32_t one) {
    if (weight > 0 || token < 0) token = one;  // rounding may leave the target just beyond the last with any weight
    running += weight;
    return running > target;
  });
  return token;
}

inline void reweight(const LmChooseRow& row, float* logits) {
  const float repetition = static_cast<float>(row.repetition);
  for (int64_t i = 0; i < row.seen; ++i) {
    float& logit = logits[row.seen_token[i]];
    if (repetition != 1.0f) logit = clamped(logit > 0 ? logit / repetition : logit * repetition);
    if (row.seen_count[i])
      logit -= static_cast<float>(row.presence + row.frequency * static_cast<double>(row.seen_count[i]));
  }
  for (int64_t i = 0; i < row.biased; ++i) logits[row.biased_token[i]] += row.bias[i];
}

template <class T>
int64_t choose_token(const LmChooseRow& row, const T* x, int64_t n, int64_t likeliest, const ChooseRoom& room) {
  const bool reweighted = row.seen > 0 || row.biased > 0;
  if (row.greedy && !reweighted) return likeliest;
  const Vec temperature = splat(row.greedy ? 1.0f : static_cast<float>(row.temperature));
  const Vec most = splat(kLargestLogit);
  for (int64_t i = 0; i < n; i += kLanes) {
    Vec logit = load_part(x + i, n - i);
    if (!row.greedy) {
      logit = logit / temperature;
      logit = logit > most ? most : logit;
      logit = logit < -most ? -most : logit;
    }
    store_part(room.logits + i, logit, n - i);
  }
  if (reweighted) reweight(row, room.logits);
  if (row.greedy) return best_of(room.logits, 0, n).index;
  const float largest = largest_of_blocks(room.logits, n, room.block);
  if (row.top_k || row.top_p < 1 || row.min_p > 0) return choose_kept(row, n, largest, room);
  const double total = sum_of_weights(room.logits, n, largest, room.sums, room.weights);
  return invert(room.weights, n, room.sums, row.draw * total);
}

// Of the model's own distribution: the token's log probability, and the likeliest tokens with theirs.
template <class T>
void log_probabilities(const LmChoose& job, int64_t r, const T* x, float largest, int64_t token, const ChooseRoom& room) {
  const int64_t n = job.n, most = std::min(job.row[r].logprobs, n);
  const float all = largest + static_cast<float>(std::log(sum_of_weights(x, n, largest, nullptr, nullptr)));
  job.logprob[r] = to_float(x[token]) - all;
  if (most == 0) return;
  for (int64_t i = 0; i < n; i += kLanes) store_part(room.logits + i, load_part(x + i, n - i), n - i);
  largest_of_blocks(room.logits, n, room.block);
  Candidate* best = room.candidates;
  int64_t count = 0;
  for (int64_t from = 0; from < n; from += kBlockOfLogits) {
    if (count == most && room.block[from / kBlockOfLogits] <= best[most - 1].logit) continue;
    for (int64_t i = from; i < std::min(from + kBlockOfLogits, n); ++i) {
      const Candidate one{room.logits[i], static_cast<int32_t>(i)};
      if (count == most && !before(one, best[most - 1])) continue;
      int64_t place = count < most ? count++ : most - 1;
      for (; place > 0 && before(one, best[place - 1]); --place) best[place] = best[place - 1];
      best[place] = one;
    }
  }
  for (int64_t i = 0; i < most; ++i) {
    job.top_token[r * job.top_stride + i] = best[i].token;
    job.top_logprob[r * job.top_stride + i] = best[i].logit - all;
  }
}

template <class Mode>
void choose(const LmChoose& job) {
  using T = typename Mode::Weight;
  Scratch& scratch = Scratch::fresh();
  const int64_t room = operand_stride(job.n);
  const int64_t blocks = ceil_div(job.n, kBlockOfLogits), parts = ceil_div(job.n, kBlockOfWeights);
  const ChooseRoom rooms{scratch.take<float>(job.threads * room),   scratch.take<float>(job.threads * room),
                         scratch.take<float>(job.threads * blocks), scratch.take<double>(job.threads * parts),
                         scratch.take<double>(job.threads * kBins), scratch.take<int32_t>(job.threads * kBins),
                         scratch.take<Candidate>(job.threads * job.n)};
  run_team(job.threads, [&](Member& member) {
    const int64_t id = member.id();
    const ChooseRoom mine{rooms.logits + id * room,      rooms.weights + id * room,    rooms.block + id * blocks,
                          rooms.sums + id * parts,       rooms.bin_weight + id * kBins, rooms.bin_count + id * kBins,
                          rooms.candidates + id * job.n};
    member.each(job.rows, [&](int64_t r) {
      const T* x = static_cast<const T*>(job.x) + r * job.x_stride;
      const Best best = best_of(x, 0, job.n);
      // Not a number, or an infinity: the model's own numbers, whatever is asked of them.
      if (best.index < 0 || !std::isfinite(best.value)) {
        job.token[r] = -1;
        return;
      }
      job.token[r] = choose_token(job.row[r], x, job.n, best.index, mine);
      if (job.row[r].logprobs >= 0) log_probabilities(job, r, x, best.value, job.token[r], mine);
    });
  });
}

}  // namespace lm
