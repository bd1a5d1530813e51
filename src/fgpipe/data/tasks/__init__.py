"""Deterministic generators of the three shipped tasks; `python -m fgpipe.data.tasks` rebuilds `data/` byte for byte."""
