"""``python -m collapse.pruning``."""

from collapse.commands.pruning import run

run()
