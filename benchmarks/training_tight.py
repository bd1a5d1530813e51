"""A command of fgpipe in a process that may use less of the GPU than there is free, and so less than it plans with.

Started by `training.py`; takes `bytes` and `words` as one JSON object. Without a GPU the command runs as it is.
"""

from __future__ import annotations

import json
import sys

import torch

from fgpipe.cli import main

if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(settings["bytes"] / torch.cuda.mem_get_info()[1])
    sys.exit(main(settings["words"]))
