"""``python -m collapse.conservation``."""

from collapse.commands.conservation import run

run()
