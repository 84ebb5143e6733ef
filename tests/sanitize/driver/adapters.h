// LoRA adapters of random weights, laid out as sites.py lays them out.
#pragma once

#include "model.h"

namespace sanitize {

struct AdapterKind {
  int64_t rank;  // 0: no matrices
  bool uneven;   // each projection of a site has a higher rank than the one before
  int modules;
  bool multipliers;
  bool biases;
  bool norms;  // in every layer, as many as the base has

  int64_t rank_of(int64_t projection) const { return rank && uneven ? rank + projection : rank; }
};

inline LmAdapterSite adapter_site(Memory& memory, Random& dice, const AdapterKind& kind, const LmSite& site,
                                  Module first) {
  auto has = [&](int64_t projection) { return (kind.modules & first << projection) != 0; };
  LmAdapterSite made{};
  for (int64_t i = 0; i < site.count; ++i)
    if (has(i)) {
      made.touched = 1;
      made.width += round_up(kind.rank_of(i), Mode::kStep);
    }
  made.width = round_up(made.width, lm::kLanes);
  Weight* a = made.width ? memory.zeros<Weight>("lora a", packed_size(made.width, site.k)) : nullptr;
  std::vector<float> scales(static_cast<size_t>(made.width));
  int64_t column = 0;
  for (int64_t i = 0; i < site.count; ++i) {
    if (!has(i)) continue;
    const int64_t n = site.segment[i].n, rank = kind.rank_of(i);
    LmAdapterPart& part = made.part[i];
    if (kind.multipliers) part.multiplier = memory.random<float>("lora multiplier", n, 1, dice);
    if (kind.biases) part.bias = memory.random<float>("lora bias", n, 1, dice);
    if (!rank) continue;
    pack_random(dice, rank, site.k, a, column);
    std::fill_n(scales.begin() + column, rank, 2.0f);
    part.b = packed_random(memory, "lora b", dice, n, rank);
    part.rank = rank;
    part.column = column;
    column += round_up(rank, Mode::kStep);
  }
  made.a = a;
  made.scales = made.width ? memory.copy("lora scales", scales) : nullptr;
  return made;
}

// An adapter's own norms of one layer, where the base has any.
inline LmLayerNorms layer_norms(Memory& memory, Random& dice, const Shape& shape) {
  auto norm = [&](const char* name, bool there, int64_t n) {
    return there ? memory.random<float>(name, n, 1, dice) : nullptr;
  };
  return {norm("lora norm", true, shape.hidden),
          norm("lora norm", shape.after_norms, shape.hidden),
          norm("lora norm", true, shape.hidden),
          norm("lora norm", shape.after_norms, shape.hidden),
          norm("lora q norm", shape.head_norms, shape.key_dim),
          norm("lora k norm", shape.head_norms, shape.key_dim)};
}

struct Adapter {
  const LmAdapterSite* sites;  // of the whole model
  int64_t width;               // the largest of any site
  const LmLayerNorms* norms;   // [layers + 1], or null
};

inline Adapter make_adapter(Memory& memory, Random& dice, const AdapterKind& kind, const Model& model) {
  std::vector<LmAdapterSite> sites;
  int64_t width = 0;
  for (const LmSite& site : model.sites()) {
    const Module first = kFirstModule[sites.size() % kSitesALayer];
    sites.push_back(adapter_site(memory, dice, kind, site, first));
    width = std::max(width, sites.back().width);
  }
  std::vector<LmLayerNorms> norms;
  for (int64_t i = 0; i < model.shape().layers; ++i) norms.push_back(layer_norms(memory, dice, model.shape()));
  norms.emplace_back();  // of the norm after all layers
  norms.back().input_norm = memory.random<float>("last lora norm", model.shape().hidden, 1, dice);
  return {memory.copy("adapter sites", sites), width, kind.norms ? memory.copy("adapter norms", norms) : nullptr};
}

// Runs of odd lengths, one adapter's after the other's, some with rows of the base between them.
inline std::vector<LmRun> make_runs(Random& dice, const std::vector<Adapter>& adapters, int64_t rows) {
  std::vector<LmRun> runs;
  for (int64_t row = rows > 3 ? 1 : 0; row < rows;) {
    const int64_t count = std::min(rows - row, 1 + 2 * dice.below(19));
    const Adapter& adapter = adapters[runs.size() % adapters.size()];
    runs.push_back({row, count, adapter.sites, adapter.norms});
    row += count + (dice.below(3) == 0 ? 1 + dice.below(4) : 0);
  }
  return runs;
}

}  // namespace sanitize
