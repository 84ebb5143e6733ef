// What Python hands over. Every field is eight bytes wide, so that `library.py` can mirror a struct field by field.
#pragma once

#include <cstdint>

extern "C" {

// One projection: y[:, offset : offset + n] of its site's output.
struct LmSegment {
  const void* weight;  // packed, n columns
  const float* bias;   // [n], or null
  int64_t n;
  int64_t offset;
};

// Projections that read the same input: q, k, v; or gate and up.
struct LmSite {
  int64_t k;
  int64_t count;
  LmSegment segment[3];
};

// What an adapter does to one projection: y = (y + scale B A x) * multiplier + bias.
struct LmAdapterPart {
  const void* b;            // packed, n columns of depth `rank`
  int64_t rank;             // 0: nothing is added
  int64_t column;           // where the shrunk values of this projection begin
  const float* multiplier;  // [n], or null
  const float* bias;        // [n], or null
};

struct LmAdapterSite {
  const void* a;        // packed, `width` columns: the A of all projections side by side
  const float* scales;  // [width]
  int64_t width;        // a multiple of the lanes; 0: nothing is shrunk
  int64_t touched;      // not 0: some part changes the output
  LmAdapterPart part[3];
};

// Weights of norms that an adapter brings to a layer, as the kernels take them; null where the base's stand.
struct LmLayerNorms {
  const float* input_norm;       // [hidden]
  const float* after_attention;  // [hidden]
  const float* mlp_norm;         // [hidden]
  const float* after_mlp;        // [hidden]
  const float* q_norm;           // [key_dim]
  const float* k_norm;           // [key_dim]
};

// Consecutive rows of one adapter; rows of the base are in no run. Runs are in the order of their rows.
struct LmRun {
  int64_t row;
  int64_t rows;
  const LmAdapterSite* sites;
  const LmLayerNorms* norms;  // [layers + 1], the last for its input norm: the norm after all layers; or null
};

struct LmRuns {
  const LmRun* run;
  int64_t count;
  int64_t site;   // which of the adapter's sites this call is about
  int64_t width;  // the largest LmAdapterSite::width there
};

struct LmPack {
  const void* source;  // [n, k] in the storage type
  int64_t row_stride;
  int64_t column_stride;
  int64_t n;
  int64_t k;
  void* to;
  int64_t to_column;  // the packed column that takes row 0; the target has been zeroed
};

struct LmLinear {
  const LmSite* site;
  const void* x;
  int64_t x_stride;
  void* y;
  int64_t y_stride;
  int64_t rows;
  int64_t activation;  // LmActivation; other than none, y = act(segment 0) * segment 1
  double softcap;      // y = softcap * tanh(y / softcap), after what adapters add; 0: none
  LmRuns runs;
  int64_t threads;
};

enum LmActivation : int64_t { kNone = 0, kSilu = 1, kGeluTanh = 2 };

// Where keys and values lie; see attention.h for the order inside a block.
struct LmCache {
  void* keys;
  void* values;
  int64_t block_size;
  int64_t kv_heads;
  int64_t key_dim;
  int64_t value_dim;
};

// The sequences of a step. Their rows follow one another in the batch.
struct LmSequences {
  const int32_t* first_row;    // [count + 1]
  const int32_t* context;      // [count], positions there are, the step's own rows included
  const int32_t* first_block;  // [count], where in `blocks` a sequence's begin
  const int32_t* blocks;       // of all, one sequence after the other
  int64_t count;
};

struct LmAttention {
  LmCache cache;
  LmSequences sequences;
  const void* q;  // [rows, heads, key_dim]
  int64_t q_stride;  // from row to row
  int64_t q_head;    // from head to head
  void* out;         // [rows, heads * value_dim]
  int64_t out_stride;
  int64_t heads;
  int64_t window;  // positions a query sees, its own included; 0: all
  double scale;
  double softcap;  // 0: none
  int64_t threads;
};

struct LmRope {
  LmCache cache;
  void* q;  // [rows, heads, key_dim], turned in place
  int64_t q_stride;
  int64_t q_head;
  const void* k;  // [rows, kv_heads, key_dim]
  int64_t k_stride;
  int64_t k_head;
  const void* v;  // [rows, kv_heads, value_dim]
  int64_t v_stride;
  int64_t v_head;
  const float* cos;  // [rows, rotary / 2]
  const float* sin;
  const int64_t* slots;  // [rows], block * block_size + offset
  const float* q_norm;   // [key_dim], or null
  const float* k_norm;
  double eps;
  int64_t rows;
  int64_t heads;
  int64_t rotary;  // how many of a head's first numbers turn
  int64_t threads;
};

struct LmNorm {
  const void* x;
  int64_t x_stride;
  void* residual;  // [rows, n], becomes residual + x and is what is normed; or null
  int64_t residual_stride;
  void* y;
  int64_t y_stride;
  const float* weight;  // [n]
  double eps;
  int64_t rows;
  int64_t n;
  int64_t threads;
};

// One decoder layer: the jobs of its calls, of which `forward` fills in what differs from step to step.
struct LmLayer {
  LmNorm input_norm;
  LmLinear qkv;
  LmRope rope;
  LmAttention attention;
  LmLinear output;
  LmNorm after_attention;  // of the attention's output, before it is added; without a weight where there is none
  LmNorm mlp_norm;
  LmLinear gate_up;
  LmLinear down;
  LmNorm after_mlp;  // likewise
  int64_t turns;     // which of the step's turns the layer uses
};

// How far each row turns: [rows, rotary / 2] each.
struct LmTurns {
  const float* cos;
  const float* sin;
};

// All layers of a step. Rows are [rows, width] each, without gaps.
struct LmForward {
  const LmLayer* layers;
  int64_t count;
  LmNorm last_norm;
  int64_t rows;
  void* residual;  // the embeddings; in the end what the last norm has taken
  int64_t hidden;
  void* normed;  // [rows, hidden]; in the end the result
  void* added;   // [rows, hidden]
  void* qkv;
  int64_t qkv_width;
  void* attended;
  int64_t attended_width;
  void* gated;
  int64_t gated_width;
  const LmTurns* turns;
  const int64_t* slots;
  LmSequences sequences;
  const LmRun* run;
  int64_t run_count;
  int64_t run_width;
  int64_t threads;
};

// How one row's token is chosen; sampler.py says what each does.
struct LmChooseRow {
  double draw;  // in [0, 1)
  double temperature;
  double top_p;
  double min_p;
  double repetition;
  double presence;
  double frequency;
  int64_t top_k;     // 0: all
  int64_t greedy;    // not 0: temperature is not looked at
  int64_t logprobs;  // how many alternatives; -1: none, and not the token's either
  const int32_t* seen_token;
  const int32_t* seen_count;  // times in the output; 0: in the prompt alone
  int64_t seen;
  const int32_t* biased_token;
  const float* bias;
  int64_t biased;
};

struct LmChoose {
  const void* x;  // [rows, n]
  int64_t x_stride;
  int64_t n;
  int64_t rows;
  const LmChooseRow* row;
  int64_t* token;        // [rows]; -1 where a row is not finite
  float* logprob;        // [rows]
  int64_t* top_token;    // [rows, top_stride], likeliest first
  float* top_logprob;
  int64_t top_stride;
  int64_t threads;
};

}  // extern "C"
