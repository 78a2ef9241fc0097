"""A bucket gs://... that is a folder of this machine, as epath, orbax and tensorstore see it."""

import pathlib

from etils.epath import backend
from fsspec.implementations.local import LocalFileSystem
from orbax.checkpoint._src.path import gcs_utils

from diffjax.system import paths


class Bucket(LocalFileSystem):
  """What gcsfs is to epath: empty folders are not there, and nothing can be appended."""

  protocol, root, cachable = ("gs", "gcs"), None, False

  @classmethod
  def _strip_protocol(cls, path):
    path = str(path)
    return super()._strip_protocol(f"{cls.root}/{path.removeprefix('gs://')}" if path.startswith("gs://") else path)

  def exists(self, path, **kwargs):
    here = pathlib.Path(self._strip_protocol(path))
    return here.is_file() or self.isdir(path)

  def isdir(self, path):
    return any(file.is_file() for file in pathlib.Path(self._strip_protocol(path)).rglob("*"))

  def glob(self, path, **kwargs):
    return [found.removeprefix(f"{self.root}/") for found in super().glob(path, **kwargs)]

  def open(self, path, mode="rb", **kwargs):
    assert "a" not in mode, f"{path} cannot be appended to"
    if "w" in mode:  # a folder is no more than a part of names
      pathlib.Path(self._strip_protocol(path)).parent.mkdir(parents=True, exist_ok=True)
    return super().open(path, mode, **kwargs)


def install(monkeypatch, root: pathlib.Path) -> None:
  """Until the test ends, gs://bucket/run is root/bucket/run."""
  bucket = type("Bucket", (Bucket,), {"root": str(root)})()
  monkeypatch.setattr(paths, "DRIVERS", ("fsspec",))
  monkeypatch.setattr(backend._FileSystemSpecBackend, "fs", lambda self, path: bucket)
  local = lambda path: {"driver": "file", "path": f"{root}/{path.removeprefix('gs://')}/"}
  monkeypatch.setattr(gcs_utils, "get_kvstore_for_gcs", local)
  monkeypatch.setattr(gcs_utils, "is_hierarchical_namespace_enabled", lambda path: False)
