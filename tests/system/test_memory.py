"""Device memory: figures of compiled programs, and one sentence when it runs out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.cluster import command_line, devices
from diffjax.runs.checkpoints import Checkpoints
from diffjax.system import memory
from train import train

SETTINGS = {"train.batch_size": 64, "train.accumulate": 1, "model.remat": False}
GIB = 2**30


def exhausted(text):
  return jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: {text}")


@pytest.mark.parametrize(
  ("message", "expected"),
  [
    ("Out of memory while trying to allocate 7406166528 bytes.", 7406166528),
    ("Out of memory while trying to allocate 8.00GiB.", 8 * GIB),
    ("Out of memory allocating 20029400304 bytes.", 20029400304),
    ("Out of memory while trying to allocate 6291456 bytes.\nBufferAssignment OOM Debugging.\nstats: 6.00MiB", 6291456),
    ("XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 21.95G of 15.48G hbm.", 21.95 * GIB),
    ("Error loading program: Attempting to reserve 7.04G at the bottom of memory. That was not possible.", 7.04 * GIB),
    ("Error allocating device buffer: Attempting to allocate 129.50M. That was not possible.", 129.5 * 2**20),
    ("something else altogether", None),
  ],
)
def test_bytes_that_the_allocators_and_the_compiler_of_xla_name(message, expected):
  assert memory.wanted(message) == (None if expected is None else int(expected))


def test_needs_of_a_product():
  """Two matrices go in, one comes out; the product between is temporary."""
  a = jax.ShapeDtypeStruct((64, 128), jnp.float32)
  needs = memory.needs(jax.jit(lambda a, b: jnp.sin(a @ b.T) @ a).lower(a, a).compile())
  assert needs.arguments == 2 * 64 * 128 * 4 and needs.outputs == 64 * 128 * 4
  assert needs.temporaries >= 64 * 64 * 4 and needs.total == needs.arguments + needs.temporaries + needs.outputs


def test_donated_buffers_are_counted_once():
  a = jax.ShapeDtypeStruct((64, 128), jnp.float32)
  needs = memory.needs(jax.jit(lambda a: a + 1, donate_argnums=0).lower(a).compile())
  assert (needs.arguments, needs.outputs) == (64 * 128 * 4, 0)


def test_tree_bytes():
  tree = {"a": np.zeros((3, 5), np.float32), "b": (jax.ShapeDtypeStruct((7,), jnp.bfloat16), np.int32(1))}
  assert memory.tree_bytes(tree) == 60 + 14 + 4


def test_sentence_names_what_was_wanted_what_there_is_and_what_to_lower():
  message = "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory. Used 21.95G of 15.48G hbm."
  assert memory.explanation(message, memory.Needs(2 * GIB, 18 * GIB, 0), SETTINGS) == (
    "a device is out of memory: requested 21.9 GiB, 15.5 GiB available in total, and the program needs 20.0 GiB on"
    " each device, 18.0 GiB of it for temporaries; lower train.batch_size (now 64), or raise"
    " train.accumulate (now 1), or set model.remat=True."
  )
  told = memory.explanation("RESOURCE_EXHAUSTED: nothing known", None, SETTINGS | {"model.remat": True})
  assert told.startswith("a device is out of memory; lower train.batch_size") and "remat" not in told


def test_sharing_the_state_is_advised_where_it_is_not_shared():
  told = [memory.explanation("RESOURCE_EXHAUSTED", None, SETTINGS | {"parallel": how}) for how in ("pmap", "fsdp")]
  assert "or set parallel=fsdp." in told[0] and "fsdp" not in told[1]


def test_other_errors_pass():
  step = jax.jit(lambda a: a)
  with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), memory.explaining(step, SETTINGS):
    raise jax.errors.JaxRuntimeError("INTERNAL: allocate 3 bytes")


def test_compiler_that_runs_out():
  with pytest.raises(MemoryError, match=r"requested 20.0 GiB, 15.5 GiB available in total; lower train.batch_size"):
    with memory.explaining(None, SETTINGS):
      raise exhausted(
        "XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 20.00G of 15.48G hbm."
      )


def test_program_that_wants_more_than_there_is():
  """The real error of this backend, from a step that would fill 64 TiB."""
  step = jax.jit(lambda a: jnp.sort(jnp.broadcast_to(a, (2**44,)) * jnp.arange(2**44, dtype=jnp.float32)))
  with pytest.raises(MemoryError, match=r"requested (64|128)\.0 TiB.*the program needs \d+\.\d TiB on each device"):
    with memory.explaining(step, SETTINGS) as step:
      step(jnp.ones((), jnp.float32)).block_until_ready()


@pytest.mark.slow
def test_training_ends_with_a_sentence_and_keeps_what_it_saved(tiny, tmp_path, monkeypatch):
  """The third call of the step fails as on a GPU; the sentence includes gradients and activations of two steps."""
  pmap = devices.pmap

  class Failing:
    def __init__(self, mapped):
      self.mapped, self.lower, self.calls = mapped, mapped.lower, 0

    def __call__(self, *args):
      self.calls += 1
      if self.calls == 3:
        raise exhausted("Out of memory while trying to allocate 7406166528 bytes.")
      return self.mapped(*args)

  def failing(fun, donate_argnums=()):
    mapped = pmap(fun, donate_argnums)
    return Failing(mapped) if donate_argnums else mapped

  monkeypatch.setattr(devices, "pmap", failing)
  with pytest.raises(SystemExit) as stop, command_line.reporting():
    train(tiny(checkpoint_every=2), tmp_path / "run")
  told = stop.value.code
  assert told.startswith("error: a device is out of memory: requested 6.9 GiB, and the program needs ")
  assert told.count("\n") == 0 and "lower train.batch_size (now 16)" in told and "set model.remat=True." in told
  saved = Checkpoints(tmp_path / "run" / "checkpoints", read_only=True)
  assert saved.steps() == [2, 4]
  saved.close()
