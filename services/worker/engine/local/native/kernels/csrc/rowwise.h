// What works on one row at a time: RMSNorm, the likeliest token.
#pragma once

#include <algorithm>
#include <cmath>

#include "linear.h"
#include "scratch.h"

namespace lm {

// y = x / rms(x) * weight; with a residual, x becomes the sum of both first, rounded as the residual is stored.
template <class X, class R, class Y>
inline void norm_row(const X* x, R* residual, Y* y, const float* weight, float eps, int64_t n, float* row) {
  Vec squares{};
  for (int64_t i = 0; i < n; i += kLanes) {
    Vec value = load_part(x + i, n - i);
    if (residual) {
      store_part(residual + i, load_part(residual + i, n - i) + value, n - i);
      value = load_part(residual + i, n - i);
    }
    store(row + i, value);
    squares += value * value;
  }
  Vec factor = splat(1.0f / std::sqrt(sum(squares) / static_cast<float>(n) + eps));
  for (int64_t i = 0; i < n; i += kLanes)
    store_part(y + i, load(row + i) * factor * load_part(weight + i, n - i), n - i);
}

// Norms each row by the weights weight_of(row).
template <class Mode, class WeightOf>
void norm_by(const LmNorm& job, const WeightOf& weight_of) {
  using T = typename Mode::Weight;
  int64_t room = operand_stride(job.n);
  float* rooms = Scratch::fresh().take<float>(job.threads * room);
  run_team(job.threads, [&](Member& member) {
    member.each(job.rows, [&](int64_t row) {
      T* residual = job.residual ? static_cast<T*>(job.residual) + row * job.residual_stride : nullptr;
      norm_row(static_cast<const T*>(job.x) + row * job.x_stride, residual,
               static_cast<T*>(job.y) + row * job.y_stride, weight_of(row), static_cast<float>(job.eps), job.n,
               rooms + member.id() * room);
    });
  });
}

template <class Mode>
void norm(const LmNorm& job) {
  norm_by<Mode>(job, [&](int64_t) { return job.weight; });
}

struct Best {
  float value;
  int64_t index;  // the first of several; -1: there is a NaN
};

template <class T>
inline Best best_of(const T* x, int64_t from, int64_t to) {
  Vec best = splat(-std::numeric_limits<float>::infinity());
  VecI where{}, bad{};
  VecI at;
  for (int i = 0; i < kLanes; ++i) at[i] = static_cast<int32_t>(from) + i;
  int64_t i = from;
  for (; i + kLanes <= to; i += kLanes) {
    Vec value = load(x + i);
    bad |= reinterpret_cast<VecI>(value != value);
    VecI better = reinterpret_cast<VecI>(value > best);
    best = better ? value : best;
    where = (at & better) | (where & ~better);
    at += kLanes;
  }
  Best result{-std::numeric_limits<float>::infinity(), from};
  bool nan = false;
  for (int lane = 0; lane < kLanes && i > from; ++lane) {
    nan |= bad[lane] != 0;
    if (best[lane] > result.value || (best[lane] == result.value && where[lane] < result.index && where[lane] >= from))
      result = {best[lane], where[lane]};
  }
  for (; i < to; ++i) {
    float value = to_float(x[i]);
    nan |= value != value;
    if (value > result.value) result = {value, i};
  }
  if (nan) result.index = -1;
  return result;
}

}  // namespace lm
