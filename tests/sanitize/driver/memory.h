// Buffers of exactly the size that they are said to have, each a heap block of its own, so that a sanitizer sees the
// first byte beyond any of them; and what is undefined in them is no number.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "simd.h"

namespace sanitize {

[[noreturn]] inline void fail(const std::string& what) {
  std::fprintf(stderr, "sanitize: %s\n", what.c_str());
  std::_Exit(1);  // at once: other threads may be at work
}

// Numbers that are the same in every run.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}

  float number(float spread) { return std::uniform_real_distribution<float>(-spread, spread)(engine_); }
  int64_t below(int64_t limit) { return std::uniform_int_distribution<int64_t>(0, limit - 1)(engine_); }

  template <class T>
  void shuffle(std::vector<T>& values) {
    std::shuffle(values.begin(), values.end(), engine_);
  }

 private:
  std::mt19937_64 engine_;
};

class Memory {
 public:
  // Every buffer of this name is made one element short from now on: a kernel that uses all of it must be caught.
  static void shorten(const std::string& name) { short_one() = name; }

  // Of all buffers that there have been.
  static std::set<std::string>& names() {
    static std::set<std::string> names;
    return names;
  }

  // As torch.empty has it: a float in it is NaN, an index out of bounds.
  template <class T>
  T* empty(const std::string& name, int64_t count) {
    return static_cast<T*>(take(name, count, sizeof(T), 0xff));
  }

  template <class T>
  T* zeros(const std::string& name, int64_t count) {
    return static_cast<T*>(take(name, count, sizeof(T), 0));
  }

  template <class T>
  T* random(const std::string& name, int64_t count, float spread, Random& dice) {
    T* made = empty<T>(name, count);
    for (int64_t i = 0; i < this->count<T>(made); ++i) lm::put(made + i, dice.number(spread));
    return made;
  }

  template <class T>
  T* copy(const std::string& name, const std::vector<T>& values) {
    T* made = empty<T>(name, static_cast<int64_t>(values.size()));
    if (bytes(made)) std::memcpy(made, values.data(), bytes(made));
    return made;
  }

  // Of a buffer, as it was made.
  size_t bytes(const void* buffer) const { return sizes_.at(buffer); }

  template <class T>
  int64_t count(const T* buffer) const {
    return static_cast<int64_t>(bytes(buffer) / sizeof(T));
  }

 private:
  static std::string& short_one() {
    static std::string name;
    return name;
  }

  void* take(const std::string& name, int64_t count, size_t size, int fill) {
    // What several threads do at once, one has done before: then this looks, and writes nothing. A lock would put calls
    // in order, and hide races from the sanitizer.
    if (!names().count(name)) names().insert(name);
    const size_t bytes = static_cast<size_t>(name == short_one() && count > 0 ? count - 1 : count) * size;
    blocks_.emplace_back(std::malloc(bytes), std::free);
    void* made = blocks_.back().get();
    if (!made) fail("no memory for " + name);
    std::memset(made, fill, bytes);
    sizes_[made] = bytes;
    return made;
  }

  std::vector<std::unique_ptr<void, void (*)(void*)>> blocks_;
  std::map<const void*, size_t> sizes_;
};

// What a call leaves behind, to be held against another's bit for bit.
class Outcome {
 public:
  void add(const Memory& memory, const void* buffer) {
    bytes_.append(static_cast<const char*>(buffer), memory.bytes(buffer));
  }
  bool operator==(const Outcome& other) const { return bytes_ == other.bytes_; }
  bool operator!=(const Outcome& other) const { return bytes_ != other.bytes_; }

 private:
  std::string bytes_;
};

}  // namespace sanitize
