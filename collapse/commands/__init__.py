"""The command lines: options in, tables out. The work is done in the modules of the same names.

A command is imported by a ``__main__`` alone, and imports torch and pandas inside ``main`` only,
after the request has been read and its names were checked: ``--help`` and a typo answer at once.
"""

# The commands of ``python -m analysis``, which the wheel does not hold.
CHECKOUT = {
    "report": "one page about one network",
    "sweep": "run a grid of models, datasets, pruners, … from a file",
    "status": "how far the runs of a sweep are",
    "collect": "one table of all runs of a sweep so far",
    "questions": "the reviewers' nine questions, answered",
    "agreement": "our results against the published numbers",
    "leaderboard": "every pruner, and yours, on one sortable page",
    "cubist": "every pruner at the size of the sparsest networks that are known",
    "reproduce": "as many of the paper's points as fit a time",
}
