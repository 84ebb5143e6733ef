"""The kind of CPU by family, model and flags, where a virtual machine's name says neither."""

import pytest

from bench.results.cpu_kind import cpu_kind, slug, this_cpu

AVX512 = "fpu sse2 avx avx2 fma avx512f avx512bw avx512vl"


def x86(vendor: str, family: int, model: int, flags: str, name: str = "some CPU") -> str:
    one = (
        f"vendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\nmodel name\t: {name}\n"
        f"stepping\t: 2\nflags\t\t: {flags}\nbogomips\t: 3992.49\n"
    )
    return f"processor\t: 0\n{one}\nprocessor\t: 1\n{one}\n"


ARM = (
    "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd evtstrm aes {}\n"
    "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x3\nCPU part\t: 0xd0c\n"
)


@pytest.mark.parametrize(
    ("cpuinfo", "kind"),
    [
        (x86("AuthenticAMD", 25, 17, AVX512 + " avx512_bf16", "AMD EPYC"), "Zen 4"),  # Genoa
        (x86("AuthenticAMD", 25, 97, AVX512, "AMD Ryzen 9 7950X"), "Zen 4"),  # the flag may be hidden
        (x86("AuthenticAMD", 25, 160, AVX512 + " avx512_bf16", "AMD EPYC"), "Zen 4"),  # Bergamo
        (
            x86("AuthenticAMD", 25, 1, AVX512 + " avx512_bf16", "AMD EPYC"),
            "Zen 4",
        ),  # a model made up by a host
        (x86("AuthenticAMD", 25, 1, "sse2 avx avx2", "AMD EPYC"), "AMD, AVX2"),  # Zen 3: Milan
        (x86("AuthenticAMD", 25, 33, "sse2 avx avx2"), "AMD, AVX2"),  # Zen 3: Vermeer
        (x86("AuthenticAMD", 26, 2, AVX512 + " avx512_bf16", "AMD EPYC"), "AMD, AVX512-BF16"),  # Zen 5
        (x86("AuthenticAMD", 23, 1, "sse2 avx avx2", "AMD EPYC"), "AMD, AVX2"),
        (
            x86("GenuineIntel", 6, 207, AVX512 + " avx512_bf16", "Intel Xeon Processor"),
            "Emerald Rapids",
        ),
        (x86("GenuineIntel", 6, 143, AVX512 + " avx512_bf16 amx_bf16 amx_tile"), "Intel, AMX"),
        (x86("GenuineIntel", 6, 85, AVX512), "Intel, AVX-512"),
        (x86("GenuineIntel", 6, 23, "sse2 ssse3"), "Intel, no vectors"),
        (ARM.format(""), "Arm, NEON"),
        (ARM.format("sve"), "Arm, SVE"),
        ("", "unknown, no vectors"),
    ],
)
def test_a_cpu_is_named_by_what_it_computes_with(cpuinfo: str, kind: str) -> None:
    assert cpu_kind(cpuinfo) == kind


def test_a_word_within_another_is_not_a_flag() -> None:
    assert cpu_kind(x86("GenuineIntel", 6, 151, "sse2 not_avx2 xavx512f")) == "Intel, no vectors"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("Zen 4", "zen-4"),
        ("AMD, AVX2", "amd-avx2"),
        ("Intel, AVX-512", "intel-avx-512"),
        ("unknown, no vectors", "unknown-no-vectors"),
    ],
)
def test_a_kind_is_a_folders_name(kind: str, name: str) -> None:
    assert slug(kind) == name


def test_this_machine_has_a_kind_and_a_name() -> None:
    kind, name = this_cpu()
    assert slug(kind)
    assert name
