"""Training a masked network."""

from collapse.train.loop import DivergedError, Trainer, train

__all__ = ["DivergedError", "Trainer", "train"]
