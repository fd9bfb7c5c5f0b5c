"""``python -m collapse.critical``."""

from collapse.commands.critical import run

run()
