"""Tiny models are slower on two threads than on one, and no test reaches for a network."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

torch.set_num_threads(1)
