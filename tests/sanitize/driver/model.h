// Decoder layers of random weights, of shapes that no model has: odd sizes, and every option of a layer.
#pragma once

#include "library.h"

namespace sanitize {

constexpr int64_t kBlockSize = 16;

struct Shape {
  const char* name;
  int64_t hidden;
  int64_t gated;
  int64_t heads;
  int64_t kv_heads;
  int64_t key_dim;
  int64_t value_dim;
  int64_t rotary;
  int64_t layers;
  int64_t window;  // of every other layer
  double softcap;
  bool biases;
  bool head_norms;   // of queries and keys
  bool after_norms;  // of what is added to the residual

  int64_t qkv_width() const { return (heads + kv_heads) * key_dim + kv_heads * value_dim; }
  int64_t attended_width() const { return heads * value_dim; }
};

// Modules by the names that LoRA configs have; a set of them is a sum.
enum Module : int { kQ = 1, kK = 2, kV = 4, kO = 8, kGate = 16, kUp = 32, kDown = 64, kEvery = 127 };

constexpr int64_t kSitesALayer = 4;
// Of each site of a layer (qkv, output, gate and up, down), the module of its first projection.
constexpr Module kFirstModule[kSitesALayer] = {kQ, kO, kGate, kDown};

class Model {
 public:
  Model(Memory& memory, Random& dice, const Shape& shape) : memory_(memory), dice_(dice), shape_(shape) {
    for (int64_t i = 0; i < shape.layers; ++i) layers_.push_back(layer(i));
    last_norm_ = norm();
  }

  const Shape& shape() const { return shape_; }
  const std::vector<LmLayer>& layers() const { return layers_; }  // without caches: each step has its own
  const LmNorm& last_norm() const { return last_norm_; }
  const std::vector<LmSite>& sites() const { return sites_; }  // kSitesALayer of each layer

 private:
  LmNorm norm() {
    LmNorm job{};
    job.weight = memory_.random<float>("norm weight", shape_.hidden, 1, dice_);
    job.eps = 1e-5;
    job.n = shape_.hidden;
    return job;
  }

  LmLinear linear(int64_t k, const std::vector<int64_t>& outputs, bool biases, int64_t activation = kNone) {
    LmSite site{};
    site.k = k;
    int64_t offset = 0;
    for (int64_t n : outputs) {
      const Weight* weight = packed_random(memory_, "weight", dice_, n, k);
      const float* bias = biases ? memory_.random<float>("bias", n, 0.1f, dice_) : nullptr;
      site.segment[site.count++] = {weight, bias, n, offset};
      offset += n;
    }
    LmLinear job{};
    job.site = memory_.copy("site", std::vector<LmSite>{site});
    job.activation = activation;
    job.runs.site = static_cast<int64_t>(sites_.size());
    sites_.push_back(site);
    return job;
  }

  LmLayer layer(int64_t index) {
    const Shape& s = shape_;
    const bool odd = index % 2;
    LmLayer made{};
    made.input_norm = norm();
    made.qkv = linear(s.hidden, {s.heads * s.key_dim, s.kv_heads * s.key_dim, s.kv_heads * s.value_dim}, s.biases);
    made.output = linear(s.attended_width(), {s.hidden}, s.biases);
    made.mlp_norm = norm();
    made.gate_up = linear(s.hidden, {s.gated, s.gated}, s.biases, odd ? kSilu : kGeluTanh);
    made.down = linear(s.gated, {s.hidden}, s.biases);
    if (s.after_norms) {
      made.after_attention = norm();
      made.after_mlp = norm();
    }
    made.rope.heads = made.attention.heads = s.heads;
    made.rope.rotary = s.rotary;
    made.rope.eps = 1e-6;
    if (s.head_norms) {
      made.rope.q_norm = memory_.random<float>("q norm", s.key_dim, 1, dice_);
      made.rope.k_norm = memory_.random<float>("k norm", s.key_dim, 1, dice_);
    }
    made.attention.window = odd ? s.window : 0;
    made.attention.scale = 0.1;
    made.attention.softcap = s.softcap;
    made.turns = odd;
    return made;
  }

  Memory& memory_;
  Random& dice_;
  Shape shape_;
  std::vector<LmLayer> layers_;
  LmNorm last_norm_;
  std::vector<LmSite> sites_;
};

// Empty, as after a sequence whose values were no numbers: what a kernel has not written there it must not use.
inline LmCache empty_cache(Memory& memory, const Shape& shape, int64_t blocks) {
  const int64_t heads = blocks * shape.kv_heads;
  const int64_t keys = heads * kBlockSize * round_up(shape.key_dim, Mode::kStep);
  const int64_t values = heads * kBlockSize * round_up(shape.value_dim, lm::kLanes);
  return {memory.empty<Weight>("keys", keys),
          memory.empty<Weight>("values", values),
          kBlockSize,
          shape.kv_heads,
          shape.key_dim,
          shape.value_dim};
}

}  // namespace sanitize
