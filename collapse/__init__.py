"""Layer-collapse analysis: how far can a network be pruned before a layer collapses, and why?

Data flows one way: model + data → scores → masks → diagnostics → training, IMP → tables.
Scores and masks are plain ``dict[str, Tensor]`` keyed by parameter name.
"""

import lazy_loader

__version__ = "0.1.0"

# ``__init__.pyi`` has the names, here and in the packages that are commands: each is imported on
# its first use, so that ``python -m collapse.critical --help`` imports no torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
