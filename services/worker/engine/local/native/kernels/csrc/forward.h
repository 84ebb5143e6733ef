// A whole step through all layers in one call: between the kernels nobody waits for the interpreter.
#pragma once

#include "attention.h"
#include "linear.h"
#include "rowwise.h"

namespace lm {

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
void forward_norm(const LmForward& step, LmNorm job, const void* x) {
  job.x = x ? x : step.residual;
  job.residual = x ? step.residual : nullptr;
  job.y = step.normed;
  job.x_stride = job.residual_stride = job.y_stride = step.hidden;
  job.rows = step.rows;
  job.threads = step.threads;
  norm<Mode>(job);
}

// Norms what is about to be added, where a layer does that.
template <class Mode>
void forward_own_norm(const LmForward& step, LmNorm job) {
  if (!job.weight) return;
  job.x = job.y = step.added;
  job.x_stride = job.y_stride = step.hidden;
  job.rows = step.rows;
  job.threads = step.threads;
  norm<Mode>(job);
}

// Queries, keys and values lie side by side in each row of qkv.
template <class Mode>
void forward_attention(const LmForward& step, const LmTurns& turns, LmRope rope_job, LmAttention job) {
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
  rope<Mode>(rope_job);
  job.sequences = step.sequences;
  job.q = q;
  job.q_stride = step.qkv_width;
  job.q_head = cache.key_dim;
  job.out = step.attended;
  job.out_stride = step.attended_width;
  job.threads = step.threads;
  attention<Mode>(job);
}

template <class Mode>
void forward(const LmForward& step) {
  const void* added = nullptr;
  for (int64_t i = 0; i < step.count; ++i) {
    const LmLayer& layer = step.layers[i];
    forward_norm<Mode>(step, layer.input_norm, added);
    forward_linear<Mode>(step, layer.qkv, step.normed, step.hidden, step.qkv, step.qkv_width);
    forward_attention<Mode>(step, step.turns[layer.turns], layer.rope, layer.attention);
    forward_linear<Mode>(step, layer.output, step.attended, step.attended_width, step.added, step.hidden);
    forward_own_norm<Mode>(step, layer.after_attention);
    forward_norm<Mode>(step, layer.mlp_norm, step.added);
    forward_linear<Mode>(step, layer.gate_up, step.normed, step.hidden, step.gated, step.gated_width);
    forward_linear<Mode>(step, layer.down, step.gated, step.gated_width, step.added, step.hidden);
    forward_own_norm<Mode>(step, layer.after_mlp);
    added = step.added;
  }
  forward_norm<Mode>(step, step.last_norm, added);
}

}  // namespace lm
