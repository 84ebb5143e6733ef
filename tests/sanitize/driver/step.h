// A step through all layers, that can be run again and again and must come to the same bits.
#pragma once

#include <cmath>

#include "adapters.h"
#include "batch.h"

namespace sanitize {

class Step {
 public:
  Step(const Shape& shape, const std::vector<AdapterKind>& kinds, const std::vector<Sequence>& sequences)
      : dice_(7), model_(memory_, dice_, shape), batch_(memory_, dice_, sequences) {
    const int64_t rows = batch_.rows();
    std::vector<Adapter> adapters;
    for (const AdapterKind& kind : kinds) {
      adapters.push_back(make_adapter(memory_, dice_, kind, model_));
      width_ = std::max(width_, adapters.back().width);
    }
    const std::vector<LmRun> runs = make_runs(dice_, adapters, rows);
    runs_ = memory_.copy("runs", runs);
    run_count_ = static_cast<int64_t>(runs.size());
    std::vector<LmTurns> turns;
    for (int64_t kind = 0; kind < std::min<int64_t>(shape.layers, 2); ++kind)
      turns.push_back({memory_.random<float>("cos", rows * (shape.rotary / 2), 1, dice_),
                       memory_.random<float>("sin", rows * (shape.rotary / 2), 1, dice_)});
    turns_ = memory_.copy("turns", turns);
    for (int64_t i = 0; i < rows * shape.hidden; ++i) embeddings_.push_back(dice_.number(1));
    past_k_ = memory_.random<Weight>("past k", batch_.past_rows() * shape.kv_heads * shape.key_dim, 1, dice_);
    past_v_ = memory_.random<Weight>("past v", batch_.past_rows() * shape.kv_heads * shape.value_dim, 1, dice_);
  }

  // On memory that is new each time and gone afterwards: who comes too late is seen.
  Outcome run(int threads) const {
    const Shape& shape = model_.shape();
    const int64_t rows = batch_.rows();
    Memory memory;
    std::vector<LmLayer> layers = model_.layers();
    for (LmLayer& layer : layers) {
      layer.rope.cache = layer.attention.cache = empty_cache(memory, shape, batch_.blocks());
      write_past(layer.rope.cache, threads);
    }
    Weight* residual = memory.empty<Weight>("residual", rows * shape.hidden);
    for (int64_t i = 0; i < memory.count(residual); ++i) lm::put(residual + i, embeddings_[static_cast<size_t>(i)]);
    Weight* normed = memory.empty<Weight>("normed", rows * shape.hidden);
    LmForward job{};
    job.layers = memory.copy("layers", layers);
    job.count = shape.layers;
    job.last_norm = model_.last_norm();
    job.rows = rows;
    job.residual = residual;
    job.hidden = shape.hidden;
    job.normed = normed;
    job.added = memory.empty<Weight>("added", rows * shape.hidden);
    job.qkv = memory.empty<Weight>("qkv", rows * shape.qkv_width());
    job.qkv_width = shape.qkv_width();
    job.attended = memory.empty<Weight>("attended", rows * shape.attended_width());
    job.attended_width = shape.attended_width();
    job.gated = memory.empty<Weight>("gated", rows * shape.gated);
    job.gated_width = shape.gated;
    job.turns = turns_;
    job.slots = batch_.slots();
    job.sequences = batch_.sequences();
    job.run = runs_;
    job.run_count = run_count_;
    job.run_width = width_;
    job.threads = threads;
    call(LM_NAME(forward), job);

    Outcome outcome;
    for (const Weight* result : {normed, residual}) {
      for (int64_t i = 0; i < memory.count(result); ++i)
        if (!std::isfinite(lm::to_float(result[i])))
          fail(std::string(shape.name) + ": number " + std::to_string(i) + " is not finite");
      outcome.add(memory, result);
    }
    for (const LmLayer& layer : layers) {
      outcome.add(memory, layer.rope.cache.keys);
      outcome.add(memory, layer.rope.cache.values);
    }
    return outcome;
  }

 private:
  // What steps before have left in the cache; attention.py's PackedCache.write.
  void write_past(const LmCache& cache, int threads) const {
    LmRope job{};
    job.cache = cache;
    job.k = past_k_;
    job.k_stride = cache.kv_heads * cache.key_dim;
    job.k_head = cache.key_dim;
    job.v = past_v_;
    job.v_stride = cache.kv_heads * cache.value_dim;
    job.v_head = cache.value_dim;
    job.slots = batch_.past_slots();
    job.rows = batch_.past_rows();
    job.threads = threads;
    call(LM_NAME(rope), job);
  }

  Memory memory_;
  Random dice_;
  Model model_;
  Batch batch_;
  const LmRun* runs_;
  int64_t run_count_;
  int64_t width_ = 0;
  const LmTurns* turns_;
  std::vector<float> embeddings_;
  const Weight* past_k_;
  const Weight* past_v_;
};

}  // namespace sanitize
