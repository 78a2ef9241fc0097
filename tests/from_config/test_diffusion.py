"""Configs to objects, and mistakes told before a run begins."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Halved

from diffjax import denoisers, from_config, samplers, schedules
from diffjax.from_config import construction, diffusion

CONFIGS = pathlib.Path(from_config.__file__).parents[2] / "configs"


@pytest.mark.parametrize("table", ["SCHEDULES", "GRIDS", "SAMPLERS", "PREDICTIONS", "NETWORKS"])
def test_every_entry_constructs_with_its_defaults(table):
  for name in getattr(from_config, table):
    arguments = (10,) if table == "GRIDS" else ()
    schedule = construction.construct(from_config.SCHEDULES, "schedule", {"name": "linear"})
    made = construction.construct(getattr(from_config, table), table, {"name": name}, *arguments, schedule=schedule)
    assert made is not None
    if table == "GRIDS":
      assert made.shape == (11,) and made[-1] == 0


@pytest.mark.parametrize("table", ["LOSSES", "NOISE_LEVELS"])
def test_training_entries_construct_for_a_schedule(table):
  parts = {
    "schedule": construction.construct(from_config.SCHEDULES, "schedule", {"name": "rectified_flow"}),
    "prediction": denoisers.V(),
  }
  for name in getattr(from_config, table):
    made = construction.construct(getattr(from_config, table), table, {"name": name}, **parts)
    assert np.isfinite(made(jnp.array([0.3, 0.6]))).all()


def test_recommended_grid_depends_on_the_number_of_steps(tiny):
  config = tiny()
  config.sampler.grids = {
    "1": dict(name="karras", sigma_min=0.2, sigma_max=6.0),
    "12": dict(name="karras", sigma_min=0.02, sigma_max=20.0),
    "8": dict(name="exponential", sigma_min=0.1, sigma_max=10.0),
  }
  for steps, high, low in ((1, 6, None), (7, 6, 0.2), (8, 10, 0.1), (11, 10, 0.1), (12, 20, 0.02), (100, 20, 0.02)):
    sigmas = from_config.grid(config, steps)
    assert sigmas.shape == (steps + 1,) and float(sigmas[0]) == pytest.approx(high)
    assert low is None or float(sigmas[-2]) == pytest.approx(low)
  assert from_config.grid(config, 5, "uniform_log_snr").shape == (6,)


def test_a_model_is_trained_and_sampled_with_the_same_codec(tiny, monkeypatch):
  monkeypatch.setattr(diffusion, "codec", lambda config: Halved())
  assert isinstance(from_config.objective(tiny()).codec, Halved)
  assert isinstance(from_config.pipeline(tiny(), None).codec, Halved)


def test_sampler_takes_only_what_was_given(tiny):
  config = tiny()
  assert from_config.sampler(config, "euler", eta=None) == from_config.sampler(config, "euler")
  assert from_config.sampler(config, "euler", eta=0.5).eta == 0.5
  assert isinstance(from_config.sampler(config), samplers.DPMpp2M)


@pytest.mark.slow
def test_same_seed_same_start(tiny):
  first, again, other = (jax.tree.leaves(from_config.initial_state(tiny(seed=seed)).params) for seed in (1, 1, 2))
  assert all(np.array_equal(a, b) for a, b in zip(first, again))
  assert not all(np.array_equal(a, b) for a, b in zip(first, other))


@pytest.mark.parametrize("path", sorted(set(CONFIGS.glob("*.py")) - {CONFIGS / "guidance.py"}), ids=lambda p: p.stem)
def test_every_config_is_sound(path):
  """Each file in configs/ constructs, is JSON, and its network takes pictures of its size."""
  scope = {}
  exec(compile(path.read_text(), str(path), "exec"), scope)
  config = scope["get_config"]()
  from_config.check(config)
  json.loads(config.to_json())
  if from_config.kind_of(config) == "latent":
    return  # its shapes follow from what it stands on; pretrained/test_saved_run_reference.py builds it
  objective = from_config.train_step(config).objective
  b = 2
  batch = {
    "image": jax.ShapeDtypeStruct((b, *from_config.image_shape(config)), jnp.uint8),
    "label": jax.ShapeDtypeStruct((b,), jnp.int32),
    "index": jax.ShapeDtypeStruct((b,), jnp.int32),
  }
  state = jax.eval_shape(lambda: from_config.initial_state(config))
  assert jax.eval_shape(objective, state.params, batch, jax.eval_shape(lambda: jax.random.key(0)))[0].shape == (b,)


def test_a_schedule_is_rescaled_and_shifted_by_its_config(tiny):
  config = tiny()
  config.schedule = {"name": "linear", "shift": 2.0, "zero_terminal_snr": True}
  plain, made = schedules.linear(), from_config.schedule(config)
  np.testing.assert_allclose(made.sigma(0.0), 2 * plain.sigma(0.0), rtol=1e-5)
  np.testing.assert_allclose(made.sigma(999.0), schedules.MAX_SIGMA, rtol=1e-4)
  config.schedule = {"name": "vp", "zero_terminal_snr": True}
  with pytest.raises(ValueError, match="discrete"):
    from_config.schedule(config)


def test_a_network_with_learned_variance_draws_with_it(tiny):
  config = tiny()
  assert not from_config.sampler(config, "ddpm").learned
  config.model.learned_variance = True
  assert from_config.sampler(config, "ddpm").learned


def test_options_of_the_configs_own_sampler(tiny):
  config = tiny()
  config.sampler.name, config.sampler.options = "euler", {"eta": 0.5}
  assert from_config.sampler(config).eta == 0.5
  assert from_config.sampler(config, eta=0.25).eta == 0.25
  assert from_config.sampler(config, "heun") == samplers.Heun()


def test_churn_from_the_config_is_that_of_the_command_line(tiny):
  config = tiny()
  config.sampler.update(name="heun", options={"s_churn": 2.0})
  own, asked = from_config.sampler(config, None, 18), from_config.sampler(tiny(), "heun", 18, s_churn=2.0)
  assert own == asked == samplers.Churn(samplers.Heun(), 2.0, num_steps=18)


def test_a_time_that_the_embedding_cannot_resolve_is_refused(tiny):
  config = tiny()
  config.schedule.name, config.prediction = "rectified_flow", {"name": "flow"}
  config.model.embedding = "sinusoidal"
  with pytest.raises(ValueError, match="set time_scale=1000"):
    from_config.check(config)
  config.time_scale = 1000.0
  from_config.check(config)


@pytest.mark.parametrize("fields", [dict(seed=-1), dict(label_dropout=0.1)])
def test_check_refuses_what_would_fail_later(tiny, fields):
  config = tiny()
  config.model.num_classes, config.model.null_label = 10, False
  config.train.update(fields)
  with pytest.raises(ValueError, match=next(iter(fields))):
    from_config.check(config)


@pytest.mark.parametrize(
  ("key", "value", "says"),
  [
    ("train.learning_rate", float("inf"), r"must be in \(0, inf\)"),
    ("train.clip_norm", float("nan"), "clip_norm is nan"),
    ("train.b1", 2.0, r"train\.b1 is 2\.0, but must be in \[0, 1\)"),
    ("prediction.sigma_data", 0.0, "sigma_data"),
    ("noise_levels.std", -1.0, "std"),
    ("noise_levels.mean", float("nan"), r"noise_levels\.mean is nan, but must be finite"),
    ("sampler.guidance_scale", float("nan"), "guidance_scale"),
    ("sampler.guidance_interval", (1.0,), "two noise levels"),
    ("model.dropout", 2.0, "dropout"),
    ("time_scale", float("nan"), "time_scale"),
    ("model.width", 0, r"model\.width is 0, but must be in \[4, 1048576\]"),
    ("model.width", -16, "width"),
    ("model.head_dim", 0, "head_dim"),
    ("model.multipliers", (), "multipliers is empty"),
    ("model.multipliers", (1, 0), "multipliers"),
    ("model.dtype", "float17", "did you mean 'float16'"),
    ("sampler.grids", {"many": {"name": "karras"}}, "a key 'many'; use a number of steps"),
    ("sampler.grids", {"1": {"name": "karras", "rho": 0.0}}, "rho is 0"),
    ("sampler.grids", {"1": {"name": "karras", "sigma_min": 9.0, "sigma_max": 1.0}}, "descend strictly"),
    (
      "sampler.grids",
      {"1": {"name": "karras"}, "50": {"name": "karras", "sigma_min": 9.0, "sigma_max": 1.0}},
      "in 50 steps .* descend strictly",
    ),
  ],
)
def test_check_refuses_numbers_out_of_range(tiny, key, value, says):
  config = tiny()
  *path, last = key.split(".")
  parent = config
  for name in path:
    parent = parent[name]
  with config.ignore_type(), config.unlocked():
    parent[last] = value
  with pytest.raises(ValueError, match=says):
    from_config.check(config)


def test_arrays_pass_as_options(tiny):
  assert from_config.sampler(tiny(), "euler", eta=jnp.float32(0.5)).eta == 0.5
  jax.jit(lambda eta: from_config.sampler(tiny(), "euler", eta=eta).eta)(0.5)


@pytest.mark.parametrize(
  "schedule",
  [
    {"name": "ve", "sigma_min": 5.0, "sigma_max": 1.0},
    {"name": "ve", "sigma_min": 0.0, "sigma_max": 1.0},
  ],
)
def test_check_refuses_a_schedule_that_does_not_rise(tiny, schedule):
  config = tiny()
  config.schedule = schedule
  with pytest.raises(ValueError, match="schedule goes from sigma"):
    from_config.check(config)


@pytest.mark.parametrize("schedule", [{"name": "rectified_flow"}, {"name": "linear", "zero_terminal_snr": True}])
def test_check_refuses_predictions_that_pure_noise_leaves_without_meaning(tiny, schedule):
  config = tiny()
  config.schedule = schedule
  for name in ("eps", "score"):
    config.prediction = {"name": name}
    with pytest.raises(ValueError, match=f"{name.capitalize()} does not determine x0 where the schedule ends"):
      from_config.check(config)
  config.prediction = {"name": "v"}
  from_config.check(config)
  config.prediction = {"name": "epsilon"}
  with pytest.raises(ValueError, match="there is no prediction 'epsilon'"):
    from_config.check(config)


@pytest.mark.slow
def test_weight_decay_is_for_kernels(tiny):
  config = tiny()
  config.train.weight_decay = 0.1
  state = jax.eval_shape(lambda: from_config.initial_state(config))
  params = jax.tree.map(lambda p: jnp.ones(p.shape), state.params)
  optimizer = from_config.optimizer(config)
  updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
  for p, u in zip(jax.tree.leaves(params), jax.tree.leaves(updates)):
    assert bool((u != 0).all()) == (p.ndim > 1)


def test_augmentation_needs_a_network_that_is_told(tiny):
  config = tiny()
  config.data.augment = 0.12
  with pytest.raises(ValueError, match=r"set model\.augment_dim=9"):
    from_config.check(config)
  config.model.augment_dim = 9
  from_config.check(config)
  assert from_config.objective(config).augment == 0.12


def test_cross_attention_without_a_context_is_refused(tiny):
  config = tiny()
  config.model.cross_attention = True
  with pytest.raises(ValueError, match=r"model\.cross_attention=True cannot be trained from a config"):
    from_config.check(config)
