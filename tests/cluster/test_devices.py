"""Several devices compute what one does. The devices are simulated, in separate processes."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import from_config
from diffjax.cluster import devices

WORKER = pathlib.Path(__file__).parents[1] / "devices_worker.py"


@pytest.fixture(scope="module")
def outcomes(tiny_data, tmp_path_factory):
  """The results on one and on eight devices: {1: arrays, 8: arrays}."""
  folder = tmp_path_factory.mktemp("devices")
  outcomes = {}
  for count in (1, 8):
    environment = os.environ | {
      "JAX_PLATFORMS": "cpu",
      "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
      "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={count}",
    }
    out = folder / f"{count}.npz"
    command = [sys.executable, WORKER, tiny_data, out, jax.config.jax_compilation_cache_dir]
    subprocess.run(command, env=environment, check=True, timeout=300)
    outcomes[count] = dict(np.load(out))
    assert outcomes[count]["metrics"] == count
  return outcomes


@pytest.mark.slow
def test_same_run_on_one_and_on_eight_devices(outcomes):
  one, eight = (np.concatenate([v.ravel() for k, v in outcomes[n].items() if k.startswith("param")]) for n in (1, 8))
  assert np.abs(one).max() > 0.1
  np.testing.assert_allclose(one, eight, atol=2e-4)


@pytest.mark.slow
def test_one_example_that_is_not_finite_skips_the_update_everywhere(outcomes):
  for found in outcomes.values():
    first, bad, last = (found[f"nan_w{i}"] for i in range(3))
    assert np.ptp(first) == np.ptp(bad) == np.ptp(last) == 0  # all devices alike
    np.testing.assert_array_equal(first, bad)
    assert (last > bad).all() and (bad > 1).all()
    assert (found["nan_skipped"] == 1).all()
    assert all(np.ptp(found[f"nan_rest{i}"], axis=-1).max() == 0 for i in range(3))
    np.testing.assert_array_equal(found["nan_rest0"], found["nan_rest1"])  # moments and averages stay too
    assert (found["nan_rest1"] != found["nan_rest2"]).all()


@pytest.mark.slow
def test_a_run_continues_after_some_updates_that_are_not_finite_and_stops_after_many(outcomes):
  found = outcomes[8]
  assert found["nan_in_a_row_two"].tolist() == [8, 2, 0]
  assert "not finite in 3 updates in a row up to step 6, and the last good checkpoint is that of step 4" in str(
    found["nan_in_a_row_all"]
  )


@pytest.mark.slow
def test_a_picture_depends_on_its_own_number_only(outcomes):
  """All drawn by one model, with any batch size, as models trained on 1 and 8 devices already differ by rounding."""
  for found in outcomes.values():
    for name in ("drawn", "path"):
      difference = found[f"{name}24"].astype(int) - found[f"{name}7"]
      assert np.abs(difference).max() <= 1 and (difference != 0).mean() < 0.01
  difference = outcomes[1]["drawn24"].astype(int) - outcomes[8]["drawn24"]
  assert np.abs(difference).max() <= 1
  assert outcomes[1]["drawn24"].std() > 20  # real pictures, not a constant


def test_shard_and_back():
  batch = {"a": np.arange(24).reshape(2, 12), "b": jnp.arange(12.0)[None]}
  there = devices.shard(batch, axis=1)
  assert there["a"].shape == (1, 2, 12)
  jax.tree.map(np.testing.assert_array_equal, devices.unshard(there, axis=1), batch)


def test_replicate_and_back_in_fresh_buffers():
  tree = {"w": jnp.arange(3.0), "n": 5, "key": jax.random.key(2)}
  there = devices.replicate(tree)
  assert there["w"].shape == (1, 3) and there["n"].shape == there["key"].shape == (1,)
  donated = jax.jit(lambda w: w + 1, donate_argnums=0)(there["w"])
  np.testing.assert_array_equal(tree["w"], [0, 1, 2])  # the caller's array outlives the donated copy
  np.testing.assert_array_equal(devices.unreplicate({"w": donated})["w"], [1, 2, 3])


def test_replicate_compiles_once():
  devices.replicate(3)
  size = devices._replicate()._cache_size()
  for n in range(5):
    assert devices.replicate(n)[0] == n
  assert devices._replicate()._cache_size() == size


def test_mean_without_an_axis_is_the_tree_itself():
  tree = {"a": jnp.ones(2)}
  assert devices.mean(tree, None) is tree
  mapped = devices.pmap(lambda a: devices.mean(a, devices.AXIS))(jnp.ones((1, 2)))
  np.testing.assert_array_equal(mapped, np.ones((1, 2)))


def test_prefetch_stays_ahead():
  taken = []
  source = (taken.append(i) or i for i in range(5))
  ahead = devices.prefetch(source, size=2)
  assert next(ahead) == 0 and taken == [0, 1]
  assert list(ahead) == [1, 2, 3, 4]
  assert list(devices.prefetch([])) == []


@pytest.mark.parametrize(("batch_size", "accumulate"), [(0, 1), (9, 2), (-8, 1)])
def test_uneven_batches_are_refused(batch_size, accumulate):
  with pytest.raises(ValueError, match=f"cannot share a batch of {batch_size} evenly; use a multiple of {accumulate}"):
    devices.check_batch_size(batch_size, accumulate)
  devices.check_batch_size(8 * accumulate, accumulate)


def test_unknown_layouts_are_refused(tiny):
  config = tiny()
  config.parallel = "pmpa"
  with pytest.raises(ValueError, match="did you mean 'pmap'"):
    from_config.layout(config)
