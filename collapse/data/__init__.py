"""Datasets as whole tensors in memory: where they come from, and how they are fed."""

from collapse.data.dataset import Dataset, Split
from collapse.data.given import Given, tokens
from collapse.data.loader import PADDING, Feed
from collapse.data.sources import DRAWN, for_scoring, load

__all__ = ["DRAWN", "PADDING", "Dataset", "Feed", "Given", "Split", "for_scoring", "load", "tokens"]
