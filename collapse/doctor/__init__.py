"""Which layer of a network vanished, why, and how to prevent it: ``collapse.doctor(model, …)``."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
