"""Fit LoRA adapters."""
