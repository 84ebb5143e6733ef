// Attention over the paged cache, one pass with the online softmax (Milakov and Gimelshein; FlashAttention).
//
// The query heads that share a key head are rows of one product, so keys and values are read once for all of them. Decode
// and prefill differ in nothing but the number of rows.
//
// Every context is summed up in parts of kPositionsAPart positions, and each part added to those before it: always, so
// that a row's bits do not depend on who else is in the batch, on the number of threads, or on how its prompt was cut
// into chunks. Whether one thread does all parts of a context, or several do, is what keeps threads busy, and decides
// nothing else.
#pragma once

#include <algorithm>
#include <cmath>

#include "cache.h"
#include "scratch.h"

namespace lm {

constexpr int64_t kRowsAnAttend = 32;
constexpr int64_t kPositionsATile = 128;
constexpr int64_t kPositionsAPart = 512;

// Some tokens of one sequence, seen by one key head, against some of its context.
struct Work {
  int64_t sequence;
  int64_t head;
  int64_t token;   // among the sequence's rows of this step
  int64_t tokens;
  int64_t begin;   // positions
  int64_t end;
  int64_t partial;  // where the one part that this is goes; -1: all parts, and straight to the output
};

// The parts of a context that several threads share.
struct Merge {
  int64_t work;  // the first one
  int64_t parts;
};

template <class Mode>
struct Attention {
  LmCache cache;
  LmSequences sequences;
  int64_t heads;
  int64_t window;
  float scale;
  float softcap;
};

// What is to be done in a step; the same for every layer.
struct AttentionPlan {
  Work* work;
  int64_t works;
  Merge* merge;
  int64_t merges;
  int64_t partials;
  int64_t rows;  // the most rows of a work
};

inline int64_t tokens_a_work(int64_t group) { return std::max<int64_t>(1, kRowsAnAttend / group); }

inline AttentionPlan plan_attention(Scratch& scratch, const LmSequences& sequences, int64_t kv_heads, int64_t group,
                                    int64_t threads) {
  const int64_t most = tokens_a_work(group);
  auto length = [&](int64_t i) { return sequences.first_row[i + 1] - sequences.first_row[i]; };
  auto end_of = [&](int64_t i, int64_t token, int64_t tokens) {
    return sequences.context[i] - length(i) + token + tokens;
  };
  int64_t positions = 0;
  for (int64_t i = 0; i < sequences.count; ++i)
    for (int64_t token = 0; token < length(i); token += most)
      positions += end_of(i, token, std::min(most, length(i) - token)) * kv_heads;
  const bool shared = threads > 1;
  const int64_t share = ceil_div(positions, threads * 4);

  AttentionPlan plan{nullptr, 0, nullptr, 0, 0, most * group};
  for (int pass = 0; pass < 2; ++pass) {
    plan.works = plan.merges = plan.partials = 0;
    for (int64_t i = 0; i < sequences.count; ++i)
      for (int64_t token = 0; token < length(i); token += most) {
        int64_t tokens = std::min(most, length(i) - token);
        int64_t end = end_of(i, token, tokens);
        const int64_t parts = shared && end > share ? ceil_div(end, kPositionsAPart) : 1;
        for (int64_t head = 0; head < kv_heads; ++head) {
          if (parts > 1) {
            if (pass) plan.merge[plan.merges] = {plan.works, parts};
            ++plan.merges;
          }
          for (int64_t p = 0; p < parts; ++p) {
            if (pass)
              plan.work[plan.works] = parts > 1 ? Work{i, head, token, tokens, p * kPositionsAPart,
                                                       std::min(end, (p + 1) * kPositionsAPart), plan.partials}
                                                : Work{i, head, token, tokens, 0, end, -1};
            ++plan.works;
            if (parts > 1) ++plan.partials;
          }
        }
      }
    if (!pass) {
      plan.work = scratch.take<Work>(plan.works);
      plan.merge = scratch.take<Merge>(plan.merges);
    }
  }
  return plan;
}

// One thread's memory while it attends.
template <class Mode>
struct AttentionRoom {
  using Operand = typename Mode::Operand;
  Operand* q;       // [rows, q_stride]
  int64_t q_stride;
  float* scores;    // [rows, score_stride]
  Operand* weights;  // the same as float32 scores, or narrowed
  int64_t score_stride;
  float* out;  // [rows, out_stride]
  int64_t out_stride;
  float* high;  // [rows], the largest score so far
  float* total;  // [rows], the sum of weights so far
  float* sums;  // [rows, sum_stride], the parts so far: values, largest score, sum of weights
  int64_t sum_stride;

  static AttentionRoom take(Scratch& scratch, const LmCache& cache, int64_t rows, int64_t threads) {
    AttentionRoom room;
    room.q_stride = operand_stride(cache.key_dim);
    room.score_stride = std::max(kPositionsATile, cache.block_size) + 16;
    room.out_stride = operand_stride(cache.value_dim);
    room.q = scratch.take<Operand>(threads * rows * room.q_stride);
    room.scores = scratch.take<float>(threads * rows * room.score_stride);
    if constexpr (sizeof(Operand) == sizeof(float)) room.weights = room.scores;
    else room.weights = scratch.take<Operand>(threads * rows * room.score_stride);
    room.out = scratch.take<float>(threads * rows * room.out_stride);
    room.high = scratch.take<float>(threads * rows);
    room.total = scratch.take<float>(threads * rows);
    room.sum_stride = room.out_stride + 2 * kLanes;
    room.sums = scratch.take<float>(threads * rows * room.sum_stride);
    return room;
  }

  AttentionRoom of(int64_t thread, int64_t rows) const {
    AttentionRoom mine = *this;
    mine.q += thread * rows * q_stride;
    mine.scores += thread * rows * score_stride;
    mine.weights += thread * rows * score_stride;
    mine.out += thread * rows * out_stride;
    mine.high += thread * rows;
    mine.total += thread * rows;
    mine.sums += thread * rows * sum_stride;
    return mine;
  }
};

template <class T>
inline void fetch(const T* from, int64_t count) {
  const char* bytes = reinterpret_cast<const char*>(from);
  for (int64_t at = 0; at < count * static_cast<int64_t>(sizeof(T)); at += kLine)
    __builtin_prefetch(bytes + at, 0, 2);
}

// Turns one row's scores [0, columns) into weights, of which those outside [from, to) are zero, and brings the row's
// sums up to date.
template <class Mode>
inline void soften(const Attention<Mode>& job, const AttentionRoom<Mode>& room, int64_t row, int64_t columns,
                   int64_t from, int64_t to) {
  float* scores = room.scores + row * room.score_stride;
  typename Mode::Operand* weights = room.weights + row * room.score_stride;
  if (from >= to) {
    for (int64_t i = 0; i < columns; i += kLanes) store(weights + i, Vec{});
    return;
  }
  VecI lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  auto inside = [&](int64_t i) {
    VecI column = lane + static_cast<int32_t>(i);
    return (column >= static_cast<int32_t>(from)) & (column < static_cast<int32_t>(to));
  };
  const Vec lowest = splat(-std::numeric_limits<float>::infinity());
  const bool whole = from <= 0 && to >= columns;
  Vec best = lowest;
  for (int64_t i = 0; i < columns; i += kLanes) {
    Vec score = load(scores + i) * splat(job.scale);
    if (job.softcap > 0) score = softcapped(score, job.softcap);
    if (!whole) score = inside(i) ? score : lowest;
    store(scores + i, score);
    best = maximum(best, score);
  }
  const float high = std::max(room.high[row], highest(best));
  Vec total{};
  for (int64_t i = 0; i < columns; i += kLanes) {
    Vec weight = exponential(load(scores + i) - splat(high));
    if (!whole) weight = inside(i) ? weight : Vec{};
    total += weight;
    store(weights + i, weight);
  }
  if (high != room.high[row]) {
    Vec fade = exponential(splat(room.high[row] - high));
    float* out = room.out + row * room.out_stride;
    for (int64_t i = 0; i < room.out_stride; i += kLanes) store(out + i, load(out + i) * fade);
    room.total[row] *= fade[0];
    room.high[row] = high;
  }
  room.total[row] += sum(total);
}

// What a part has come to, [out_stride] and two numbers, from the room's rows.
template <class Mode>
inline void put_part(const AttentionRoom<Mode>& room, int64_t row, float* to) {
  const float* from = room.out + row * room.out_stride;
  for (int64_t i = 0; i < room.out_stride; i += kLanes) store(to + i, load(from + i));
  to[room.out_stride] = room.high[row];
  to[room.out_stride + 1] = room.total[row];
}

// Adds the next part of a context to those before it. Not inlined: it must round alike wherever it is called.
__attribute__((noinline)) inline void add_part(float* sums, const float* part, float part_high, float part_total,
                                               int64_t stride) {
  if (part_total == 0) return;  // wholly outside the window
  const float high = std::max(sums[stride], part_high);
  const float fade = sums[stride + 1] == 0 ? 0.0f : std::exp(sums[stride] - high);
  const float part_fade = std::exp(part_high - high);
  for (int64_t i = 0; i < stride; i += kLanes)
    store(sums + i, load(sums + i) * splat(fade) + load(part + i) * splat(part_fade));
  sums[stride] = high;
  sums[stride + 1] = sums[stride + 1] * fade + part_total * part_fade;
}

// One part of one work's context, into the room.
template <class Mode, class Q>
void attend(const Attention<Mode>& job, const Work& work, const Work* next, const Q* q, int64_t q_stride,
            int64_t q_head, const AttentionRoom<Mode>& room) {
  using Weight = typename Mode::Weight;
  const LmCache& cache = job.cache;
  const int64_t group = job.heads / cache.kv_heads;
  const int64_t rows = work.tokens * group;
  const int64_t size = cache.block_size;
  const int64_t first_row = job.sequences.first_row[work.sequence];
  const int64_t length = job.sequences.first_row[work.sequence + 1] - first_row;
  const int64_t first = job.sequences.context[work.sequence] - length + work.token;  // position of the first token
  const int32_t* blocks = job.sequences.blocks + job.sequences.first_block[work.sequence];

  for (int64_t t = 0; t < work.tokens; ++t)
    for (int64_t g = 0; g < group; ++g)
      to_operand(room.q + (t * group + g) * room.q_stride,
                 q + (first_row + work.token + t) * q_stride + (work.head * group + g) * q_head, cache.key_dim);
  for (int64_t row = 0; row < rows; ++row) {
    room.high[row] = -std::numeric_limits<float>::infinity();
    room.total[row] = 0;
    for (int64_t i = 0; i < room.out_stride; i += kLanes) store(room.out + row * room.out_stride + i, Vec{});
  }

  const int64_t key_steps = steps_of<Mode>(cache.key_dim);
  const int64_t key_block = block_of<Mode>(cache.key_dim);
  const int64_t value_block = block_of<Mode>(size);
  const int64_t value_blocks = ceil_div(cache.value_dim, kLanes);
  const int64_t tile = std::max(kPositionsATile / size, int64_t{1}) * size;
  const bool few = rows <= kMaxRows;  // waits for memory, rather than the other way round
  int64_t begin = work.begin;
  if (job.window > 0) begin = std::max(begin, first - job.window + 1);
  // From a multiple of a tile, whatever the window: a row's tiles are where they are for every chunk that it comes in.
  for (int64_t at = begin / tile * tile; at < work.end; at += tile) {
    const int64_t stop = std::min(at + tile, work.end);
    const int64_t columns = ceil_div(stop - at, size) * size;
    for (int64_t c = 0; c < columns; c += size) {
      const int64_t block = blocks[(at + c) / size];
      if (few) fetch(values_at<Mode>(cache, block, work.head), values_of<Mode>(cache));
      const Weight* keys = keys_at<Mode>(cache, block, work.head);
      for (int64_t j = 0; j < size / kLanes; j += kMaxBlocks)
        multiply<Mode>(rows, std::min<int64_t>(kMaxBlocks, size / kLanes - j), key_steps, room.q, room.q_stride,
                       keys + j * key_block, key_block, room.scores + c + j * kLanes, room.score_stride, false);
    }
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t position = first + row / group;
      int64_t from = work.begin;
      if (job.window > 0) from = std::max(from, position - job.window + 1);
      soften(job, room, row, columns, from - at, std::min(position + 1, stop) - at);
    }
    for (int64_t c = 0; c < columns; c += size) {
      if (few) {
        // The keys of the next tile, or of the next work's first.
        if (at + tile + c < work.end)
          fetch(keys_at<Mode>(cache, blocks[(at + tile + c) / size], work.head), keys_of<Mode>(cache));
        else if (at + tile >= work.end && next && next->begin + c < next->end)
          fetch(keys_at<Mode>(cache, job.sequences.blocks[job.sequences.first_block[next->sequence] +
                                                          (next->begin + c) / size], next->head),
                keys_of<Mode>(cache));
      }
      const Weight* values = values_at<Mode>(cache, blocks[(at + c) / size], work.head);
      const int64_t steps = ceil_div(std::min(size, stop - at - c), Mode::kStep);
      for (int64_t j = 0; j < value_blocks; j += kMaxBlocks)
        multiply<Mode>(rows, std::min<int64_t>(kMaxBlocks, value_blocks - j), steps, room.weights + c,
                       room.score_stride, values + j * value_block, value_block, room.out + j * kLanes,
                       room.out_stride, true);
    }
  }
}

// Attention of one layer, into rows of Out.
template <class Mode, class Q, class Out>
void attention_stage(Member& member, const Attention<Mode>& job, const AttentionPlan& plan, const Q* q,
                     int64_t q_stride, int64_t q_head, Out* out, int64_t out_stride, const AttentionRoom<Mode>& rooms,
                     float* partials) {
  const AttentionRoom<Mode> room = rooms.of(member.id(), plan.rows);
  const int64_t group = job.heads / job.cache.kv_heads;
  const int64_t dim = job.cache.value_dim;
  const int64_t stride = room.sum_stride;
  auto finish = [&](const Work& work, int64_t row, const float* sums) {
    int64_t token = job.sequences.first_row[work.sequence] + work.token + row / group;
    Out* to = out + token * out_stride + (work.head * group + row % group) * dim;
    Vec factor = splat(1.0f / sums[room.out_stride + 1]);
    for (int64_t i = 0; i < dim; i += kLanes) store_part(to + i, load(sums + i) * factor, dim - i);
  };
  member.each_ahead(plan.works, [&](int64_t task, int64_t next) {
    const Work& work = plan.work[task];
    const Work* after = next < plan.works ? &plan.work[next] : nullptr;
    const int64_t rows = work.tokens * group;
    if (work.partial >= 0) {
      attend(job, work, after, q, q_stride, q_head, room);
      for (int64_t row = 0; row < rows; ++row) put_part(room, row, partials + (work.partial * plan.rows + row) * stride);
      return;
    }
    Work part = work;
    for (part.begin = work.begin; part.begin < work.end; part.begin += kPositionsAPart) {
      part.end = std::min(part.begin + kPositionsAPart, work.end);
      attend(job, part, part.end == work.end ? after : nullptr, q, q_stride, q_head, room);
      for (int64_t row = 0; row < rows; ++row) {
        float* sums = room.sums + row * stride;
        if (part.begin == work.begin) {
          put_part(room, row, sums);
        } else {
          float* mine = room.out + row * room.out_stride;
          add_part(sums, mine, room.high[row], room.total[row], room.out_stride);
        }
      }
    }
    for (int64_t row = 0; row < rows; ++row) finish(work, row, room.sums + row * stride);
  });
  if (plan.merges == 0) return;
  member.each(plan.merges, [&](int64_t task) {
    const Merge& merge = plan.merge[task];
    const Work& work = plan.work[merge.work];
    for (int64_t row = 0; row < work.tokens * group; ++row) {
      auto part = [&](int64_t p) { return partials + ((work.partial + p) * plan.rows + row) * stride; };
      for (int64_t p = 1; p < merge.parts; ++p)
        add_part(part(0), part(p), part(p)[room.out_stride], part(p)[room.out_stride + 1], room.out_stride);
      finish(work, row, part(0));
    }
  });
}

template <class Mode>
inline float* take_partials(Scratch& scratch, const AttentionPlan& plan, const AttentionRoom<Mode>& room) {
  return scratch.take<float>(plan.partials * plan.rows * room.sum_stride);
}

inline AttentionPlan plan_of(Scratch& scratch, const LmAttention& job) {
  return plan_attention(scratch, job.sequences, job.cache.kv_heads, job.heads / job.cache.kv_heads, job.threads);
}

template <class Mode>
void attention(const LmAttention& job, const AttentionPlan& plan) {
  using Weight = typename Mode::Weight;
  Scratch& scratch = Scratch::fresh();
  AttentionRoom<Mode> rooms = AttentionRoom<Mode>::take(scratch, job.cache, plan.rows, job.threads);
  float* partials = take_partials(scratch, plan, rooms);
  Attention<Mode> stage{job.cache,  job.sequences, job.heads, job.window, static_cast<float>(job.scale),
                        static_cast<float>(job.softcap)};
  run_team(job.threads, [&](Member& member) {
    attention_stage<Mode, Weight, Weight>(member, stage, plan, static_cast<const Weight*>(job.q), job.q_stride,
                                          job.q_head, static_cast<Weight*>(job.out), job.out_stride, rooms, partials);
  });
}

template <class Mode>
void attention(const LmAttention& job) {
  attention<Mode>(job, plan_of(Scratch::fresh_for_plans(), job));
}

}  // namespace lm
