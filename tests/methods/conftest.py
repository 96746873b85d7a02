"""Tiny models are slower on two threads than on one, no test reaches for a network, and little here is garbage."""

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import accelerate.utils.memory
import torch
import transformers  # noqa: F401  (what is imported now is never looked through again)

torch.set_num_threads(1)
# transformers.Trainer collects garbage at the end of every training: half a second in a process that holds libraries.
accelerate.utils.memory.clear_device_cache = lambda garbage_collection=False: None
gc.collect()
gc.freeze()
