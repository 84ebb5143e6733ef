// Working memory that outlives a call, so that a step allocates nothing once it has seen its largest.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <vector>

#if defined(LM_GUARD_SCRATCH)
#include <sanitizer/asan_interface.h>

#include <cstring>
#endif

namespace lm {

// Hands out pieces until reset. Only the thread that calls into the library takes any, before the team starts.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { release(); }

  // The calling thread's own, emptied: every kernel begins with it.
  static Scratch& fresh() {
    static thread_local Scratch scratch;
    scratch.reset();
    return scratch;
  }

  // Another, emptied, for what outlives a kernel.
  static Scratch& fresh_for_plans() {
    static thread_local Scratch scratch;
    scratch.reset();
    return scratch;
  }

  // Room for `count` values of T, aligned to a page; what it holds is undefined. Throws std::bad_alloc.
  template <class T>
  T* take(int64_t count) {
    size_t bytes = (static_cast<size_t>(count) * sizeof(T) + kPage - 1) / kPage * kPage + kPage;
    if (blocks_.empty() || used_ + bytes > blocks_.back().size) add(bytes);
    char* piece = static_cast<char*>(blocks_.back().memory) + used_;
    used_ += bytes;
    lend(piece, static_cast<size_t>(count) * sizeof(T));
    return reinterpret_cast<T*>(piece);
  }

 private:
  static constexpr size_t kPage = 4096;
  struct Block {
    void* memory;
    size_t size;
  };

  void add(size_t bytes) {
    blocks_.reserve(blocks_.size() + 1);
    void* memory = std::aligned_alloc(kPage, bytes);
    if (!memory) throw std::bad_alloc();
    blocks_.push_back({memory, bytes});
    used_ = 0;
    take_back(blocks_.back());
  }

  // Several blocks mean that the last call outgrew what there was: one of the sum serves the next like it.
  void reset() {
    size_t total = 0;
    for (const Block& block : blocks_) total += block.size;
    if (blocks_.size() > 1) {
      release();
      add(total);
    }
    used_ = 0;
    for (const Block& block : blocks_) take_back(block);
  }

  void release() {
    for (const Block& block : blocks_) std::free(block.memory);
    blocks_.clear();
  }

  // For tests/sanitize: a sanitizer knows blocks, and nothing of pieces. Only what has been taken may be touched, and
  // what nobody has written there is NaN.
#if defined(LM_GUARD_SCRATCH)
  static void lend(char* piece, size_t bytes) {
    ASAN_UNPOISON_MEMORY_REGION(piece, bytes);
    std::memset(piece, 0xff, bytes);
  }
  static void take_back(const Block& block) { ASAN_POISON_MEMORY_REGION(block.memory, block.size); }
#else
  static void lend(char*, size_t) {}
  static void take_back(const Block&) {}
#endif

  std::vector<Block> blocks_;
  size_t used_ = 0;
};

}  // namespace lm
