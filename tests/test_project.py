"""The project's own rules: files that must agree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def test_environment_equals_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = [entry["pip"] for entry in conda if isinstance(entry, dict)]
    assert sorted(pip) == sorted(project["dependencies"])
    assert f"python{project['requires-python']}" in conda


def test_constraints_pin_every_dependency() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*config["project"]["dependencies"], *config["dependency-groups"]["dev"]]
    names = {re.split("[><=]", line)[0].lower() for line in wanted}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0] for line in lines if "==" in line}
    assert names <= pinned


def test_readme_ci_and_workflow_run_the_same_tests() -> None:
    command = "python3 -m pip install -q uv && uv run pytest"
    readme, ci = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text()
    assert f"\n{command}\n" in readme
    assert f"\n{command}\n" in ci
    assert "bash .ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()


def test_files_fit_one_sitting() -> None:
    for path in (
        p
        for folder in ("collapse", "analysis", "figures", "tests")
        for p in ROOT.glob(f"{folder}/**/*.py")
    ):
        assert len(path.read_text().splitlines()) <= 420, path


def test_links_of_the_documents_lead_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("analysis/**/*.md")]
    links = 0
    for document in documents:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
            if not target.startswith(("http", "mailto")):
                links += 1
                assert (document.parent / target).exists(), f"{document.name}: {target}"
    assert links > 0
