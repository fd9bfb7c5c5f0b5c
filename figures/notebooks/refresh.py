"""Execute the notebooks and store their outputs, small and the same each time.

``uv run python figures/notebooks/refresh.py [NAME ...]`` from the top of the checkout. What changes
from run to run without meaning anything (counters, times, versions) is not stored.
"""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

from collapse.files import atomic

FOLDER = Path(__file__).parent
PRESET = 'PRESET = "laptop"'


def notebooks() -> list[Path]:
    """All of them, in the paper's order."""
    return sorted(FOLDER.glob("*.ipynb"))


def execute(path: Path, preset: str = "laptop", timeout: int = 600) -> Any:
    """A notebook run from top to bottom in a kernel of its own.

    Args:
        preset: put in the place of its own.
        timeout: seconds a cell.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace(PRESET, f'PRESET = "{preset}"')
    NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    return notebook


def normalised(notebook: Any) -> Any:
    """Without counters, times and versions, so that only what means something makes a diff."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.execution_count = None
            # Progress and warnings go to stderr; they are no result.
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = None
                if "metadata" in output:
                    output.metadata = {}
                if "image/png" in output.get("data", {}):
                    output.data["image/png"] = smaller(output.data["image/png"])
                if "text/html" in output.get("data", {}):  # ids in it are drawn at random
                    del output.data["text/html"]
    return notebook


def smaller(png: str) -> str:
    """A picture with a palette of 128 colours, which is a third of its size."""
    picture, kept = Image.open(io.BytesIO(base64.b64decode(png))), io.BytesIO()
    few = picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    few.save(kept, "PNG", optimize=True, dpi=picture.info.get("dpi"))
    return base64.b64encode(kept.getvalue()).decode()


def main(names: list[str]) -> None:
    """Refresh the named notebooks, or all."""
    for path in notebooks():
        if not names or path.stem in names:
            notebook = normalised(execute(path))
            with atomic(path) as temporary:
                nbformat.write(notebook, temporary)
            print(path.name)


if __name__ == "__main__":
    main(sys.argv[1:])
