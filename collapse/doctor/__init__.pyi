from .cuts import cut_layers as cut_layers
from .examination import doctor as doctor
from .facts import Distance as Distance
from .facts import Layer as Layer
from .findings import Finding as Finding
from .result import TABLE as TABLE
from .result import Diagnosis as Diagnosis
