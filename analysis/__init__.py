"""Experiments on the engine: configuration → tidy table. Run from a checkout."""
