"""Which arithmetic a device has."""

from __future__ import annotations

import torch


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself; elsewhere PyTorch does so, many times slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
