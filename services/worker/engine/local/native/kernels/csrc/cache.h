// The paged cache of keys and values, and rotary embedding on the way into it.
//
// Inside a block every head is a packed matrix (see microkernel.h), so that attention multiplies straight from the cache:
// keys with positions as columns and key_dim deep, values with value_dim as columns and positions deep.
#pragma once

#include <algorithm>
#include <cmath>

#include "pack.h"
#include "scratch.h"

namespace lm {

// One head of one block, in elements.
template <class Mode>
inline int64_t keys_of(const LmCache& cache) {
  return cache.block_size * steps_of<Mode>(cache.key_dim) * Mode::kStep;
}

template <class Mode>
inline int64_t values_of(const LmCache& cache) {
  return ceil_div(cache.value_dim, kLanes) * kLanes * cache.block_size;
}

template <class Mode>
inline typename Mode::Weight* keys_at(const LmCache& cache, int64_t block, int64_t head) {
  return static_cast<typename Mode::Weight*>(cache.keys) + (block * cache.kv_heads + head) * keys_of<Mode>(cache);
}

template <class Mode>
inline typename Mode::Weight* values_at(const LmCache& cache, int64_t block, int64_t head) {
  return static_cast<typename Mode::Weight*>(cache.values) + (block * cache.kv_heads + head) * values_of<Mode>(cache);
}

// A position's key: one piece of each depth step, which lies kLanes pieces after the one before.
template <class Mode>
inline void write_key(const LmCache& cache, int64_t slot, int64_t head, const float* key) {
  using Weight = typename Mode::Weight;
  constexpr int64_t kPieces = kLanes / Mode::kStep;  // of a vector
  constexpr int64_t kBytes = Mode::kStep * sizeof(Weight);
  const int64_t offset = slot % cache.block_size;
  Weight* to = keys_at<Mode>(cache, slot / cache.block_size, head) + offset / kLanes * block_of<Mode>(cache.key_dim) +
               offset % kLanes * Mode::kStep;
  const int64_t steps = steps_of<Mode>(cache.key_dim);
  for (int64_t s = 0; s < steps; s += kPieces) {
    Weight vector[kLanes];
    store(vector, load_part(key + s * Mode::kStep, cache.key_dim - s * Mode::kStep));
    for (int64_t i = 0; i < std::min(kPieces, steps - s); ++i)
      std::memcpy(to + (s + i) * kLanes * Mode::kStep, vector + i * Mode::kStep, kBytes);
  }
}

// One vector of a position's value into its depth step. Writing the first position of a step clears the rest of it:
// attention multiplies whole steps, and what a sequence before left there may not even be a number.
template <class Mode>
inline void write_values(typename Mode::Weight* step, int64_t place, Vec value) {
  if constexpr (Mode::kStep == 1) {
    store(step, value);
  } else {
    bf16 narrow[kLanes];
    store(narrow, value);
    VecU bits = __builtin_convertvector(*reinterpret_cast<const VecHAny*>(narrow), VecU);
    if (place) bits = (bits << 16) | (*reinterpret_cast<const VecUAny*>(step) & 0xffffu);
    *reinterpret_cast<VecUAny*>(step) = bits;
  }
}

template <class Mode, class T>
inline void write_value(const LmCache& cache, int64_t slot, int64_t head, const T* value) {
  const int64_t offset = slot % cache.block_size;
  const int64_t place = offset % Mode::kStep;
  typename Mode::Weight* to = values_at<Mode>(cache, slot / cache.block_size, head) + (offset - place) * kLanes;
  const int64_t block = block_of<Mode>(cache.block_size);
  for (int64_t c = 0; c < cache.value_dim; c += kLanes)
    write_values<Mode>(to + c / kLanes * block, place, load_part(value + c, cache.value_dim - c));
}

// Asks for the lines that a position will be written to; they are far apart, and each would be waited for by itself.
template <class Mode>
inline void fetch_slot(const LmCache& cache, int64_t slot, int64_t head) {
  const int64_t offset = slot % cache.block_size;
  const auto* keys = keys_at<Mode>(cache, slot / cache.block_size, head) +
                     offset / kLanes * block_of<Mode>(cache.key_dim) + offset % kLanes * Mode::kStep;
  for (int64_t s = 0; s < steps_of<Mode>(cache.key_dim); ++s) __builtin_prefetch(keys + s * kLanes * Mode::kStep, 1, 2);
  const auto* values = values_at<Mode>(cache, slot / cache.block_size, head) + offset / Mode::kStep * Mode::kStep * kLanes;
  for (int64_t c = 0; c < cache.value_dim; c += kLanes)
    __builtin_prefetch(values + c / kLanes * block_of<Mode>(cache.block_size), 1, 2);
}

// RMSNorm of one head where a weight is given, then the rotation, in float32.
template <class T>
inline void turn(const T* from, float* head, const LmRope& job, int64_t row, const float* norm) {
  const int64_t dim = job.cache.key_dim;
  for (int64_t i = 0; i < dim; i += kLanes) store_part(head + i, load_part(from + i, dim - i), dim - i);
  if (norm) {
    Vec squares{};
    for (int64_t i = 0; i < dim; i += kLanes) {
      Vec x = load_part(head + i, dim - i);
      squares += x * x;
    }
    float factor = 1.0f / std::sqrt(sum(squares) / static_cast<float>(dim) + static_cast<float>(job.eps));
    for (int64_t i = 0; i < dim; i += kLanes)
      store_part(head + i, load_part(head + i, dim - i) * splat(factor) * load_part(norm + i, dim - i), dim - i);
  }
  const int64_t half = job.rotary / 2;
  const float* cos = job.cos + row * half;
  const float* sin = job.sin + row * half;
  for (int64_t i = 0; i < half; i += kLanes) {
    Vec x = load_part(head + i, half - i), y = load_part(head + half + i, half - i);
    Vec c = load_part(cos + i, half - i), s = load_part(sin + i, half - i);
    store_part(head + i, x * c - y * s, half - i);
    store_part(head + half + i, y * c + x * s, half - i);
  }
}

// The weights that a row's queries and keys are normed by, each [key_dim] or null.
struct HeadNorms {
  const float* q;
  const float* k;
};

// Turns q in place, and k on its way into the cache together with v. `room`: key_dim floats of this thread's own.
template <class Mode, class T, class NormsOf>
void rope_stage(Member& member, const LmRope& job, const NormsOf& norms_of, float* room) {
  T* q = static_cast<T*>(job.q);
  const T* k = static_cast<const T*>(job.k);
  const T* v = static_cast<const T*>(job.v);
  const LmCache& cache = job.cache;
  const int64_t dim = cache.key_dim;
  constexpr int64_t kRowsATask = 4;
  // Rows that share a depth step of the values are one thread's business.
  auto joined = [&](int64_t row) {
    return row > 0 && row < job.rows && job.slots[row] % Mode::kStep != 0 && job.slots[row - 1] + 1 == job.slots[row];
  };
  member.each(ceil_div(job.rows, kRowsATask), [&](int64_t task) {
    int64_t row = task * kRowsATask;
    int64_t end = std::min(row + kRowsATask, job.rows);
    while (joined(row)) ++row;
    while (joined(end)) ++end;
    for (int64_t r = row; r < end; ++r)
      for (int64_t head = 0; head < cache.kv_heads; ++head) fetch_slot<Mode>(cache, job.slots[r], head);
    for (; row < end; ++row) {
      const HeadNorms norms = norms_of(row);
      for (int64_t head = 0; head < job.heads; ++head) {
        T* at = q + row * job.q_stride + head * job.q_head;
        turn(at, room, job, row, norms.q);
        for (int64_t i = 0; i < dim; i += kLanes) store_part(at + i, load_part(room + i, dim - i), dim - i);
      }
      for (int64_t head = 0; head < cache.kv_heads; ++head) {
        turn(k + row * job.k_stride + head * job.k_head, room, job, row, norms.k);
        write_key<Mode>(cache, job.slots[row], head, room);
        write_value<Mode>(cache, job.slots[row], head, v + row * job.v_stride + head * job.v_head);
      }
    }
  });
}

// Norms each row by norms_of(row) before it is turned.
template <class Mode, class NormsOf>
void rope_by(const LmRope& job, const NormsOf& norms_of) {
  int64_t room = operand_stride(job.cache.key_dim);
  float* rooms = Scratch::fresh().take<float>(job.threads * room);
  run_team(job.threads, [&](Member& member) {
    rope_stage<Mode, typename Mode::Weight>(member, job, norms_of, rooms + member.id() * room);
  });
}

template <class Mode>
void rope(const LmRope& job) {
  rope_by<Mode>(job, [&](int64_t) { return HeadNorms{job.q_norm, job.k_norm}; });
}

}  // namespace lm
