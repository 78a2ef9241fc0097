"""Names to objects, configs to JSON and back, and mistakes told with the nearest name."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import build, denoisers, samplers, schedules

CONFIGS = pathlib.Path(build.__file__).parents[1] / "configs"


@pytest.mark.parametrize("table", ["SCHEDULES", "GRIDS", "SAMPLERS", "PREDICTIONS", "NETWORKS"])
def test_every_entry_constructs_with_its_defaults(table):
  for name in getattr(build, table):
    arguments = (10,) if table == "GRIDS" else ()
    schedule = build.construct(build.SCHEDULES, "schedule", {"name": "linear"})
    made = build.construct(getattr(build, table), table, {"name": name}, *arguments, schedule=schedule)
    assert made is not None
    if table == "GRIDS":
      assert made.shape == (11,) and made[-1] == 0


@pytest.mark.parametrize("table", ["LOSSES", "NOISE_LEVELS"])
def test_training_entries_construct_for_a_schedule(table):
  parts = {
    "schedule": build.construct(build.SCHEDULES, "schedule", {"name": "rectified_flow"}),
    "prediction": denoisers.V(),
  }
  for name in getattr(build, table):
    made = build.construct(getattr(build, table), table, {"name": name}, **parts)
    assert np.isfinite(made(jnp.array([0.3, 0.6]))).all()


@pytest.mark.parametrize(
  ("spec", "says"),
  [
    ({"name": "huen"}, r"there is no sampler 'huen'\. Did you mean 'heun'\? Choose one of ddpm, .*heun"),
    ({"name": "zzz"}, r"there is no sampler 'zzz'\. Choose one of"),
    ({"name": "heun", "s_chrun": 1}, r"sampler 'heun' has no parameter 's_chrun'\. Did you mean 's_churn'\? It has"),
    ({}, r"there is no sampler ''\. Choose one of"),
  ],
)
def test_unknown_names(spec, says):
  with pytest.raises(ValueError, match=says):
    build.construct(build.SAMPLERS, "sampler", spec)


def test_own_keys_come_before_the_context():
  class Table:
    def __init__(self, a=1, b=2):
      self.a, self.b = a, b

  made = build.construct({"t": Table}, "thing", {"name": "t", "a": 5}, a=7, b=8, c=9)
  assert (made.a, made.b) == (5, 8)


def test_config_survives_json(tiny):
  config = tiny()
  config.model.multipliers = (1, 2)
  back = build.read_config(config.to_json())
  assert not build.differences(config, back) and not build.lacking(back)
  assert build.module(back) == build.module(config)
  shapes = [jax.eval_shape(lambda c=c: build.initial_state(c)) for c in (config, back)]
  assert jax.tree.leaves(shapes[0]) == jax.tree.leaves(shapes[1])


def test_differences_name_the_keys(tiny):
  one, two = tiny(), tiny(steps=9)
  two.ema.decays = (0.5, 0.6)
  two.model.head_dim = 4
  assert build.differences(one, two) == [
    "ema.decays: [0.9], [0.5, 0.6]",
    "model.head_dim: nothing, 4",
    "train.steps: 8, 9",
  ]


def test_lacking_keys():
  config = build.default_config()
  del config["train"]["clip_norm"]
  assert build.lacking(config) == ["train.clip_norm"]


def test_recommended_grid_depends_on_the_number_of_steps(tiny):
  config = tiny()
  config.sampler.grids = {
    "1": dict(name="karras", sigma_min=0.2, sigma_max=6.0),
    "12": dict(name="karras", sigma_min=0.02, sigma_max=20.0),
    "8": dict(name="exponential", sigma_min=0.1, sigma_max=10.0),
  }
  for steps, high, low in ((1, 6, None), (7, 6, 0.2), (8, 10, 0.1), (11, 10, 0.1), (12, 20, 0.02), (100, 20, 0.02)):
    sigmas = build.grid(config, steps)
    assert sigmas.shape == (steps + 1,) and float(sigmas[0]) == pytest.approx(high)
    assert low is None or float(sigmas[-2]) == pytest.approx(low)
  assert build.grid(config, 5, "uniform_log_snr").shape == (6,)


def test_sampler_takes_only_what_was_given(tiny):
  config = tiny()
  assert build.sampler(config, "euler", eta=None) == build.sampler(config, "euler")
  assert build.sampler(config, "euler", eta=0.5).eta == 0.5
  assert isinstance(build.sampler(config), samplers.DPMpp2M)


def test_same_seed_same_start(tiny):
  first, again, other = (jax.tree.leaves(build.initial_state(tiny(seed=seed)).params) for seed in (1, 1, 2))
  assert all(np.array_equal(a, b) for a, b in zip(first, again))
  assert not all(np.array_equal(a, b) for a, b in zip(first, other))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_every_config_is_sound(path):
  """Each file in configs/ constructs, is JSON, and its network takes pictures of its size."""
  scope = {}
  exec(compile(path.read_text(), str(path), "exec"), scope)
  config = scope["get_config"]()
  build.check(config)
  json.loads(config.to_json())
  objective = build.objective(config)
  b = 2
  batch = {
    "image": jax.ShapeDtypeStruct((b, *build.image_shape(config)), jnp.uint8),
    "label": jax.ShapeDtypeStruct((b,), jnp.int32),
    "index": jax.ShapeDtypeStruct((b,), jnp.int32),
  }
  state = jax.eval_shape(lambda: build.initial_state(config))
  assert jax.eval_shape(objective, state.params, batch, jax.eval_shape(lambda: jax.random.key(0))).shape == (b,)


def test_a_schedule_is_rescaled_and_shifted_by_its_config(tiny):
  config = tiny()
  config.schedule = {"name": "linear", "shift": 2.0, "zero_terminal_snr": True}
  plain, made = schedules.linear(), build.schedule(config)
  np.testing.assert_allclose(made.sigma(0.0), 2 * plain.sigma(0.0), rtol=1e-5)
  np.testing.assert_allclose(made.sigma(999.0), schedules.MAX_SIGMA, rtol=1e-4)
  config.schedule = {"name": "vp", "zero_terminal_snr": True}
  with pytest.raises(ValueError, match="discrete"):
    build.schedule(config)


def test_a_network_with_learned_variance_draws_with_it(tiny):
  config = tiny()
  assert not build.sampler(config, "ddpm").learned
  config.model.learned_variance = True
  assert build.sampler(config, "ddpm").learned


def test_options_of_the_configs_own_sampler(tiny):
  config = tiny()
  config.sampler.name, config.sampler.options = "euler", {"eta": 0.5}
  assert build.sampler(config).eta == 0.5
  assert build.sampler(config, eta=0.25).eta == 0.25
  assert build.sampler(config, "heun").s_churn == 0


@pytest.mark.parametrize("fields", [dict(seed=-1), dict(label_dropout=0.1)])
def test_check_refuses_what_would_fail_later(tiny, fields):
  config = tiny()
  config.model.num_classes, config.model.null_label = 10, False
  config.train.update(fields)
  with pytest.raises(ValueError, match=next(iter(fields))):
    build.check(config)


def test_weight_decay_is_for_kernels(tiny):
  config = tiny()
  config.train.weight_decay = 0.1
  state = jax.eval_shape(lambda: build.initial_state(config))
  params = jax.tree.map(lambda p: jnp.ones(p.shape), state.params)
  optimizer = build.optimizer(config)
  updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
  for p, u in zip(jax.tree.leaves(params), jax.tree.leaves(updates)):
    assert bool((u != 0).all()) == (p.ndim > 1)
