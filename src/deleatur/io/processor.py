"""Whose processor this is."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path


@cache
def is_intel() -> bool:
    """Is it Intel's, as far as the system says?"""
    info = Path("/proc/cpuinfo")
    return "GenuineIntel" in (info.read_text(encoding="utf-8") if info.exists() else platform.processor())
