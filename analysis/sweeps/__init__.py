"""Sweeps: the file that describes one, and running it here, in shards or on Ray."""

__all__ = []
