"""Maximal and critical compression: how far can a pruner go before a layer collapses?"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
