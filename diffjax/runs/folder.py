"""A run's folder: its config, its data, its checkpoints, and its lock."""

import contextlib
import pathlib
import secrets
import time
import warnings
from collections.abc import Iterator

import jax

from diffjax import data, from_config
from diffjax.cluster import processes
from diffjax.cluster.layouts import LAYOUTS
from diffjax.from_config import configuration
from diffjax.runs.checkpoints import Checkpoints
from diffjax.system import files, paths, writing
from diffjax.training.step import TrainState
from diffjax.typing import PyTree
from diffjax.warning import DiffjaxWarning

CONFIG, CHECKPOINTS, BEST, LOCK = "config.json", "checkpoints", "best", "lock"


def load_data(config, split: str, *, prepare: bool = True, buckets: bool = True) -> data.Source:
  """One split of a config's data set; `prepare` and errors as `data.load`. With buckets=False images have one size.

  Raises:
    ValueError: if its pictures or labels do not fit the model.
  """
  spec = config.data
  source = data.load(
    spec.name,
    split,
    folder=spec.folder or None,
    image_size=from_config.image_size(config),
    channels=spec.channels,
    data_dir=spec.data_dir or None,
    prepare=prepare,
    buckets=spec.get("buckets", ()) if buckets else (),
    captions=from_config.kind_of(config) == "latent" and not config.captions.templates,
  )
  classes = from_config.num_classes(config)
  if classes and source.num_classes != classes:
    raise ValueError(
      f"the model has {classes} classes, but {spec.name!r} has {source.num_classes} labels; set"
      " model.num_classes, or a CLIP's captions.names, to match."
    )
  return source


def read_config(workdir: str | pathlib.Path):
  """Reads the config of the run in a folder.

  Raises:
    FileNotFoundError: if the folder holds no run.
    ValueError: if it is a file, or its config cannot be read.
  """
  check_folder(workdir)
  path = paths.as_path(workdir) / CONFIG
  if not path.is_file():
    raise FileNotFoundError(f"{workdir} holds no run: it has no {CONFIG}; train one there, or check --workdir.")
  try:
    return configuration.from_json(files.read_at_most(path, files.MAX_JSON))
  except ValueError as error:
    reason = str(error).removesuffix(".")
    raise ValueError(f"{path} is not a valid run config ({reason}); restore it, or train in a new workdir.") from error


def check_kind(workdir: str | pathlib.Path, config, kinds: str | tuple[str, ...], advice: str) -> None:
  """Raises ValueError, ending in the advice, if the run in a folder trains another kind of model."""
  found = from_config.kind_of(config)
  if found not in ((kinds,) if isinstance(kinds, str) else kinds):
    raise ValueError(f"{workdir} is the run of {from_config.KINDS[found].NOUN}{advice}")


def existing(folder: str | pathlib.Path, holds: str) -> pathlib.Path:
  """The path of a folder of runs or weights; FileNotFoundError, naming what it should hold, if there is none."""
  path = paths.as_path(folder)
  if not path.is_dir():
    raise FileNotFoundError(
      f"there is no folder {folder}; train {holds} there, or give a local folder of published weights."
    )
  return path


def check_folder(workdir: str | pathlib.Path) -> None:
  """Raises ValueError if `workdir` is a file."""
  if paths.as_path(workdir).is_file():
    raise ValueError(f"{workdir} is a file; give the folder of a run as --workdir.")


def restore_averaged(
  workdir: str | pathlib.Path, config, *, best: bool = False, frozen: PyTree = None
) -> tuple[PyTree, int]:
  """Restores the parameters to sample with, at a run's newest intact checkpoint or that with the lowest held-out loss.

  Nothing else of the state is read; `frozen` is what the model stands on, as `runs.load_frozen` returns it.

  Returns:
    (params, step): NumPy arrays, or with parallel="fsdp" jax.Arrays sharded among the devices.

  Raises:
    FileNotFoundError: if there is no checkpoint yet.
    ValueError: if all are damaged, or the config defines no valid model.
  """
  target = _target(workdir, config, frozen)
  fields = ("step", "ema" if target.ema else "params")
  folder = paths.as_path(workdir) / (BEST if best else CHECKPOINTS)
  found = None
  if folder.is_dir():
    with contextlib.closing(Checkpoints(folder, read_only=True)) as checkpoints:
      found = checkpoints.restore_newest(target.trained, config.to_dict(), fields)
  if found is None:
    raise FileNotFoundError(f"{workdir} holds no checkpoint yet; train until the first is saved.")
  return found[0].averaged, int(found[0].step)


@contextlib.contextmanager
def explaining(workdir: str | pathlib.Path) -> Iterator[None]:
  """Turns what a run's config, read from untrusted JSON, makes fail into a ValueError that names its file."""
  try:
    yield
  except Exception as error:
    reason = files.shown(str(error) or type(error).__name__, 500)
    raise ValueError(f"{pathlib.Path(workdir) / CONFIG} defines no valid model: {reason}") from error


def _target(workdir, config, frozen=None) -> TrainState:
  """Shapes and shardings of the state that a config trains."""
  with explaining(workdir):
    from_config.check(config)
    shapes = jax.eval_shape(lambda frozen: from_config.initial_state(config, frozen), frozen)
  return LAYOUTS[config.parallel](shapes).target


@contextlib.contextmanager
def claimed(workdir: pathlib.Path, config) -> Iterator[None]:
  """Creates, locks and `claim`s a run's folder, so that no other run trains in it at the same time.

  The system releases the lock when the process exits, however it exits. Process 0 of a run holds it.

  Raises:
    ValueError: if the folder is a file, if another process trains in it, or as `claim`.
  """
  import fcntl  # here, as not every system has it, and sampling needs no lock

  check_folder(workdir)
  with writing.naming(workdir):
    workdir.mkdir(parents=True, exist_ok=True)
  if paths.is_remote(workdir):
    warnings.warn(
      f"{workdir} cannot be locked, as it is in a bucket; make sure no other run trains in it.",
      DiffjaxWarning,
      stacklevel=3,
    )
    processes.from_first(lambda: claim(workdir, config))
    check_shared(workdir)
    yield
    return
  with writing.naming(workdir):
    lock = (workdir / LOCK).open("a")
  with lock:

    def lock_and_claim():
      try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        raise ValueError(f"another process trains in {workdir}; stop it, or use another --workdir.") from None
      except OSError as error:  # some cluster file systems have no locks
        warnings.warn(
          f"{workdir} cannot be locked ({error.strerror}); make sure no other run trains in it.",
          DiffjaxWarning,
          stacklevel=5,
        )
      claim(workdir, config)

    processes.from_first(lock_and_claim)
    check_shared(workdir)
    yield


def check_shared(workdir: pathlib.Path, timeout: float = 10.0) -> None:
  """Raises OSError in all processes of a run unless each sees process 0's folder within `timeout` s.

  Otherwise each could resume from different files, in folders of the same name on separate disks.
  """
  if not processes.several():
    return
  lock = workdir / LOCK

  def sign():
    token = secrets.token_hex(8)
    lock.write_text(token)
    return token

  token, deadline = processes.from_first(sign), time.monotonic() + timeout
  while not (seen := lock.exists() and lock.read_text() == token) and time.monotonic() < deadline:
    time.sleep(0.1)
  blind = processes.count_true(not seen)
  if blind:
    who = f"{blind} of {processes.process()['process_count']} processes" + ("" if seen else ", including this one,")
    raise OSError(
      f"{who} do not see process 0's folder {workdir}; give all the same shared folder, on a network disk or in a"
      " bucket."
    )


def has_begun(workdir: pathlib.Path) -> bool:
  """Whether the run in a folder has a checkpoint; until then its config may change."""
  return any(step.name.isdigit() for folder in (CHECKPOINTS, BEST) for step in (workdir / folder).glob("*"))


def claim(workdir: pathlib.Path, config) -> None:
  """Creates a run's folder and writes its config, or checks that an existing run has the same one.

  If the existing run has no checkpoint yet, its config is replaced.

  Raises:
    ValueError: if the run in the folder has another config; names the keys that differ.
  """
  path = workdir / CONFIG
  if path.exists():
    differing = configuration.differences(read_config(workdir), config)
    if not differing:
      return
    if has_begun(workdir):
      raise ValueError(
        f"{workdir} holds a run with another config, which differs in (key: there, here) {' and '.join(differing)}; use"
        " the same config to resume that run, or another --workdir to start a new one."
      )
  workdir.mkdir(parents=True, exist_ok=True)
  with writing.replacing(path) as part:
    part.write_text(config.to_json(indent=2) + "\n")
