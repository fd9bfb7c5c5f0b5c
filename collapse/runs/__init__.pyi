from .execution import TimeLimitError as TimeLimitError
from .execution import perform as perform
from .experiment import Experiment as Experiment
from .folder import Run as Run
from .folder import RunBusyError as RunBusyError
