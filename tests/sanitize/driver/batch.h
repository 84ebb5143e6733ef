// The sequences of a step, and where their contexts lie in the cache.
#pragma once

#include <numeric>

#include "model.h"

namespace sanitize {

struct Sequence {
  int64_t rows;
  int64_t context;  // positions, those rows included
};

// The blocks that sequences hold, of all that there are: in no order, and the last one is the last sequence's.
inline std::vector<std::vector<int32_t>> deal_blocks(Random& dice, const std::vector<Sequence>& sequences) {
  std::vector<std::vector<int32_t>> held;
  int64_t total = 0;
  for (const Sequence& one : sequences) total += round_up(one.context, kBlockSize) / kBlockSize;
  std::vector<int32_t> blocks(static_cast<size_t>(total - 1));
  std::iota(blocks.begin(), blocks.end(), 0);
  dice.shuffle(blocks);
  blocks.push_back(static_cast<int32_t>(total - 1));
  auto next = blocks.begin();
  for (const Sequence& one : sequences) {
    auto end = next + round_up(one.context, kBlockSize) / kBlockSize;
    held.emplace_back(next, end);
    next = end;
  }
  return held;
}

inline LmSequences make_sequences(Memory& memory, const std::vector<Sequence>& sequences,
                                  const std::vector<std::vector<int32_t>>& held) {
  std::vector<int32_t> first_row{0}, context, first_block, blocks;
  for (size_t i = 0; i < sequences.size(); ++i) {
    first_row.push_back(first_row.back() + static_cast<int32_t>(sequences[i].rows));
    context.push_back(static_cast<int32_t>(sequences[i].context));
    first_block.push_back(static_cast<int32_t>(blocks.size()));  // the kernels need no end of the last one's
    blocks.insert(blocks.end(), held[i].begin(), held[i].end());
  }
  return {memory.copy("first row", first_row), memory.copy("context", context),
          memory.copy("first block", first_block), memory.copy("blocks", blocks),
          static_cast<int64_t>(sequences.size())};
}

class Batch {
 public:
  Batch(Memory& memory, Random& dice, const std::vector<Sequence>& sequences) {
    const auto held = deal_blocks(dice, sequences);
    std::vector<int64_t> slots, past;
    for (size_t i = 0; i < sequences.size(); ++i) {
      blocks_ += static_cast<int64_t>(held[i].size());
      for (int64_t at = 0; at < sequences[i].context; ++at) {
        const int64_t slot = held[i][static_cast<size_t>(at / kBlockSize)] * kBlockSize + at % kBlockSize;
        (at < sequences[i].context - sequences[i].rows ? past : slots).push_back(slot);
      }
    }
    rows_ = static_cast<int64_t>(slots.size());
    past_rows_ = static_cast<int64_t>(past.size());
    slots_ = memory.copy("slots", slots);
    past_slots_ = memory.copy("past slots", past);
    sequences_ = make_sequences(memory, sequences, held);
  }

  int64_t rows() const { return rows_; }
  int64_t blocks() const { return blocks_; }  // of the whole cache
  const LmSequences& sequences() const { return sequences_; }
  const int64_t* slots() const { return slots_; }
  // Of the positions that steps before this one have filled.
  int64_t past_rows() const { return past_rows_; }
  const int64_t* past_slots() const { return past_slots_; }

 private:
  int64_t rows_ = 0, past_rows_ = 0, blocks_ = 0;
  const int64_t* slots_;
  const int64_t* past_slots_;
  LmSequences sequences_;
};

}  // namespace sanitize
