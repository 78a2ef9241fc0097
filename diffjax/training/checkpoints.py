"""Checkpoints of a run: written in the background, verified when read."""

import logging
import pathlib
import zlib
from typing import Any

import jax
import numpy as np

from diffjax.typing import PyTree


class DamagedCheckpoint(ValueError):
  """A checkpoint that cannot be read, or whose contents are not what was written."""


class Checkpoints:
  """The checkpoints in one folder: `<folder>/<step>/`, the newest `keep` of them, or the one with the least metric.

  Each holds the state, and JSON: the run's config, the state of the data iterator, and shape, dtype and checksum of
  every leaf. A checkpoint appears under its name only when it is complete.

  Args:
    folder: made if it is missing, unless `create` is False.
    keep: how many to keep.
    best: keep those with the least loss instead of the newest.
  """

  def __init__(self, folder: pathlib.Path, keep: int, *, best: bool = False, create: bool = True):
    import orbax.checkpoint as ocp

    self._ocp = ocp
    self.folder = pathlib.Path(folder).absolute()
    options = ocp.CheckpointManagerOptions(
      max_to_keep=keep,
      best_fn=(lambda metrics: metrics["loss"]) if best else None,
      best_mode="min",
      create=create,
    )
    self._manager = ocp.CheckpointManager(self.folder, options=options)

  def steps(self) -> list[int]:
    """Steps that have a checkpoint, ascending."""
    return sorted(self._manager.all_steps())

  def save(self, step: int, state: PyTree, config: Any, data: Any, loss: float) -> None:
    """Starts to write a checkpoint of a state of NumPy arrays; returns before it is complete.

    A step that has one already is left alone: a resumed run comes by with the same state.

    Args:
      step: the number of steps done.
      state: a pytree of NumPy arrays that nobody changes any more.
      config: the run's configuration, JSON-able.
      data: the state of the data iterator, JSON-able.
      loss: what `best` compares.
    """
    if step in self._manager.all_steps():
      return
    args = self._ocp.args
    contents = {"config": config, "data": data, "leaves": _describe(state, checksums=True)}
    items = args.Composite(state=args.StandardSave(state), run=args.JsonSave(contents))
    self._manager.save(step, args=items, metrics={"loss": float(loss)}, force=True)

  def save_if_best(self, step: int, state: PyTree, config: Any, data: Any, loss: float) -> None:
    """Saves if no checkpoint here has a loss as low."""
    self.wait()
    best = self._manager.best_step()
    if best is None or loss < self._manager.metrics(best)["loss"]:
      self.save(step, state, config, data, loss)

  def restore(self, step: int, target: PyTree) -> tuple[PyTree, dict]:
    """(state as NumPy arrays, JSON contents) at one step.

    Args:
      step: one of `steps()`.
      target: the expected pytree of anything with shape and dtype, `jax.eval_shape` of the state for example.

    Raises:
      ValueError: if the checkpoint holds other leaves than `target`; names the first that differs.
      DamagedCheckpoint: if it cannot be read or fails its checksums.
    """
    args = self._ocp.args
    try:
      contents = self._manager.restore(step, args=args.Composite(run=args.JsonRestore())).run
      saved = contents["leaves"]
    except Exception as error:
      raise DamagedCheckpoint(f"checkpoint {self.folder / str(step)} cannot be read ({_first_line(error)}).") from error
    _compare(saved, _describe(target), self.folder / str(step))
    buffers = jax.tree.map(lambda a: np.empty(a.shape, a.dtype), target)
    try:
      state = self._manager.restore(step, args=args.Composite(state=args.StandardRestore(buffers))).state
    except Exception as error:
      raise DamagedCheckpoint(f"checkpoint {self.folder / str(step)} cannot be read ({_first_line(error)}).") from error
    state = jax.tree.map(np.asarray, state)
    wrong = [name for name, leaf in _describe(state, checksums=True).items() if leaf != saved[name]]
    if wrong:
      raise DamagedCheckpoint(f"checkpoint {self.folder / str(step)} fails its checksum at {wrong[0]}.")
    return state, contents

  def restore_newest(self, target: PyTree, *, discard_damaged: bool = False) -> tuple[PyTree, dict] | None:
    """The newest checkpoint that is whole, or None where there is none; says so when it passes over damaged ones.

    With `discard_damaged` those are renamed to `damaged-<step>`, so that the run can write that step again.

    Raises:
      DamagedCheckpoint: if there are checkpoints and all of them are damaged.
      ValueError: as `restore`.
    """
    steps = self.steps()
    for step in reversed(steps):
      try:
        found = self.restore(step, target)
      except DamagedCheckpoint as error:
        logging.warning("%s Falling back to the one before it.", error)
        if discard_damaged:
          (self.folder / str(step)).rename(self.folder / f"damaged-{step}")
        continue
      if discard_damaged:
        self._manager.reload()
      return found
    if steps:
      raise DamagedCheckpoint(f"all checkpoints in {self.folder} are damaged (steps {steps}); start in a new workdir.")
    return None

  def wait(self) -> None:
    """Returns when all that was saved is complete; raises what went wrong on the way (a full disk, for example)."""
    self._manager.wait_until_finished()
    self._manager.check_for_errors()

  def close(self) -> None:
    self._manager.close()


def _first_line(error: Exception) -> str:
  return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _describe(tree: PyTree, checksums: bool = False) -> dict[str, list]:
  """{path: [shape, dtype, crc32 if asked for]} of every leaf."""

  def one(leaf):
    description = [list(leaf.shape), str(leaf.dtype)]
    return [*description, zlib.crc32(leaf.tobytes())] if checksums else description

  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator="/"): one(leaf) for path, leaf in leaves}


def _compare(saved: dict, expected: dict, path: pathlib.Path) -> None:
  for name in sorted(saved.keys() | expected.keys()):
    have, want = saved.get(name, [None, None])[:2], expected.get(name, [None, None])[:2]
    if have != want:
      describe = lambda shape, dtype: "nothing" if dtype is None else f"{dtype}{shape}"
      raise ValueError(
        f"{path} holds {describe(*have)} at {name}, but the config asks for {describe(*want)}; "
        "use the config that the run was trained with."
      )
