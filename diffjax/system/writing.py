"""Writing files atomically, with errors that name the file and what to do."""

import contextlib
import errno
import os
import pathlib
import tempfile
from collections.abc import Iterator

from diffjax.system import paths


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
  """Turns the system's refusal to write into one sentence that names the file and the remedy."""
  try:
    yield
  except OSError as error:
    protected = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    if error.errno is None or not (protected or error.filename is None or _leads_to(error.filename, path)):
      raise  # our own message, or about another file
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "make it writable" if protected else "make room" if full else "choose another place"
    raise OSError(f"{path} cannot be written ({error.strerror}); {remedy}, then run the same command.") from error


def _leads_to(name: object, path: str | os.PathLike) -> bool:
  """Whether an error's file name is `path` or one of its parent folders."""
  path = pathlib.Path(path)
  return isinstance(name, str | os.PathLike) and pathlib.Path(name) in (path, *path.parents)


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields a temporary path to write to, which replaces `path` when the block ends and is deleted if it fails.

  Files for a bucket are written locally and uploaded when the block ends.
  """
  path = paths.as_path(path)
  if paths.is_remote(path):
    with tempfile.TemporaryDirectory() as folder, naming(path):
      yield pathlib.Path(folder) / path.name
      path.write_bytes((pathlib.Path(folder) / path.name).read_bytes())
    return
  with naming(path.parent):
    path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(f".{os.getpid()}.{path.name}")  # keeps the suffix, from which writers infer the format
  try:
    with naming(path):
      yield part
    os.replace(part, path)
  finally:
    part.unlink(missing_ok=True)


def check_writable(folder: pathlib.Path) -> None:
  """Raises OSError if files cannot be written there, so that this shows before sampling rather than after."""
  if paths.is_remote(folder):  # permissions of a bucket show only when writing
    return
  there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
  try:  # only trying tells: some folders, such as /proc, refuse writes that their mode allows
    with tempfile.TemporaryDirectory(prefix=".", dir=there):
      pass
  except OSError as error:
    raise OSError(f"nothing can be written to {folder}; choose another folder with --out.") from error
