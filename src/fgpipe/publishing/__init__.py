"""Published adapters: immutable numbered versions, one small pointer file a name, replaced in one step.

`layout` reads the folder with the standard library alone and runs inside vLLM; `registry` writes it; `card` describes.
"""
