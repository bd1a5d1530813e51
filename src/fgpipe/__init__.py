"""fgpipe: train many small function-calling LoRA adapters on FunctionGemma and serve them all from one vLLM server."""

__version__ = "0.1.0"
