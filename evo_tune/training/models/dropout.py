"""Dropout whose noise is cheap on a CPU: torch draws one number of 53 bits a channel, this draws 16 bits.

Half the time or less, and in a small training that is a tenth of everything. Knows no model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Dropout"]


class Dropout(nn.Dropout):
    """`nn.Dropout`; on a CPU its share is rounded to 1/65536, and its noise is another one."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return input
        if input.device.type != "cpu":
            return super().forward(input)
        n = input.numel()
        words = torch.empty(-(-n // 4), dtype=torch.int64).random_(-(2**63), None)  # four channels' noise in each
        noise = words.view(torch.int16)[:n].view(input.shape)
        kept = (noise >= round(self.p * 65536) - 32768).to(input.dtype)
        return input * kept.mul_(1.0 / (1.0 - self.p))
