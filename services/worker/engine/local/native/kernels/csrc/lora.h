// LoRA over a mixed batch: each run of rows goes through its own adapter's A, then its B.
//
// The A of projections that share an input lie side by side, so one pass over the rows shrinks for all of them. What
// comes out is scaled there, while it is small. Expanding adds to whatever tile of outputs the caller is working on.
#pragma once

#include <algorithm>

#include "pack.h"

namespace lm {

constexpr int64_t kRowsAShrink = 16;

// The shrunk rows of a step, [rows, width].
template <class Mode>
struct Shrunk {
  typename Mode::Operand* data;
  int64_t stride;
};

// Walks through pieces of runs, in order. Task numbers only grow for a thread, so it never starts again from the front.
class RunCursor {
 public:
  RunCursor(const LmRuns& runs, int64_t limit) : runs_(runs), limit_(limit) {}

  int64_t pieces(const LmRun& run) const {
    return run.sites[runs_.site].touched ? ceil_div(run.rows, limit_) : 0;
  }

  int64_t total() const {
    int64_t total = 0;
    for (int64_t i = 0; i < runs_.count; ++i) total += pieces(runs_.run[i]);
    return total;
  }

  // Finds piece number `task`: its adapter and rows.
  const LmAdapterSite& seek(int64_t task, int64_t* row, int64_t* rows) {
    while (task - first_ >= pieces(runs_.run[run_])) first_ += pieces(runs_.run[run_++]);
    const LmRun& run = runs_.run[run_];
    int64_t part = even_part(run.rows, limit_);
    int64_t begin = (task - first_) * part;
    *row = run.row + begin;
    *rows = std::min(part, run.rows - begin);
    return run.sites[runs_.site];
  }

 private:
  const LmRuns& runs_;
  int64_t limit_;
  int64_t run_ = 0;
  int64_t first_ = 0;  // the number of the run's first piece
};

// Shrinks all runs. `operands(row, rows)` returns rows of the input as `multiply` reads them.
template <class Mode, class Operands>
void shrink_stage(Member& member, const LmRuns& runs, int64_t depth, const Shrunk<Mode>& to, Operands&& operands) {
  using Weight = typename Mode::Weight;
  RunCursor cursor(runs, kRowsAShrink);
  RunCursor ahead(runs, kRowsAShrink);
  int64_t block = block_of<Mode>(depth);
  int64_t count = cursor.total();
  member.each_ahead(count, [&](int64_t task, int64_t next) {
    int64_t row, rows;
    const LmAdapterSite& site = cursor.seek(task, &row, &rows);
    if (site.width == 0) return;
    const Weight* a = static_cast<const Weight*>(site.a);
    const Weight* after = nullptr;
    if (next < count) {
      int64_t next_row, next_rows;
      after = static_cast<const Weight*>(ahead.seek(next, &next_row, &next_rows).a);
    }
    Rows<Mode> x = operands(row, rows);
    int64_t blocks = site.width / kLanes;
    for (int64_t at = 0; at < blocks; at += kMaxBlocks) {
      int64_t now = std::min<int64_t>(kMaxBlocks, blocks - at);
      alignas(64) float tile[kRowsAShrink * kMaxBlocks * kLanes];
      constexpr int64_t kStride = kMaxBlocks * kLanes;
      const Weight* b = a + at * block;
      const Weight* coming = at + now < blocks ? b + now * block : after;
      if (coming && rows <= kMaxRows)
        multiply<Mode, Ahead::kStream>(rows, now, steps_of<Mode>(depth), x.data, x.stride, b, block, tile, kStride,
                                       false, coming);
      else
        multiply<Mode>(rows, now, steps_of<Mode>(depth), x.data, x.stride, b, block, tile, kStride, false);
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < now; ++j)
          store(to.data + (row + i) * to.stride + (at + j) * kLanes,
                load(tile + i * kStride + j * kLanes) * load(site.scales + (at + j) * kLanes));
    }
  });
}

// Applies one adapter to a tile of one projection: rows [row, row + rows) of the batch, `blocks` blocks of columns from
// `block` on, `n` columns in all.
template <class Mode>
void expand(const LmAdapterPart& part, const Shrunk<Mode>& from, int64_t row, int64_t rows, int64_t block,
            int64_t blocks, int64_t n, float* tile, int64_t stride) {
  using Weight = typename Mode::Weight;
  if (part.rank) {
    int64_t size = block_of<Mode>(part.rank);
    const Weight* b = static_cast<const Weight*>(part.b) + block * size;
    multiply<Mode>(rows, blocks, steps_of<Mode>(part.rank), from.data + row * from.stride + part.column, from.stride, b,
                   size, tile, stride, true);
  }
  if (!part.multiplier && !part.bias) return;
  for (int64_t j = 0; j < blocks; ++j) {
    int64_t column = (block + j) * kLanes;
    Vec multiplier = part.multiplier ? load_part(part.multiplier + column, n - column) : splat(1.0f);
    Vec bias = part.bias ? load_part(part.bias + column, n - column) : Vec{};
    for (int64_t i = 0; i < rows; ++i) {
      float* at = tile + i * stride + j * kLanes;
      store(at, load(at) * multiplier + bias);
    }
  }
}

}  // namespace lm
