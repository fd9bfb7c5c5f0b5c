from .result import Critical as Critical
from .result import Point as Point
from .search import critical_compression as critical_compression
from .table import frame_of as frame_of
from .table import measure as measure
from .work import expected as expected
from .work import one_pass as one_pass
