"""What every test gets: no network, no telemetry, two threads at most."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Spinning OpenMP threads starve each other when tests share the machine with anything else.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
