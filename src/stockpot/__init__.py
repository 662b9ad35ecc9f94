"""Stockpot merges any number of Stable Diffusion checkpoints into one."""

__version__ = "0.1.0"
