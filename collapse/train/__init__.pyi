from .loop import DivergedError as DivergedError
from .loop import Trainer as Trainer
from .loop import train as train
