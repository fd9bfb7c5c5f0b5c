"""One file a pruner, named as it; every file in this folder is loaded and registers its pruner."""

import importlib
import pkgutil

# The paper's five in its order, then all others by name.
_PAPER = ("random", "magnitude", "snip", "grasp", "synflow")
_names = sorted(
    (module.name for module in pkgutil.iter_modules(__path__)),
    key=lambda name: (_PAPER.index(name) if name in _PAPER else len(_PAPER), name),
)
for _name in _names:
    importlib.import_module(f"{__name__}.{_name}")
