"""``python -m collapse.imp``."""

from collapse.commands.imp import run

run()
