"""``python -m collapse.train``."""

from collapse.commands.train import run

run()
