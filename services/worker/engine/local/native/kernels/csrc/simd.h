// Vectors of float32 and bfloat16 for whatever width the compiler was told to use.
//
// Written with the vector extensions that GCC and Clang share, so that one source serves AVX-512, AVX2, SSE2 and
// NEON; intrinsics stand only where the extensions have no word for an instruction.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#if defined(__clang__)
#define LM_UNROLL _Pragma("unroll")
#else
#define LM_UNROLL _Pragma("GCC unroll 16")
#endif

namespace lm {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

using bf16 = uint16_t;

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t VecI __attribute__((vector_size(kLanes * 4)));
typedef uint32_t VecU __attribute__((vector_size(kLanes * 4)));
typedef uint16_t VecH __attribute__((vector_size(kLanes * 2)));

// The same at addresses that are not aligned to the vector.
typedef float VecAny __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef uint32_t VecUAny __attribute__((vector_size(kLanes * 4), aligned(2), may_alias));
typedef uint16_t VecHAny __attribute__((vector_size(kLanes * 2), aligned(2), may_alias));

inline Vec splat(float value) { return value - Vec{}; }
inline VecU splat_u(uint32_t value) { return value - VecU{}; }

inline float to_float(float value) { return value; }
inline float to_float(bf16 value) {
  uint32_t bits = static_cast<uint32_t>(value) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}

// Rounds to nearest even, and keeps NaN a NaN, as torch does.
inline bf16 to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if (value != value) return 0x7fc0;
  return static_cast<bf16>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline void put(float* to, float value) { *to = value; }
inline void put(bf16* to, float value) { *to = to_bf16(value); }

inline Vec load(const float* from) { return *reinterpret_cast<const VecAny*>(from); }
inline Vec load(const bf16* from) {
  VecU wide = __builtin_convertvector(*reinterpret_cast<const VecHAny*>(from), VecU);
  return reinterpret_cast<Vec>(wide << 16);
}

inline void store(float* to, Vec value) { *reinterpret_cast<VecAny*>(to) = value; }
inline void store(bf16* to, Vec value) {
#if defined(__AVX512BF16__)
  __m256bh narrow = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(value));
  std::memcpy(to, &narrow, sizeof narrow);
#else
  VecU bits = reinterpret_cast<VecU>(value);
  VecU rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  VecU nan = reinterpret_cast<VecU>(value != value);
  rounded = (rounded & ~nan) | (nan & splat_u(0x7fc0));
  *reinterpret_cast<VecHAny*>(to) = __builtin_convertvector(rounded, VecH);
#endif
}

// The first `count` lanes, the others zero.
template <class T>
inline Vec load_part(const T* from, long count) {
  if (count >= kLanes) return load(from);
  float lanes[kLanes] = {};
  for (long i = 0; i < count; ++i) lanes[i] = to_float(from[i]);
  return load(lanes);
}

template <class T>
inline void store_part(T* to, Vec value, long count) {
  if (count >= kLanes) return store(to, value);
  float lanes[kLanes];
  store(lanes, value);
  for (long i = 0; i < count; ++i) put(to + i, lanes[i]);
}

inline Vec maximum(Vec a, Vec b) { return a > b ? a : b; }

inline float sum(Vec value) {
  float lanes[kLanes];
  store(lanes, value);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}

inline float highest(Vec value) {
  float lanes[kLanes];
  store(lanes, value);
  float best = lanes[0];
  for (int i = 1; i < kLanes; ++i) best = lanes[i] > best ? lanes[i] : best;
  return best;
}

// e^x to about 2 ulp, after Cephes: x = n ln 2 + r, a polynomial in r, and 2^n through the exponent bits. What is
// below the smallest normal number becomes about 1e-38, and what would overflow the largest power of two. NaN stays
// NaN: each comparison is false for it and keeps x, and one that arithmetic makes has no bits that the shift would move
// into its exponent.
inline Vec exponential(Vec x) {
  x = x < splat(-87.3f) ? splat(-87.3f) : x;
  x = x > splat(88.3f) ? splat(88.3f) : x;
  const Vec magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
  Vec n = x * splat(1.44269504088896341f) + magic;
  VecI whole = reinterpret_cast<VecI>(n);
  n = n - magic;
  Vec r = x - n * splat(0.693359375f) + n * splat(2.12194440e-4f);
  Vec p = splat(1.9875691500e-4f);
  p = p * r + splat(1.3981999507e-3f);
  p = p * r + splat(8.3334519073e-3f);
  p = p * r + splat(4.1665795894e-2f);
  p = p * r + splat(1.6666665459e-1f);
  p = p * r + splat(5.0000001201e-1f);
  p = p * r * r + r + splat(1.0f);
  return reinterpret_cast<Vec>(reinterpret_cast<VecI>(p) + (whole << 23));
}

inline Vec hyperbolic_tangent(Vec x) {
  return splat(1.0f) - splat(2.0f) / (exponential(x * splat(2.0f)) + splat(1.0f));
}

inline Vec softcapped(Vec x, float cap) { return splat(cap) * hyperbolic_tangent(x * splat(1.0f / cap)); }

// Zero where e^-x would leave the range of `exponential`, and the true value is below 1e-36; NaN for minus infinity, as in
// torch.
inline Vec silu(Vec x) { return x < splat(-88.0f) ? x - x : x / (splat(1.0f) + exponential(-x)); }

inline Vec gelu_tanh(Vec x) {
  Vec inner = splat(0.7978845608028654f) * (x + splat(0.044715f) * x * x * x);
  return splat(0.5f) * x * (splat(1.0f) + hyperbolic_tangent(inner));
}

}  // namespace lm
