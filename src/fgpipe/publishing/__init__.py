"""Published adapters: immutable numbered versions, one small pointer file a name, replaced in one step.

`fgpipe.adapters_folder` reads the folder; `registry` writes it; `card` describes a version.
"""
