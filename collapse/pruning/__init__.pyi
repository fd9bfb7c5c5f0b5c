from .loop import Known as Known
from .loop import PathsExhaustedError as PathsExhaustedError
from .loop import Pruned as Pruned
from .loop import Step as Step
from .loop import iterations_of as iterations_of
from .loop import prune as prune
from .loop import target as target
