"""Which kind of CPU this is. Virtual machines only say `AMD EPYC` or `Intel Xeon Processor`: family, model and flags say more."""

import re
from pathlib import Path

_ISAS = (
    ("amx_bf16", "AMX"),
    ("avx512_bf16", "AVX512-BF16"),
    ("avx512f", "AVX-512"),
    ("avx2", "AVX2"),
    ("sve", "SVE"),
    ("asimd", "NEON"),
)
"""Widest first: the kernel's word, and ours."""

_MAKERS = {"AuthenticAMD": "AMD", "GenuineIntel": "Intel", "0x41": "Arm"}


def cpu_kind(cpuinfo: str) -> str:
    """`Zen 4`, `Emerald Rapids`, or maker and widest instructions (`AMD, AVX2`), from the text of /proc/cpuinfo."""
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())  # the first CPU stands for all
    maker = fields.get("vendor_id") or fields.get("CPU implementer", "")
    flags = set((fields.get("flags") or fields.get("Features", "")).split())
    family, model = _number(fields.get("cpu family")), _number(fields.get("model"))
    # Zen 3 is of the same family, and has no AVX-512.
    zen4 = 0x10 <= model <= 0x1F or 0x60 <= model <= 0xAF or "avx512_bf16" in flags
    if maker == "AuthenticAMD" and family == 25 and zen4:
        return "Zen 4"
    if maker == "GenuineIntel" and (family, model) == (6, 207):
        return "Emerald Rapids"
    isa = next((ours for word, ours in _ISAS if word in flags), "no vectors")
    return f"{_MAKERS.get(maker, maker or 'unknown')}, {isa}"


def this_cpu() -> tuple[str, str]:
    """Kind and model name of this machine's."""
    text = Path("/proc/cpuinfo").read_text()
    name = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return cpu_kind(text), name[1] if name else "unknown"


def slug(kind: str) -> str:
    """As a folder's name: `amd-avx2`."""
    return re.sub(r"[^a-z0-9]+", "-", kind.lower()).strip("-")


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else -1
