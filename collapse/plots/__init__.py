"""Plots of the commands (``--plot``), in the style that the figures share."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
