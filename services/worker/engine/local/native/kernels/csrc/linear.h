// Linear layers over packed weights, with LoRA and the gate of an MLP applied while a tile of outputs is at hand.
#pragma once

#include <algorithm>

#include "lora.h"
#include "scratch.h"

namespace lm {

constexpr int64_t kRowsATile = 128;
constexpr int64_t kTileStride = kMaxBlocks * kLanes;

// A few neighbouring blocks of one projection's columns.
struct Panel {
  int64_t segment;
  int64_t block;
  int64_t blocks;
};

// Cuts a site's columns into panels. Of a gated site only the first projection is cut: the second goes along.
class Panels {
 public:
  Panels(const LmSite& site, bool gated) : count_(gated ? 1 : site.count) {
    for (int64_t s = 0; s < count_; ++s) {
      blocks_[s] = ceil_div(site.segment[s].n, kLanes);
      part_[s] = even_part(blocks_[s], kMaxBlocks);
      total_ += ceil_div(blocks_[s], part_[s]);
    }
  }

  int64_t total() const { return total_; }

  Panel at(int64_t index) const {
    int64_t s = 0;
    for (; s + 1 < count_; ++s) {
      int64_t here = ceil_div(blocks_[s], part_[s]);
      if (index < here) break;
      index -= here;
    }
    int64_t block = index * part_[s];
    return {s, block, std::min(part_[s], blocks_[s] - block)};
  }

 private:
  int64_t count_;
  int64_t blocks_[3] = {};
  int64_t part_[3] = {};
  int64_t total_ = 0;
};

// A linear layer of one step.
template <class Mode>
struct Linear {
  const LmSite* site;
  Rows<Mode> x;
  int64_t rows;
  bool gated;
  const LmRuns* runs;  // null when no row has an adapter
  Shrunk<Mode> shrunk;
};

// Enough for two panels of the deepest site, and what adapters add to a tile.
inline int64_t piece_room(int64_t depth, int64_t runs) {
  return 2 * (ceil_div(depth * kTileStride * 4, kPiece) + 1) + 8 * runs + 2 * depth;
}

// A list of memory to fetch, consumed part of rows by part of rows.
class Fetches {
 public:
  Fetches(const char** pieces, int64_t room) : pieces_(pieces), room_(room) {}

  void add(const void* from, int64_t bytes) {
    for (int64_t at = 0; at < bytes && count_ < room_; at += kPiece)
      pieces_[count_++] = static_cast<const char*>(from) + at;
  }

  // The next `count` pieces, the last ones repeated where fewer are left; null when none is.
  const char** take(int64_t count) {
    if (taken_ >= count_) return nullptr;
    while (count_ < taken_ + count) {
      if (count_ == room_) return nullptr;
      pieces_[count_] = pieces_[taken_];
      ++count_;
    }
    const char** from = pieces_ + taken_;
    taken_ += count;
    return from;
  }

 private:
  const char** pieces_;
  int64_t room_;
  int64_t count_ = 0;
  int64_t taken_ = 0;
};

// What one thread works with.
struct Workbench {
  float* tiles;         // [2, kRowsATile, kTileStride]
  const char** pieces;  // room for piece_room(...)
  int64_t room;

  static constexpr int64_t kTiles = 2 * kRowsATile * kTileStride;
};

// Rows part by part against one panel, while what comes next is fetched.
template <class Mode, Ahead kAhead>
inline void multiply_parts(int64_t rows, int64_t part, int64_t blocks, int64_t steps, const typename Mode::Operand* x,
                           int64_t x_stride, const typename Mode::Weight* weights, int64_t block, float* tile,
                           Fetches& fetches) {
  for (int64_t i = 0; i < rows; i += part) {
    int64_t now = std::min(part, rows - i);
    const char** pieces = fetches.take(ceil_div(steps, steps_a_piece(kAhead)));
    if (pieces)
      multiply<Mode, kAhead>(now, blocks, steps, x + i * x_stride, x_stride, weights, block, tile + i * kTileStride,
                             kTileStride, false, pieces);
    else
      multiply<Mode>(now, blocks, steps, x + i * x_stride, x_stride, weights, block, tile + i * kTileStride,
                     kTileStride, false);
  }
}

template <class Mode>
inline const typename Mode::Weight* panel_weights(const LmSite& site, const Panel& panel, int64_t half) {
  return static_cast<const typename Mode::Weight*>(site.segment[panel.segment + half].weight) +
         panel.block * block_of<Mode>(site.k);
}

// Computes the whole site; finish(row, rows, panel, tile, second tile) takes each tile of float32 once it is complete.
template <class Mode, class Finish>
void linear_stage(Member& member, const Linear<Mode>& job, const Workbench& bench, Finish&& finish) {
  using Weight = typename Mode::Weight;
  const LmSite& site = *job.site;
  const Panels panels(site, job.gated);
  const int64_t halves = job.gated ? 2 : 1;
  const int64_t steps = steps_of<Mode>(site.k);
  const int64_t block = block_of<Mode>(site.k);
  const int64_t chunk = even_part(job.rows, kRowsATile);
  const int64_t count = panels.total() * ceil_div(job.rows, chunk);

  // Panels are walked through for one chunk of rows, then for the next.
  auto upcoming = [&](int64_t next, auto&& each) {
    if (next < count) {
      Panel panel = panels.at(next % panels.total());
      for (int64_t half = 0; half < halves; ++half)
        each(panel_weights<Mode>(site, panel, half), panel.blocks * block);
    }
  };

  member.each_ahead(count, [&](int64_t task, int64_t next) {
    const Panel panel = panels.at(task % panels.total());
    const int64_t row = task / panels.total() * chunk;
    const int64_t rows = std::min(chunk, job.rows - row);
    const int64_t part = even_part(rows, kMaxRows);
    const bool single = rows <= kMaxRows;

    Fetches fetches(bench.pieces, bench.room);
    const Weight* stream[3] = {nullptr, nullptr, nullptr};
    if (single) {
      // One pass over the weights: each panel fetches the one after it, line for line.
      int64_t known = 0;
      if (job.gated) stream[known++] = panel_weights<Mode>(site, panel, 1);
      upcoming(next, [&](const Weight* from, int64_t) {
        if (known < halves) stream[known++] = from;
      });
    } else {
      if (job.runs)
        for (int64_t i = 0; i < job.runs->count; ++i) {
          const LmRun& run = job.runs->run[i];
          if (run.row >= row + rows || run.row + run.rows <= row) continue;
          for (int64_t half = 0; half < halves; ++half) {
            const LmAdapterPart& adapter = run.sites[job.runs->site].part[panel.segment + half];
            int64_t size = block_of<Mode>(adapter.rank);
            fetches.add(static_cast<const Weight*>(adapter.b) + panel.block * size,
                        panel.blocks * size * static_cast<int64_t>(sizeof(Weight)));
          }
        }
      upcoming(next, [&](const Weight* from, int64_t elements) {
        fetches.add(from, elements * static_cast<int64_t>(sizeof(Weight)));
      });
    }

    for (int64_t half = 0; half < halves; ++half) {
      const LmSegment& segment = site.segment[panel.segment + half];
      const Weight* weights = panel_weights<Mode>(site, panel, half);
      float* tile = bench.tiles + half * kRowsATile * kTileStride;
      const typename Mode::Operand* x = job.x.data + row * job.x.stride;
      if (single && stream[half]) {
        multiply<Mode, Ahead::kStream>(rows, panel.blocks, steps, x, job.x.stride, weights, block, tile, kTileStride,
                                       false, stream[half]);
      } else {
        // Where few parts pass by, each has to ask for more.
        if (rows > 2 * kMaxRows)
          multiply_parts<Mode, Ahead::kSparse>(rows, part, panel.blocks, steps, x, job.x.stride, weights, block, tile,
                                               fetches);
        else
          multiply_parts<Mode, Ahead::kList>(rows, part, panel.blocks, steps, x, job.x.stride, weights, block, tile,
                                             fetches);
      }
      if (segment.bias)
        for (int64_t j = 0; j < panel.blocks; ++j) {
          int64_t column = (panel.block + j) * kLanes;
          Vec bias = load_part(segment.bias + column, segment.n - column);
          for (int64_t i = 0; i < rows; ++i) {
            float* at = tile + i * kTileStride + j * kLanes;
            store(at, load(at) + bias);
          }
        }
      if (job.runs)
        for (int64_t i = 0; i < job.runs->count; ++i) {
          const LmRun& run = job.runs->run[i];
          int64_t from = std::max(run.row, row), to = std::min(run.row + run.rows, row + rows);
          if (from >= to || !run.sites[job.runs->site].touched) continue;
          expand<Mode>(run.sites[job.runs->site].part[panel.segment + half], job.shrunk, from, to - from, panel.block,
                       panel.blocks, segment.n, tile + (from - row) * kTileStride, kTileStride);
        }
    }
    finish(row, rows, panel, bench.tiles, bench.tiles + kRowsATile * kTileStride);
  });
}

inline Vec activate(int64_t activation, Vec x) { return activation == kSilu ? silu(x) : gelu_tanh(x); }

// Stores a tile, gated where there is an activation, as rows of T.
template <class T>
void store_tile(const LmLinear& job, int64_t row, int64_t rows, const Panel& panel, const float* tile,
                const float* second, T* y) {
  const LmSegment& segment = job.site->segment[panel.segment];
  const float softcap = static_cast<float>(job.softcap);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < panel.blocks; ++j) {
      int64_t column = (panel.block + j) * kLanes;
      Vec value = load(tile + i * kTileStride + j * kLanes);
      if (job.activation) value = activate(job.activation, value) * load(second + i * kTileStride + j * kLanes);
      if (softcap > 0) value = softcapped(value, softcap);
      int64_t offset = job.activation ? column : segment.offset + column;
      store_part(y + (row + i) * job.y_stride + offset, value, segment.n - column);
    }
}

// One call from Python: base and adapters.
template <class Mode>
void linear(const LmLinear& job) {
  using Weight = typename Mode::Weight;
  using Operand = typename Mode::Operand;
  const LmSite& site = *job.site;
  const bool adapted = job.runs.count > 0;
  Scratch& scratch = Scratch::fresh();
  const int64_t stride = operand_stride(site.k);
  Shrunk<Mode> shrunk{nullptr, operand_stride(job.runs.width)};
  if (adapted) shrunk.data = scratch.take<Operand>(job.rows * shrunk.stride);

  const Weight* x = static_cast<const Weight*>(job.x);
  Weight* y = static_cast<Weight*>(job.y);
  const bool as_is = readable<Mode>(site.k);
  Operand* copies = as_is ? nullptr : scratch.take<Operand>(job.rows * stride);
  Rows<Mode> rows{copies, stride};
  if constexpr (sizeof(Weight) == sizeof(Operand))
    if (as_is) rows = {x, job.x_stride};
  const int64_t room = piece_room(site.k, job.runs.count);
  float* tiles = scratch.take<float>(job.threads * Workbench::kTiles);
  const char** pieces = scratch.take<const char*>(job.threads * room);

  run_team(job.threads, [&](Member& member) {
    Workbench bench{tiles + member.id() * Workbench::kTiles, pieces + member.id() * room, room};
    if (!as_is) operand_stage<Mode>(member, x, job.x_stride, job.rows, site.k, copies, stride);
    if (adapted)
      shrink_stage<Mode>(member, job.runs, site.k, shrunk, [&](int64_t row, int64_t) -> Rows<Mode> {
        return {rows.data + row * rows.stride, rows.stride};
      });
    Linear<Mode> stage{&site,  rows,    job.rows, job.activation != kNone, adapted ? &job.runs : nullptr,
                       shrunk};
    linear_stage<Mode>(member, stage, bench,
                       [&](int64_t row, int64_t count, const Panel& panel, const float* tile, const float* second) {
                         store_tile(job, row, count, panel, tile, second, y);
                       });
  });
}

}  // namespace lm
