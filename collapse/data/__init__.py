"""Datasets as whole tensors in memory: where they come from, and how they are fed."""

from collapse.data.dataset import Dataset, Split
from collapse.data.loader import PADDING, Feed
from collapse.data.sources import DRAWN, load

__all__ = ["DRAWN", "PADDING", "Dataset", "Feed", "Split", "load"]
