import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import grids, schedules

DISCRETE = schedules.scaled_linear()
MAKERS = {
  "karras": grids.karras,
  "exponential": grids.exponential,
  "polyexponential": lambda n: grids.polyexponential(n, rho=0.7),
  "beta_quantiles": grids.beta_quantiles,
  "beta_quantiles_flow": lambda n: grids.beta_quantiles(n, schedules.RectifiedFlow(), 0.5, 0.7),
  **{f"align_your_steps_{m}": lambda n, m=m: grids.align_your_steps(n, m) for m in grids.ALIGN_YOUR_STEPS},
  "uniform_log_snr": lambda n: grids.uniform_log_snr(n, schedules.VP()),
  "uniform_log_snr_flow": lambda n: grids.uniform_log_snr(n, schedules.RectifiedFlow()),
  **{f"discrete_{s}": lambda n, s=s: grids.uniform_time(n, DISCRETE, s) for s in grids.SPACINGS},
  **{f"cosine_{s}": lambda n, s=s: grids.uniform_time(n, schedules.Cosine(), s) for s in grids.SPACINGS},
  **{f"flow_{s}": lambda n, s=s: grids.uniform_time(n, schedules.RectifiedFlow(), s) for s in grids.SPACINGS},
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("num_steps", [1, 2, 5, 50, 333])
def test_grids_descend_strictly_to_zero(name, num_steps):
  sigmas = MAKERS[name](num_steps)
  assert sigmas.shape == (num_steps + 1,)
  assert np.all(np.diff(sigmas) < 0)
  assert sigmas[-1] == 0


def test_karras_is_edms_equation_5():
  n, low, high, rho = 18, 0.002, 80, 7
  expected = [(high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho for i in range(n)]
  np.testing.assert_allclose(grids.karras(n), [*expected, 0], rtol=2e-6)


def test_exponential_has_equal_ratios():
  sigmas = grids.exponential(5, 0.01, 100.0)
  np.testing.assert_allclose(sigmas, [100, 10, 1, 0.1, 0.01, 0], rtol=1e-5)


def test_uniform_log_snr_has_equal_steps_between_the_ends_of_the_schedule():
  schedule = schedules.VP()
  log_snr = -2 * np.log(grids.uniform_log_snr(9, schedule)[:-1])
  np.testing.assert_allclose(np.diff(log_snr), np.diff(log_snr).mean(), rtol=1e-4)
  np.testing.assert_allclose(log_snr[[0, -1]], [schedule.log_snr(1.0), schedule.log_snr(1e-3)], rtol=1e-5)


def test_polyexponential_is_exponential_at_rho_one_and_a_power_of_it_elsewhere():
  np.testing.assert_allclose(grids.polyexponential(7), grids.exponential(7), rtol=1e-5)
  bent = (np.log(grids.polyexponential(5, 0.01, 100.0, rho=2.0)[:-1]) - np.log(0.01)) / np.log(1e4)
  np.testing.assert_allclose(bent, [1, 9 / 16, 1 / 4, 1 / 16, 0], atol=1e-6)


def test_beta_quantiles_are_those_of_the_distribution():
  """Beta(1/2, 1/2) is the arcsine distribution, whose quantiles are sin(pi u / 2)^2; Beta(1, 1) is uniform."""
  schedule = schedules.SigmaAsTime(t_min=1e-9, t_max=1.0)
  u = np.linspace(1, 0, 9)[:-1]
  np.testing.assert_allclose(grids.beta_quantiles(9, schedule, 0.5, 0.5)[:-2], np.sin(np.pi * u / 2) ** 2, rtol=1e-5)
  flow = schedules.RectifiedFlow()
  np.testing.assert_allclose(
    grids.beta_quantiles(9, flow, 1.0, 1.0), grids.uniform_time(9, flow, "linspace"), rtol=2e-4, atol=1e-6
  )


def test_align_your_steps_in_ten_steps_is_the_published_table():
  published = pytest.importorskip("diffusers").schedulers.AysSchedules
  for model, name in (("sd15", "StableDiffusion"), ("sdxl", "StableDiffusionXL")):
    times = DISCRETE.t(grids.align_your_steps(10, model)[:-1])
    np.testing.assert_allclose(times, published[f"{name}Timesteps"], atol=1e-3)  # their sigmas are rounded further
  np.testing.assert_allclose(grids.align_your_steps(10, "svd"), published["StableDiffusionVideoSigmas"], rtol=1e-6)


def test_align_your_steps_interpolates_log_sigma():
  table = np.array(grids.ALIGN_YOUR_STEPS["sdxl"])
  sigmas = grids.align_your_steps(20, "sdxl")
  np.testing.assert_allclose(sigmas[:-1:2], table[:-1], rtol=1e-6)
  np.testing.assert_allclose(sigmas[1::2], np.sqrt(table[:-1] * table[1:]), rtol=1e-6)


def test_resolution_shift_is_that_of_flow_times():
  """Esser et al. 2024, eq. 23: t -> shift * t / (1 + (shift - 1) * t)."""
  flow, shift = schedules.RectifiedFlow(), 3.0
  t = flow.t(grids.uniform_time(8, flow)[1:-1])
  shifted = flow.t(grids.uniform_time(8, schedules.Shifted(flow, shift))[1:-1])
  np.testing.assert_allclose(shifted, shift * t / (1 + (shift - 1) * t), rtol=1e-5)


@pytest.mark.parametrize("make", [grids.uniform_log_snr, grids.beta_quantiles])
def test_resolution_shift_multiplies_every_level(make):
  np.testing.assert_allclose(make(7, schedules.Shifted(DISCRETE, 2.0)), 2 * make(7, DISCRETE), rtol=1e-5)


def test_one_step_starts_at_the_noisiest_level():
  for name in ("karras", "exponential", "uniform_log_snr", "discrete_trailing", "discrete_linspace", "flow_linspace"):
    assert MAKERS[name](1)[0] == MAKERS[name](2)[0], name


@pytest.mark.parametrize("spacing", grids.SPACINGS)
@pytest.mark.parametrize("num_steps", [2, 3, 7, 10, 30, 50, 999, 1000])
def test_times_as_in_diffusers(spacing, num_steps):
  diffusers = pytest.importorskip("diffusers")
  scheduler = diffusers.DDIMScheduler(num_train_timesteps=1000, beta_schedule="scaled_linear", timestep_spacing=spacing)
  scheduler.set_timesteps(num_steps)
  sigmas = grids.uniform_time(num_steps, DISCRETE, spacing)[:-1]
  np.testing.assert_allclose(DISCRETE.t(sigmas), scheduler.timesteps.numpy(), atol=0.02)


def test_leading_offset_as_in_diffusers():
  diffusers = pytest.importorskip("diffusers")
  scheduler = diffusers.DDIMScheduler(num_train_timesteps=1000, timestep_spacing="leading", steps_offset=1)
  scheduler.set_timesteps(20)
  sigmas = grids.uniform_time(20, schedules.linear(), "leading", offset=1)[:-1]
  np.testing.assert_allclose(schedules.linear().t(sigmas), scheduler.timesteps.numpy(), atol=0.02)


@pytest.mark.parametrize(
  ("spacing", "times"),
  [("leading", [0.75, 0.5, 0.25, 0]), ("trailing", [1, 0.75, 0.5, 0.25]), ("linspace", [1, 2 / 3, 1 / 3, 0])],
)
def test_continuous_times(spacing, times):
  schedule = schedules.VE()
  np.testing.assert_allclose(schedule.t(grids.uniform_time(4, schedule, spacing)[:-1]), times, atol=1e-6)


def test_shifted_discrete_schedule_stays_on_its_steps():
  shifted = schedules.Shifted(DISCRETE, 2.0)
  np.testing.assert_allclose(grids.uniform_time(7, shifted), 2 * grids.uniform_time(7, DISCRETE), rtol=1e-5)


@pytest.mark.parametrize("num_steps", [0, -1, 2.5, 3.0, np.nan, np.inf, None, "3"])
@pytest.mark.parametrize("name", MAKERS)
def test_steps_below_one_are_refused(name, num_steps):
  with pytest.raises(ValueError, match="a whole number from 1 to"):
    MAKERS[name](num_steps)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: grids.align_your_steps(10, "sd3"), "no model 'sd3'; choose one of sd15, sdxl, svd"),
    (lambda: grids.beta_quantiles(10, alpha=0.0), "alpha and beta are 0.0 and 0.6"),
    (lambda: grids.uniform_time(5, DISCRETE, "middle"), "leading, trailing, linspace"),
    (lambda: grids.uniform_time(1001, DISCRETE), "has 1000 steps"),
    (lambda: grids.uniform_time(1000, DISCRETE, "leading", offset=1), "offset 1 leads to time 1000"),
    (lambda: grids.uniform_time(10, DISCRETE, "leading", offset=-1), "offset -1"),
  ],
)
def test_impossible_grids_are_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()


@pytest.mark.parametrize(
  "make",
  [
    lambda: grids.karras(5, 80.0, 0.002),
    lambda: grids.karras(5, 1.0, 1.0),
    lambda: grids.karras(5, -1.0, 80.0),
    lambda: grids.karras(5, np.nan, 80.0),
    lambda: grids.karras(5, rho=1e-3),
    lambda: grids.karras(5, rho=0),
    lambda: grids.exponential(5, 0.0, 80.0),
    lambda: grids.polyexponential(5, rho=-1.0),
    lambda: grids.uniform_log_snr(5, schedules.VE(5.0, 1.0)),
    lambda: grids.uniform_time(5, schedules.Shifted(DISCRETE, -1.0)),
  ],
)
def test_grids_that_do_not_descend_are_refused(make):
  with pytest.raises(ValueError, match="descend strictly and end in 0, got"):
    make()


def test_under_jit_the_levels_are_unknown_and_pass():
  np.testing.assert_allclose(jax.jit(lambda low: grids.karras(5, low))(0.002), grids.karras(5), rtol=1e-5)


def test_float64_when_asked_for(x64):
  assert grids.karras(10).dtype == jnp.float64
  assert grids.uniform_time(10, schedules.VP()).dtype == jnp.float64
