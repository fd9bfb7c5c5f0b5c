"""Masks: counts, exact-k selection, application, files.

A mask is a boolean tensor by parameter name; True is kept. Of equal scores the one that comes
first is kept: parameters in the model's order, then flat index. There is no minimum a layer.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
