"""Checkpoints of a run: written in the background, verified when read."""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from diffjax.cluster import processes
from diffjax.cluster.watchdog import SLOW
from diffjax.from_config.configuration import tree_differences
from diffjax.runs import checksums, phases
from diffjax.system import paths
from diffjax.system.files import shown
from diffjax.typing import PyTree
from diffjax.warning import DiffjaxWarning

MOST = 100
"""How many checkpoints to try, newest first, before all are considered damaged."""


class DamagedCheckpoint(ValueError):
  """A checkpoint that cannot be read, or whose files differ from what was written."""


class Checkpoints:
  """The checkpoints in one folder, `<folder>/<step>/`: the newest `keep` of them, or those with the lowest loss.

  Each holds the state and, as JSON, the run's config, the state of the data iterator, and the shape and dtype of every
  leaf. It appears under its final name only once it is complete, with a checksum for each of its files. With several
  processes all must call the same methods in the same order; each writes its own shards, and process 0 decides.

  Args:
    folder: created if missing, unless `read_only`; all processes must see it.
    keep: how many to keep.
    best: keep those with the lowest loss instead of the newest.
    read_only: change nothing on disk; otherwise damaged checkpoints are renamed to `damaged-<step>` when found, so
      that the run can write that step again.
  """

  def __init__(self, folder: pathlib.Path, keep: int = 1, *, best: bool = False, read_only: bool = False):
    import orbax.checkpoint as ocp

    self._ocp, self._read_only, self._error = ocp, read_only, None
    self.folder = paths.as_path(folder) if paths.is_remote(folder) else pathlib.Path(folder).absolute()
    if best and not read_only:
      self._set_aside_damaged()  # the manager reads the losses when it is created
    options = ocp.CheckpointManagerOptions(
      max_to_keep=keep,
      best_fn=(lambda metrics: metrics["loss"]) if best else None,
      best_mode="min",
      create=not read_only,
      cleanup_tmp_directories=not read_only,
      async_options=ocp.AsyncOptions(
        timeout_secs=SLOW * processes.STUCK_AFTER,
        post_finalization_callback=self._write_checksums,
        barrier_sync_fn=self._wait_for_others,
      ),
      # without this, barriers for the same step of two folders would have the same key
      multiprocessing_options=ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=self.folder.name),
    )
    self._manager = ocp.CheckpointManager(self.folder, options=options)

  def steps(self) -> list[int]:
    """Steps that have a checkpoint, ascending."""
    return sorted(self._manager.all_steps())

  def save(self, step: int, state: PyTree, config: Any, data: Any, loss: float) -> None:
    """Starts writing a checkpoint; returns before it is complete, unless the disk has no room for a second one.

    A step that already has a checkpoint is skipped: a resumed run reaches it with the same state.

    Args:
      step: number of steps done.
      state: a pytree of NumPy arrays that are not modified later, or of jax.Arrays sharded among the processes.
      config: the run's configuration, JSON-serialisable.
      data: the state of the data iterator, JSON-serialisable.
      loss: what `best` compares.

    Raises:
      OSError: if this or the previous checkpoint could not be written.
    """
    self.wait()

    room = processes.from_first(lambda: None if step in self._manager.all_steps() else self._room(state))
    if room is None:
      return
    args = self._ocp.args
    contents = {"config": config, "data": data, "leaves": _describe(state)}
    items = args.Composite(state=args.StandardSave(_full_fields(state)), run=args.JsonSave(contents))
    with self._writing():
      self._manager.save(step, args=items, metrics={"loss": float(loss)}, force=True)
    if room < 2:  # the newest and the best must not be written at the same time
      self.wait()

  def save_if_best(self, step: int, state: PyTree, config: Any, data: Any, loss: float) -> None:
    """Saves if every checkpoint here has a higher loss; a loss that is not finite is never the best."""
    self.wait()

    def is_best():
      best = self._manager.best_step()
      return bool(np.isfinite(loss) and (best is None or loss < self._manager.metrics(best)["loss"]))  # pyright: ignore[reportOptionalSubscript]  each save has metrics

    if processes.from_first(is_best):
      self.save(step, state, config, data, loss)

  def check_room(self, state: PyTree) -> None:
    """Warns, before the first step, if the disk has no room for two checkpoints of this state, newest and best.

    Raises:
      OSError: if it has no room for one, or is read-only.
    """
    if self._room(state) < 2:
      warnings.warn(
        f"the disk of {self.folder} has room for only one checkpoint, not for both the newest and the best; make room,"
        " or the run may fail when it saves them.",
        DiffjaxWarning,
        stacklevel=2,
      )

  def _room(self, state):
    """How many checkpoints of this state fit, at most 2. Checked first, as a failing write prints tracebacks."""
    if paths.is_remote(self.folder):  # buckets have no size limit, and permissions show only when writing
      return 2
    if not os.access(self.folder, os.W_OK):
      raise OSError(f"checkpoints cannot be written to {self.folder}; make it writable, then run the same command.")
    size, free = sum(leaf.nbytes for leaf in jax.tree.leaves(state)), shutil.disk_usage(self.folder).free
    around = 2**20  # for folders, JSON and checksums
    if free < size + around:
      raise OSError(
        f"the disk is full: a checkpoint in {self.folder} needs {(size + around) / 2**20:.1f} MiB, but"
        f" {free / 2**20:.1f} MiB are free; make room, then run the same command to resume from the last checkpoint."
      )
    return 2 if free >= 2 * (size + around) else 1

  def restore(
    self, step: int, target: PyTree, config: Any = None, fields: Sequence[str] | None = None
  ) -> tuple[PyTree, dict]:
    """Returns (state, JSON contents) at one step; leaves are never padded, cut or cast.

    Args:
      step: one of `steps()`.
      target: the expected pytree, of anything with shape and dtype, e.g. `jax.eval_shape` of the state. Leaves with a
        sharding are restored as jax.Arrays with it, all others as NumPy arrays.
      config: the configuration that `target` comes from, as in `save`; used only in the error.
      fields: of a dataclass, the fields to read; the others stay as they are in `target`. By default all.

    Raises:
      ValueError: if the checkpoint's leaves differ from `target`; names the first, and how the configs differ.
      DamagedCheckpoint: if a file is missing or fails its checksum.
      OSError: if it cannot be read although all checksums match.
    """
    path = self.folder / str(step)
    if damage := checksums.find_damage(path):
      raise DamagedCheckpoint(f"checkpoint {path} is damaged: {damage}.")
    args = self._ocp.args
    contents = _checked(self._read(path, run=args.JsonRestore()).run, path)
    _compare(contents, _describe(target), config, path)
    return self._read_state(path, target, fields), contents

  def _read_state(self, path, target, fields):
    shared = lambda a: getattr(a, "sharding", None) is not None
    asked = _full_fields(target)
    if fields is not None:
      asked = {name: asked[name] for name in fields}
    buffers = jax.tree.map(lambda a: a if shared(a) else np.empty(a.shape, a.dtype), asked)
    restore_args = self._ocp.checkpoint_utils.construct_restore_args(buffers)
    part = self._ocp.args.PyTreeRestore(buffers, restore_args, partial_restore=True)

    def check_all_read(read):  # orbax leaves what it does not find as it is
      if any(a is b for a, b in zip(jax.tree.leaves(read.state), jax.tree.leaves(buffers), strict=True)):
        raise ValueError("its state lacks a leaf")

    state = self._read(path, check_all_read, state=part).state
    state = jax.tree.map(lambda a, leaf: a if shared(leaf) else np.asarray(a), state, asked)
    if not dataclasses.is_dataclass(target) or isinstance(target, type):
      return state
    return dataclasses.replace(target, **state)

  def restore_newest(
    self, target: PyTree, config: Any = None, fields: Sequence[str] | None = None
  ) -> tuple[PyTree, dict] | None:
    """Restores the newest intact checkpoint, or returns None if there is none; warns when it skips damaged ones.

    Raises:
      DamagedCheckpoint: if there are checkpoints and all of them are damaged.
      ValueError: as `restore`.
    """
    steps = processes.from_first(lambda: self.steps()[-MOST:])
    for step in reversed(steps):
      try:
        return self.restore(step, target, config, fields)
      except DamagedCheckpoint as error:
        damage = error
      if self._was_deleted(step):  # the run training here has replaced it by a newer one meanwhile
        self._manager.reload()
        return self.restore_newest(target, config, fields)
      if step != steps[0]:
        if processes.is_first():
          warnings.warn(f"{_clause(damage)}, so the one before it is used.", DiffjaxWarning, stacklevel=2)
        self._set_aside(step)
    if steps:
      raise DamagedCheckpoint(f"{_clause(damage)}, and no earlier one is intact; start in a new workdir.")
    return None

  def wait(self) -> None:
    """Blocks until all checkpoints are complete.

    Raises:
      OSError: if a checkpoint could not be written.
    """
    with self._writing():
      while self._manager.is_saving_in_progress() and not self._error:  # after an error this would wait for the others
        time.sleep(0.002)
      if self._error:
        raise self._error
      self._manager.wait_until_finished()
      self._manager.check_for_errors()

  def close(self) -> None:
    """Waits and ends the writing threads, unless they are blocked by another process that failed."""
    if "_reader" in vars(self):
      self._reader.close()
    if self._error or (processes.several() and isinstance(sys.exception(), Exception)):
      return
    with self._writing():
      self._manager.close()

  def _read(self, path, check: Callable[[Any], None] = lambda read: None, **items) -> Any:
    """Reads in all processes or fails in all: they must not resume from different checkpoints."""
    read = failure = None
    try:
      read = self._reader.restore(path, args=self._ocp.args.Composite(**items))
      check(read)
    except Exception as error:  # orbax, tensorstore and json report damage in many ways
      failure = error
    failed = processes.count_true(failure is not None)
    if not failed:
      return read
    if failure and isinstance(failure, jax.errors.JaxRuntimeError):  # e.g. out of device memory
      raise failure
    if failed == processes.process()["process_count"]:
      if self._was_deleted(path.name):
        raise DamagedCheckpoint(f"checkpoint {path} was deleted while it was read.") from failure
      raise OSError(
        f"checkpoint {path} cannot be read ({_first_line(failure)}), although its checksums match; fix that, then run"
        " the same command."
      ) from failure
    here = f"here ({_first_line(failure)})" if failure else "elsewhere"
    raise OSError(
      f"{failed} of {processes.process()['process_count']} processes cannot read checkpoint {path}, among them one"
      f" {here}; give all the same shared folder, then run the same command."
    ) from failure

  def _was_deleted(self, step):
    return processes.from_first(lambda: not (self.folder / str(step)).exists())

  @functools.cached_property
  def _reader(self):
    """Reads independently: the manager's `restore` ends in a barrier, where all would wait for one that failed."""
    index = processes.process()["process_index"]
    alone = self._ocp.options.MultiprocessingOptions(
      primary_host=None, active_processes={index}, barrier_sync_key_prefix=f"{self.folder.name}{index}"
    )
    return self._ocp.Checkpointer(self._ocp.CompositeCheckpointHandler(), multiprocessing_options=alone)

  @contextlib.contextmanager
  def _writing(self):
    try:
      yield
    except BaseException as error:  # a full disk may be a ValueError, an OSError, or wrapped in another error
      self._error = error if processes.several() else None
      lost = next((e for e in (error, error.__cause__) if isinstance(e, jax.errors.JaxRuntimeError)), None)
      if lost is not None:  # another process exited, or out of memory
        raise lost from None
      if not isinstance(error, Exception):
        raise
      raise OSError(
        f"cannot write a checkpoint in {self.folder} ({_first_line(error)}); make room or repair the disk, then run"
        " the same command to resume from the last intact one."
      ) from error

  def _wait_for_others(self, *, key, timeout_ms):
    """The barrier of the writing threads; records their errors, which are reported nowhere else."""
    if processes.several():
      if threading.current_thread() is not threading.main_thread():
        self._error = self._error or sys.exception()
      self._ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)

  def _write_checksums(self):
    """Called when all files are written, before the folder gets its final name."""
    phases.reach("save")
    for path in self.folder.iterdir():
      if path.name.split(".")[0].isdigit() and not (path / checksums.FILE).exists():
        checksums.write(path)

  def _set_aside_damaged(self):
    names = lambda: [path.name for path in self.folder.glob("*") if path.name.isdigit()][:MOST]
    found = {int(name): checksums.find_damage(self.folder / name) for name in processes.from_first(names)}
    newest = max((step for step, damage in found.items() if not damage), default=-1)
    for step, damage in found.items():
      path = self.folder / str(step)
      if not damage:
        continue
      if step < newest:  # a better one has replaced it, and deleting it was interrupted
        processes.from_first(functools.partial(_remove, path))
        continue
      if processes.is_first():
        warning = f"checkpoint {path} is damaged: {damage}, so the next best is used."
        warnings.warn(warning, DiffjaxWarning, stacklevel=3)
      processes.from_first(functools.partial(self._rename, path))

  def _set_aside(self, step):
    if not self._read_only:
      processes.from_first(lambda: self._rename(self.folder / str(step)))
      self._manager.reload()

  def _rename(self, path):
    aside = self.folder / f"damaged-{path.name}"
    _remove(aside)
    path.rename(aside)


def _remove(folder: pathlib.Path) -> None:
  """Deletes a folder, if it is there."""
  if paths.is_remote(folder):
    folder.rmtree(missing_ok=True)  # pyright: ignore[reportAttributeAccessIssue]  epath has it, pathlib does not
  else:
    shutil.rmtree(folder, ignore_errors=True)


def _checked(contents: Any, path: pathlib.Path) -> dict:
  """Checks that a checkpoint's JSON has the structure that `save` writes; checksums catch accidents only."""
  leaves = contents.get("leaves") if isinstance(contents, dict) else None
  if not isinstance(leaves, dict) or not {"config", "data"} <= contents.keys():
    raise DamagedCheckpoint(f"checkpoint {path} does not list its contents.")
  for name, leaf in leaves.items():
    if not (isinstance(leaf, list) and [type(part) for part in leaf] == [list, str] and name.isprintable()):
      raise DamagedCheckpoint(f"checkpoint {path} lists leaf {shown(name)} as {shown(leaf)}, not its shape and dtype.")
  return contents


def _clause(error: Exception) -> str:
  """A message without its full stop, to be continued."""
  return str(error).removesuffix(".")


def _first_line(error: BaseException | None) -> str:
  return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _full_fields(state: PyTree) -> PyTree:
  """A dataclass as a dict of its non-empty fields: orbax distinguishes a missing field from an empty one."""
  if not dataclasses.is_dataclass(state):
    return state
  fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
  return {name: value for name, value in fields.items() if jax.tree.leaves(value)}


def _describe(tree: PyTree) -> dict[str, list]:
  """{path: [shape, dtype]} of every leaf."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
  return {name(path): [list(leaf.shape), str(leaf.dtype)] for path, leaf in leaves}


def _compare(contents: dict, expected: dict, config: Any, path: pathlib.Path) -> None:
  saved = contents["leaves"]
  for name in sorted(saved.keys() | expected.keys()):
    have, want = saved.get(name, [None, None]), expected.get(name, [None, None])
    if have != want:
      describe = lambda shape, dtype: "nothing" if dtype is None else f"{dtype}{shape}"
      differing = [] if config is None else tree_differences(contents["config"], json.loads(json.dumps(config)))
      keys = f", which differs in (key: there, here) {' and '.join(differing)}" if differing else ""
      raise ValueError(
        f"{path} holds {describe(*have)} at {name}, but the config asks for {describe(*want)}; "
        f"use the config that the run was trained with{keys}."
      )
