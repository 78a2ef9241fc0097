"""For every test: shapes must match in full, and compiled programs are kept between runs."""

import importlib.metadata
import logging
import os
import pathlib
import subprocess
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile thousands of programs and run most of them once: compiling is up to ten times faster this way.
# JAX_DISABLE_MOST_OPTIMIZATIONS=0 runs them as users do.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1" and importlib.metadata.version("jaxlib").startswith("0.10."):
  # later versions do not know the flag, and abort
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "diffjax" / "tests"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for the scripts


COLLECTED = pytest.StashKey[set[pathlib.Path]]()


def pytest_configure(config):
  config.stash[COLLECTED] = set()
  config.addinivalue_line("filterwarnings", "error::diffjax.warning.DiffjaxWarning")


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makemodule(module_path, parent):
  parent.config.stash[COLLECTED].add(module_path)
  return (yield)


@pytest.fixture
def collected(request):
  """The test files that pytest has opened, of a session over all of them."""
  if request.config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
    pytest.skip("pytest was given paths")
  return request.config.stash[COLLECTED]


@pytest.fixture
def compilations(caplog):
  """A function that counts what JAX has compiled during the test."""
  with jax.log_compiles(), caplog.at_level(logging.WARNING):
    yield lambda: sum(record.getMessage().startswith("Compiling") for record in caplog.records)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
  """A folder with the digits prepared."""
  from diffjax import data

  folder = tmp_path_factory.mktemp("tfds")
  data.load("digits", "train", data_dir=folder)
  return folder


@pytest.fixture
def tiny(tiny_data):
  """tiny(steps=..., ...) is a config with a very small network and other values in `train`."""
  import tiny_config

  def tiny(**train):
    config = tiny_config.get_config()
    config.data.data_dir = str(tiny_data)
    config.train.update(train)
    return config

  return tiny


@pytest.fixture
def tiny_clip(tiny_data):
  """tiny_clip(steps=..., ...) is a config of a very small CLIP with other values in `train`."""
  import tiny_clip_config

  def tiny_clip(**train):
    config = tiny_clip_config.get_config()
    config.data.data_dir = str(tiny_data)
    config.train.update(train)
    return config

  return tiny_clip


@pytest.fixture(autouse=True)
def room_for_programs():
  """Forgets compiled programs before they are too many: each maps memory, and Linux grants a process 65,530 maps."""
  yield
  maps = pathlib.Path("/proc/self/maps")
  if maps.exists() and maps.read_bytes().count(b"\n") > 40_000:
    jax.clear_caches()


@pytest.fixture(scope="session")
def script():
  """script("train.py", "--workdir=...") starts that script in a process; `.communicate()` gives (stdout, stderr)."""
  changes = {
    "PYTHONPATH": str(ROOT),
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(CACHE),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
  }

  def script(name, *arguments):
    command, pipes = [sys.executable, str(ROOT / name), *map(str, arguments)], {"text": True}
    pipes |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=os.environ | changes, **pipes)  # a test may have changed the environment

  return script


@pytest.fixture
def x64():
  """float64 for one test."""
  with jax.enable_x64(True):
    yield
