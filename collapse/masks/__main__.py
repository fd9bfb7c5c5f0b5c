"""``python -m collapse.masks``."""

from collapse.commands.masks import run

run()
