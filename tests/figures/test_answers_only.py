"""Figures draw answers: none of them computes a mean or an interval."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

FIGURES = Path(__file__).parents[2] / "figures"
# Of pandas and NumPy; of seaborn, what estimates by itself.
STATISTICS = {
    *("mean", "median", "std", "var", "sem", "quantile", "percentile", "average", "nanmean"),
    *("agg", "aggregate", "describe", "groupby_mean", "bootstrap", "ttest_1samp"),
    *("pointplot", "barplot", "boxplot", "violinplot", "regplot", "lmplot", "lineplot"),
}
MODULES = ("statistics", "scipy", "analysis.questions.statistics", "analysis.questions.answers")


def computed(path: Path) -> Iterator[str]:
    """What of a file computes a statistic."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr in STATISTICS:
            yield node.attr
        elif isinstance(node, ast.Constant) and node.value in STATISTICS:
            yield str(node.value)  # as in `.agg("mean")` or `estimator="mean"`
        elif isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or ""
            names = [f"{module}.{alias.name}".strip(".") for alias in node.names]
            yield from (n for n in (module, *names) if n.startswith(MODULES))
            yield from (alias.name for alias in node.names if alias.name in STATISTICS)


def test_no_figure_computes_a_statistic() -> None:
    paths = sorted(FIGURES.glob("*.py"))
    assert len(paths) > 15
    assert {path.name: list(computed(path)) for path in paths if list(computed(path))} == {}


@pytest.mark.parametrize(
    "line",
    [
        "rows.groupby('compression')['best_top1'].mean()",
        "rows.groupby('compression').agg('mean')",
        "np.std(rows['best_top1'])",
        "from numpy import median",
        "from analysis.questions import statistics",
        "from analysis.questions.answers import means",
        "import scipy.stats as s",
        "sns.pointplot(rows, x='pruner', y='best_top1')",
    ],
)
def test_a_planted_statistic_is_found(tmp_path: Path, line: str) -> None:
    planted = tmp_path / "sanity.py"
    planted.write_text((FIGURES / "sanity.py").read_text() + f"\n{line}\n")
    assert list(computed(planted))
