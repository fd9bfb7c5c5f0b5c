"""Run folders: named by what is run, whole or resumable at any moment, never done twice.

``runs/NAME/`` where NAME is the hash of the configuration and the schema version:

- ``config.json``: the configuration. ``environment.json``: versions, device, command.
- ``state.safetensors``: the last epoch boundary, until the run is done; ``rewind.safetensors``.
- ``training.parquet`` … (``imp.TABLES``), ``masks.safetensors``, ``weights.safetensors``: the
  results; equal runs on one machine give equal bytes. ``timing.parquet``: seconds, which do not.
- ``done.json``: written last, with the checksum of each result.
- ``failed.json``: why it stopped, if it did. ``journal.jsonl``: when it started, resumed, ended.

Every file is written beside and renamed (``files.atomic``), so a kill leaves the old or the new
one. One process works on a run at a time: a lock, which the system frees when the process dies.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from collapse.errors import RequestError, first_line
from collapse.files import atomic
from collapse.files.checksums import CorruptRunError, checksum_of, load_checked, plain, save_checked
from collapse.imp import TABLES, State, frames
from collapse.masks import save_masks
from collapse.tables import SCHEMA_VERSION, provenance

_TENSOR_FILES = ("masks.safetensors", "weights.safetensors")
_RESULTS = {*(f"{name}.parquet" for name in (*TABLES, "timing")), *_TENSOR_FILES}
_KEY = ["level", "epoch", "split"]


class RunBusyError(RequestError):
    """Another process works on the run."""


def name_of(config: Mapping[str, Any]) -> str:
    """The name of a run: 16 hexadecimal digits of its configuration and the schema version."""
    text = json.dumps({"schema_version": SCHEMA_VERSION, **config}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def say(message: str) -> None:
    print(message, file=sys.stderr)


@dataclass
class Run:
    """One run's folder.

    Attributes:
        root: the folder of run folders.
        config: JSON-serialisable; everything that the results depend on, and nothing else.
    """

    root: Path
    config: Mapping[str, Any]
    # The rewind point's checksum, once it is on disk.
    _rewind: str | None = field(default=None, init=False, repr=False)

    @property
    def name(self) -> str:
        """See ``name_of``."""
        return name_of(self.config)

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.root / self.name

    # --- Working on it ------------------------------------------------------------------------

    @contextmanager
    def claimed(
        self,
        device: str = "cpu",
        *,
        precision: str = "float32",
        notes: Sequence[str] = (),
        wait: bool = False,
        say: Callable[[str], None] = say,
    ) -> Iterator[State | None]:
        """Have the run to oneself inside the block.

        A corrupt folder is moved aside, and said so.

        Args:
            device, precision, notes: for ``environment.json``.

        Yields:
            The state to go on from; None to start anew. Check ``done`` first.

        Raises:
            RunBusyError: another process has it, unless ``wait``.
            RequestError: the folder is of a newer schema, or cannot be written.
        """
        lock = self._lock()
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            raise RunBusyError(
                f"run {self.name} is being worked on by {self._holder()}: expected it to be free"
            ) from None
        except OSError as error:
            raise RequestError(f"cannot write '{self.root}': {first_line(error)}") from error
        try:
            self._remove_temporaries()
            try:
                self._check_config()
                state = None if self.done() else self._load_state()
            except CorruptRunError as error:
                say(f"run {self.name} is corrupt ({error}): moved to '{self._move_aside()}'")
                state = None
            if not self._has("done.json"):
                self._write_json("config.json", {"schema_version": SCHEMA_VERSION, **self.config})
                arithmetic = {"threads": torch.get_num_threads(), "precision": precision}
                about = {**provenance("run", device), **arithmetic, "notes": list(notes)}
                self._write_json("environment.json", about)
                with suppress(OSError):
                    (self.folder / "failed.json").unlink()
                where = {} if state is None else {"level": state.level, "epoch": state.epoch}
                self._note("started" if state is None else "resumed", **where)
            yield state
        finally:
            lock.release()

    def _lock(self) -> FileLock:
        # Beside the folders, because a folder may be moved aside while its lock is held.
        locks = self.root / ".locks"
        try:
            locks.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(f"cannot write '{self.root}': {first_line(error)}") from error
        return FileLock(locks / f"{self.name}.lock")

    def busy(self) -> bool:
        """Whether a process is working on it just now."""
        if not (self.root / ".locks" / f"{self.name}.lock").exists():
            return False
        lock = self._lock()
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False

    def _holder(self) -> str:
        with suppress(OSError, ValueError, IndexError, KeyError):
            last = json.loads((self.folder / "journal.jsonl").read_text().splitlines()[-1])
            return f"process {last['process']} on {last['host']}"
        return "another process"

    # --- State --------------------------------------------------------------------------------

    def save_state(self, state: State) -> None:
        """Write an epoch's boundary; the one before it stays until this one is whole.

        Raises:
            RequestError: the disk is full or read-only.
        """
        rewind = None
        if state.rewind is not None:
            rewind = self._save_rewind(state.rewind)
        tensors = {
            **{f"tensors.{name}": tensor for name, tensor in state.tensors.items()},
            **{f"masks.{name}": mask for name, mask in state.masks.items()},
            "rows": _as_bytes(json.dumps(state.rows)),
            "conserved": torch.tensor(state.conserved, dtype=torch.float64),
        }
        about = {
            "level": state.level,
            "epoch": state.epoch,
            "order": list(state.masks),
            "units": state.units,
            "weight_decay": state.weight_decay,
        }
        save_checked(
            self.folder / "state.safetensors",
            tensors,
            {**about, "rewind": rewind, "threads": torch.get_num_threads()},
        )

    def _save_rewind(self, tensors: Mapping[str, Tensor]) -> str:
        """Written once: it never changes."""
        path = self.folder / "rewind.safetensors"
        if self._rewind is None:
            self._rewind = save_checked(path, tensors, {})
        return self._rewind

    def _load_state(self) -> State | None:
        path = self.folder / "state.safetensors"
        if not path.exists():
            return None
        tensors, about = load_checked(path)
        rewind = None
        if about["rewind"] is not None:
            rewind, found = load_checked(self.folder / "rewind.safetensors")
            if found["checksum"] != about["rewind"]:
                raise CorruptRunError("rewind.safetensors is of another state")
            self._rewind = about["rewind"]
        start = len("tensors.")
        return State(
            level=about["level"],
            epoch=about["epoch"],
            masks={name: tensors[f"masks.{name}"] for name in about["order"]},
            tensors={n[start:]: t for n, t in tensors.items() if n.startswith("tensors.")},
            rewind=rewind,
            rows=_rows_of(tensors),
            conserved=tensors["conserved"].tolist(),
        )

    def threads(self) -> int | None:
        """With how many threads the saved state was computed."""
        try:
            with safe_open(self.folder / "state.safetensors", framework="pt") as file:
                return int(json.loads(file.metadata()["collapse"])["threads"])
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return None

    # --- Results ------------------------------------------------------------------------------

    def finish(
        self,
        tables: Mapping[str, pd.DataFrame],
        masks: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
    ) -> None:
        """Write the results, then the done marker, then drop the state."""
        results = dict(tables)
        results["timing"] = results["training"][[*_KEY, "seconds"]]
        results["training"] = results["training"].drop(columns="seconds")
        for name, frame in results.items():
            with atomic(self.folder / f"{name}.parquet") as temporary:
                pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), temporary)
        save_masks(masks, self.folder / "masks.safetensors")
        with atomic(self.folder / "weights.safetensors") as temporary:
            # Tied weights are written under each of their names, as state_dict has them.
            apart = {name: tensor.clone() for name, tensor in plain(weights).items()}
            temporary.write_bytes(save(apart))
        files = [*(f"{name}.parquet" for name in results), "masks.safetensors"]
        checksums = {
            name: checksum_of(self.folder / name) for name in (*files, "weights.safetensors")
        }
        self._write_json("done.json", checksums)
        self._note("finished")
        self.tidy()

    def done(self, *, weights: bool = True) -> bool:
        """Whether it has finished.

        Args:
            weights: look whether these are whole, too, which takes as long as reading them.

        Raises:
            CorruptRunError: it has, but a result is not what was written.
        """
        if not self._has("done.json"):
            return False
        name = "done.json"
        try:
            checksums = json.loads((self.folder / name).read_text())
            if missing := sorted(_RESULTS - set(checksums)):
                raise CorruptRunError(f"{name} does not list {missing[0]}")
            for name, checksum in checksums.items():
                if name == "weights.safetensors" and not weights:
                    continue
                if checksum_of(self.folder / name) != checksum:
                    raise CorruptRunError(f"{name} does not have its checksum")
        except (OSError, ValueError, AttributeError) as error:
            raise CorruptRunError(f"{name}: {first_line(error)}") from error
        return True

    def notes(self) -> list[str]:
        """What a reader has to know of the network: what is not counted, and the like."""
        with suppress(OSError, ValueError, KeyError):
            return list(json.loads((self.folder / "environment.json").read_text())["notes"])
        return []

    def tidy(self) -> None:
        """Drop what a finished run needs no more."""
        for name in ("state.safetensors", "rewind.safetensors", "failed.json"):
            with suppress(OSError):
                (self.folder / name).unlink()

    def fail(self, message: str) -> None:
        """Note why it stopped, where the folder can be written; its state stays."""
        with suppress(RequestError):
            self._write_json("failed.json", {"error": message})
        self._note("failed", error=message)

    def status(self) -> dict[str, Any]:
        """What a user wants to know: ``state`` (done, running, failed, paused, waiting, corrupt),
        ``level``, ``epoch``, ``top1`` (the last test's, percent), ``error``."""
        found: dict[str, Any] = {"run": self.name, "state": "waiting", "error": None}
        rows: list[dict[Any, Any]] = []
        try:
            done = self.done(weights=False)
        except CorruptRunError as error:
            unknown = dict.fromkeys(("level", "epoch", "top1"))
            return found | unknown | {"state": "corrupt", "error": str(error)}
        if done:
            found["state"] = "done"
        elif self.busy():
            found["state"] = "running"
        elif self._has("failed.json"):
            found["state"] = "failed"
            with suppress(OSError, ValueError, KeyError):
                found["error"] = json.loads((self.folder / "failed.json").read_text())["error"]
        elif self._has("state.safetensors"):
            found["state"] = "paused"
        with suppress(RequestError):
            rows = self.table("training").to_dict("records")
        tests = [row for row in rows if row["split"] == "test"]
        last = tests[-1] if tests else {}
        return found | {key: last.get(key) for key in ("level", "epoch", "top1")}

    def table(self, name: str) -> pd.DataFrame:
        """One of the run's tables (``imp.TABLES``); of an unfinished run as far as it has come.

        Raises:
            RequestError: there is nothing yet, or the file cannot be read.
        """
        path = self.folder / f"{name}.parquet"
        try:
            if self._has("done.json"):
                frame = pd.read_parquet(path)
                if name == "training":
                    timing = pd.read_parquet(self.folder / "timing.parquet")
                    frame = frame.merge(timing, on=_KEY, validate="1:1")
                return frame
            with safe_open(self.folder / "state.safetensors", framework="pt") as file:
                about = json.loads(file.metadata()["collapse"])
                state = State(about["level"], about["epoch"], masks={})
                state.rows = _rows_of({"rows": file.get_tensor("rows")})
                state.conserved = file.get_tensor("conserved").tolist()
                state.units, state.weight_decay = about["units"], about["weight_decay"]
            return frames(state)[name]
        except (OSError, SafetensorError, ValueError, KeyError, pa.ArrowException) as error:
            raise RequestError(f"run {self.name} has no table '{name}' yet") from error

    # --- The folder ---------------------------------------------------------------------------

    def _has(self, name: str) -> bool:
        return (self.folder / name).is_file()

    def _check_config(self) -> None:
        if not self._has("config.json"):
            if any(self._has(name) for name in ("done.json", "state.safetensors")):
                raise CorruptRunError("config.json is missing")
            return
        try:
            found = json.loads((self.folder / "config.json").read_text())
            schema = found.pop("schema_version")
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise CorruptRunError(f"config.json: {first_line(error)}") from error
        if isinstance(schema, int) and schema > SCHEMA_VERSION:
            raise RequestError(
                f"run folder '{self.folder}' is of schema version {schema}: expected at most "
                f"{SCHEMA_VERSION}; update layer-collapse, or choose other --runs"
            )
        if found != json.loads(json.dumps(self.config)):
            raise CorruptRunError("config.json is of another run")

    def _move_aside(self) -> Path:
        number = 1
        while (aside := self.root / f"{self.name}.corrupt-{number}").exists():
            number += 1
        shutil.move(self.folder, aside)
        return aside

    def _remove_temporaries(self) -> None:
        """What a killed process was writing; nobody else writes here while we hold the lock."""
        for path in self.folder.glob(".*-*"):
            with suppress(OSError):
                path.unlink()

    def _write_json(self, name: str, content: Any) -> None:
        with atomic(self.folder / name) as temporary:
            temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")

    def _note(self, event: str, **details: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        who = {"process": os.getpid(), "host": platform.node()}
        line = json.dumps({"time": now, "event": event, **who, **details}) + "\n"
        with suppress(OSError), (self.folder / "journal.jsonl").open("a") as file:
            file.write(line)


def _as_bytes(text: str) -> Tensor:
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def _rows_of(tensors: Mapping[str, Tensor]) -> dict[str, list[Any]]:
    rows: dict[str, list[Any]] = json.loads(tensors["rows"].numpy().tobytes())
    return rows
