"""Machines to plan training for, whatever the tests run on."""

from __future__ import annotations

from fgpipe.training.choose import Machine

GPU = Machine(device="cuda", dtype="bfloat16", flash_attention=True, triton=True, free_bytes=2**34)
CPU = Machine(device="cpu", dtype="float32", flash_attention=False, triton=True, free_bytes=None)
