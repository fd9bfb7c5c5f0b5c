"""Conservation laws on any network: the ledger, and scores held to it."""

from collapse.conservation.auditing import Audit, Coverage, audit, likely_cause
from collapse.conservation.identities import ledger, outside
from collapse.conservation.rows import worst
from collapse.conservation.slopes import (
    inverse_size_fit,
    layer_statistics,
    neuron_sums,
    signed_saliency,
)

__all__ = [
    "Audit",
    "Coverage",
    "audit",
    "inverse_size_fit",
    "layer_statistics",
    "ledger",
    "likely_cause",
    "neuron_sums",
    "outside",
    "signed_saliency",
    "worst",
]
