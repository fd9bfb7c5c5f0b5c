"""``python -m collapse.doctor``."""

from collapse.commands.doctor import run

run()
