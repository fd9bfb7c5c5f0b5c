from .diagnostics import critical_bars as critical_bars
from .diagnostics import layer_means as layer_means
from .diagnostics import score_against_inverse_size as score_against_inverse_size
from .diagnostics import score_dynamics as score_dynamics
from .fits import line_of_logs as line_of_logs
from .style import save as save
