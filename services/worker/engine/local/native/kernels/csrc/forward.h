// A whole step through all layers in one call: between the kernels nobody waits for the interpreter.
#pragma once

#include "attention.h"
#include "linear.h"
#include "rowwise.h"

namespace lm {

// The norms of a layer by rows: an adapter's own where it brings them, the base's for everybody else.
class RowNorms {
 public:
  using Which = const float* LmLayerNorms::*;

  RowNorms(const LmForward& step, int64_t layer) : runs_(step.run), end_(step.run + step.run_count), layer_(layer) {
    any_ = std::any_of(runs_, end_, [](const LmRun& run) { return run.norms != nullptr; });
  }

  const float* of(int64_t row, Which which, const float* base) const {
    const float* own = any_ ? own_of(row, which) : nullptr;
    return own ? own : base;
  }

 private:
  const float* own_of(int64_t row, Which which) const {
    const LmRun* after = std::upper_bound(runs_, end_, row, [](int64_t one, const LmRun& run) { return one < run.row; });
    if (after == runs_) return nullptr;
    const LmRun& run = after[-1];
    return run.norms && row < run.row + run.rows ? run.norms[layer_].*which : nullptr;
  }

  const LmRun* runs_;
  const LmRun* end_;
  int64_t layer_;
  bool any_;
};

template <class Mode>
void forward_linear(const LmForward& step, LmLinear job, const void* x, int64_t x_width, void* y, int64_t y_width) {
  job.x = x;
  job.x_stride = x_width;
  job.y = y;
  job.y_stride = y_width;
  job.rows = step.rows;
  job.runs.run = step.run;
  job.runs.count = step.run_count;
  job.runs.width = step.run_width;
  job.threads = step.threads;
  linear<Mode>(job);
}

// Adds x to the residual, where there is an x, and norms that.
template <class Mode>
void forward_norm(const LmForward& step, LmNorm job, const RowNorms& norms, RowNorms::Which which, const void* x) {
  job.x = x ? x : step.residual;
  job.residual = x ? step.residual : nullptr;
  job.y = step.normed;
  job.x_stride = job.residual_stride = job.y_stride = step.hidden;
  job.rows = step.rows;
  job.threads = step.threads;
  norm_by<Mode>(job, [&](int64_t row) { return norms.of(row, which, job.weight); });
}

// Norms what is about to be added, where a layer does that.
template <class Mode>
void forward_norm_added(const LmForward& step, LmNorm job, const RowNorms& norms, RowNorms::Which which) {
  if (!job.weight) return;
  job.x = job.y = step.added;
  job.x_stride = job.y_stride = step.hidden;
  job.rows = step.rows;
  job.threads = step.threads;
  norm_by<Mode>(job, [&](int64_t row) { return norms.of(row, which, job.weight); });
}

// Queries, keys and values lie side by side in each row of qkv.
template <class Mode>
void forward_attention(const LmForward& step, const LmTurns& turns, LmRope rope_job, LmAttention job,
                       const RowNorms& norms, const AttentionPlan& plan) {
  using Weight = typename Mode::Weight;
  const LmCache& cache = job.cache;
  Weight* q = static_cast<Weight*>(step.qkv);
  const Weight* k = q + job.heads * cache.key_dim;
  rope_job.q = q;
  rope_job.k = k;
  rope_job.v = k + cache.kv_heads * cache.key_dim;
  rope_job.q_stride = rope_job.k_stride = rope_job.v_stride = step.qkv_width;
  rope_job.q_head = rope_job.k_head = cache.key_dim;
  rope_job.v_head = cache.value_dim;
  rope_job.cos = turns.cos;
  rope_job.sin = turns.sin;
  rope_job.slots = step.slots;
  rope_job.rows = step.rows;
  rope_job.threads = step.threads;
  rope_by<Mode>(rope_job, [&](int64_t row) {
    return HeadNorms{norms.of(row, &LmLayerNorms::q_norm, rope_job.q_norm),
                     norms.of(row, &LmLayerNorms::k_norm, rope_job.k_norm)};
  });
  job.sequences = step.sequences;
  job.q = q;
  job.q_stride = step.qkv_width;
  job.q_head = cache.key_dim;
  job.out = step.attended;
  job.out_stride = step.attended_width;
  job.threads = step.threads;
  attention<Mode>(job, plan);
}

// Layers are of one shape, so one plan serves the attention of all.
inline AttentionPlan plan_step(const LmForward& step) {
  LmAttention job = step.layers[0].attention;
  job.sequences = step.sequences;
  job.threads = step.threads;
  return plan_of(Scratch::fresh_for_plans(), job);
}

template <class Mode>
void forward(const LmForward& step) {
  const AttentionPlan plan = plan_step(step);
  const void* added = nullptr;
  for (int64_t i = 0; i < step.count; ++i) {
    const LmLayer& layer = step.layers[i];
    const RowNorms norms(step, i);
    forward_norm<Mode>(step, layer.input_norm, norms, &LmLayerNorms::input_norm, added);
    forward_linear<Mode>(step, layer.qkv, step.normed, step.hidden, step.qkv, step.qkv_width);
    forward_attention<Mode>(step, step.turns[layer.turns], layer.rope, layer.attention, norms, plan);
    forward_linear<Mode>(step, layer.output, step.attended, step.attended_width, step.added, step.hidden);
    forward_norm_added<Mode>(step, layer.after_attention, norms, &LmLayerNorms::after_attention);
    forward_norm<Mode>(step, layer.mlp_norm, norms, &LmLayerNorms::mlp_norm, step.added);
    forward_linear<Mode>(step, layer.gate_up, step.normed, step.hidden, step.gated, step.gated_width);
    forward_linear<Mode>(step, layer.down, step.gated, step.gated_width, step.added, step.hidden);
    forward_norm_added<Mode>(step, layer.after_mlp, norms, &LmLayerNorms::after_mlp);
    added = step.added;
  }
  forward_norm<Mode>(step, step.last_norm, RowNorms(step, step.count), &LmLayerNorms::input_norm, added);
}

}  // namespace lm
