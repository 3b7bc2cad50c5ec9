"""Capabilities and settings of the machine."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import sys

import torch


def can_compile(device: torch.device) -> bool:
    """Return whether torch.compile can work: on a CPU it needs a C++ compiler, on a GPU Triton."""
    if device.type == "cpu":
        return shutil.which("g++") is not None or shutil.which("clang++") is not None
    return importlib.util.find_spec("triton") is not None


def has_bf16(device: torch.device) -> bool:
    """Return whether the device multiplies bf16 matrices faster than fp32 ones."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and bool(
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )


def keep_freed_memory() -> None:
    """Make the C library keep freed memory (Linux with glibc; no effect elsewhere).

    Every training step allocates and frees the same large blocks. Returned to the system, their
    pages would be cleared each time, which takes as long as the arithmetic. The process holds its
    peak memory until it ends.
    """
    mallopt = (
        getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    )
    if mallopt is None:
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # constants of malloc.h
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, -1)
    mallopt(top_pad, 64 << 20)
