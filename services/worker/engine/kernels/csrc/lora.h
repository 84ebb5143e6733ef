// LoRA over a mixed batch: each run of rows goes through its own adapter's A, then its B.
//
// The A of projections that share an input lie side by side, so one pass over the rows shrinks for all of them. What
// comes out is scaled there, while it is small. Expanding adds to whatever tile of outputs the caller is working on.
#pragma once

#include <algorithm>

#include "pack.h"

namespace lm {

constexpr int64_t kRowsAShrink = 16;
constexpr int64_t kBlocksAStretch = 32;

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
template <class Mode, Ahead kAhead = Ahead::kNothing>
void expand(const LmAdapterPart& part, const Shrunk<Mode>& from, int64_t row, int64_t rows, int64_t block,
            int64_t blocks, int64_t n, float* tile, int64_t stride, const void* ahead = nullptr) {
  using Weight = typename Mode::Weight;
  if (part.rank) {
    int64_t size = block_of<Mode>(part.rank);
    const Weight* b = static_cast<const Weight*>(part.b) + block * size;
    multiply<Mode, kAhead>(rows, blocks, steps_of<Mode>(part.rank), from.data + row * from.stride + part.column,
                           from.stride, b, size, tile, stride, true, ahead);
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

// What lies some way ahead in the B of a run: a run's B follow one another, and after them comes the next run's.
template <class Mode>
class BytesAhead {
 public:
  BytesAhead(const LmRuns& runs, const LmSite& site, int64_t count)
      : cursor_(runs, kRowsAShrink), site_(site), count_(count) {}

  void follow(const LmAdapterSite& now, int64_t next) {
    end_ = begin_of_next_ = nullptr;
    for (int64_t s = 0; s < site_.count; ++s)
      if (now.part[s].rank)
        end_ = static_cast<const char*>(now.part[s].b) +
               ceil_div(site_.segment[s].n, kLanes) * block_of<Mode>(now.part[s].rank) * kSize;
    if (next >= count_) return;
    int64_t row, rows;
    const LmAdapterSite& then = cursor_.seek(next, &row, &rows);
    for (int64_t s = site_.count - 1; s >= 0; --s)
      if (then.part[s].rank) begin_of_next_ = static_cast<const char*>(then.part[s].b);
  }

  // Null where nothing is known to come.
  const char* at(const LmAdapterPart& part, int64_t block) const {
    const char* ahead = static_cast<const char*>(part.b) + block * block_of<Mode>(part.rank) * kSize + kDistance;
    if (ahead < end_) return ahead;
    return begin_of_next_ ? begin_of_next_ + (ahead - end_) : nullptr;
  }

 private:
  static constexpr int64_t kSize = sizeof(typename Mode::Weight);
  static constexpr int64_t kDistance = 6144;
  RunCursor cursor_;
  const LmSite& site_;
  int64_t count_;
  const char* end_ = nullptr;
  const char* begin_of_next_ = nullptr;
};

// y += what the adapters do, for rows that already hold the base's output.
template <class Mode>
void lora_add(const LmLinear& job, Member& member, const Shrunk<Mode>& shrunk, typename Mode::Operand* copies,
              int64_t copy_stride) {
  using Weight = typename Mode::Weight;
  const Weight* x = static_cast<const Weight*>(job.x);
  Weight* y = static_cast<Weight*>(job.y);
  const LmSite& site = *job.site;
  typename Mode::Operand* copy = copies + member.id() * kRowsAShrink * copy_stride;
  shrink_stage<Mode>(member, job.runs, site.k, shrunk, [&](int64_t row, int64_t rows) -> Rows<Mode> {
    if constexpr (sizeof(Weight) == sizeof(typename Mode::Operand))
      if (readable<Mode>(site.k)) return {x + row * job.x_stride, job.x_stride};
    for (int64_t i = 0; i < rows; ++i) to_operand(copy + i * copy_stride, x + (row + i) * job.x_stride, site.k);
    return {copy, copy_stride};
  });

  // One task: some rows of a run, and all their columns or, where there are few such tasks, a stretch of them.
  RunCursor cursor(job.runs, kRowsAShrink);
  const int64_t pieces = cursor.total();
  const int64_t cut = pieces < 4 * member.size() ? kBlocksAStretch : int64_t{1} << 40;
  int64_t stretches = 0;
  for (int64_t s = 0; s < site.count; ++s) stretches = std::max(stretches, ceil_div(ceil_div(site.segment[s].n, kLanes), cut));
  BytesAhead<Mode> bytes(job.runs, site, pieces);
  member.each_ahead(pieces * stretches, [&](int64_t task, int64_t next) {
    int64_t row, rows;
    const LmAdapterSite& adapter = cursor.seek(task / stretches, &row, &rows);
    bytes.follow(adapter, next / stretches);
    for (int64_t s = 0; s < site.count; ++s) {
      const LmAdapterPart& part = adapter.part[s];
      if (!(part.rank || part.multiplier || part.bias)) continue;
      const LmSegment& segment = site.segment[s];
      const int64_t all = ceil_div(segment.n, kLanes);
      const int64_t each = ceil_div(all, stretches);
      const int64_t begin = task % stretches * each, end = std::min(begin + each, all);
      for (int64_t block = begin; block < end; block += kMaxBlocks) {
        int64_t blocks = std::min<int64_t>(kMaxBlocks, end - block);
        alignas(64) float tile[kRowsAShrink * kMaxBlocks * kLanes];
        constexpr int64_t kStride = kMaxBlocks * kLanes;
        auto over_y = [&](auto&& each_vector) {
          for (int64_t i = 0; i < rows; ++i)
            for (int64_t j = 0; j < blocks; ++j) {
              int64_t column = (block + j) * kLanes;
              each_vector(y + (row + i) * job.y_stride + segment.offset + column, tile + i * kStride + j * kLanes,
                          segment.n - column);
            }
        };
        over_y([](Weight* at, float* in, int64_t left) { store(in, load_part(at, left)); });
        const char* ahead = rows <= kMaxRows ? bytes.at(part, block) : nullptr;
        if (ahead)
          expand<Mode, Ahead::kStream>(part, shrunk, row, rows, block, blocks, segment.n, tile, kStride, ahead);
        else
          expand<Mode>(part, shrunk, row, rows, block, blocks, segment.n, tile, kStride);
        over_y([](Weight* at, float* in, int64_t left) { store_part(at, load(in), left); });
      }
    }
  });
}

}  // namespace lm
