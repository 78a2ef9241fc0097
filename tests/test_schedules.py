import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from diffjax import schedules

CONTINUOUS = {
  "cosine": schedules.Cosine(),
  "sigmoid": schedules.Sigmoid(),
  "sigmoid_steep": schedules.Sigmoid(0.0, 3.0, 0.3),
  "vp": schedules.VP(),
  "ve": schedules.VE(),
  "edm": schedules.SigmaAsTime(),
  "flow": schedules.RectifiedFlow(),
  "flow_shifted": schedules.Shifted(schedules.RectifiedFlow(), 3.0),
  "cosine_shifted": schedules.Shifted(schedules.Cosine(), 4.0),
}
DISCRETE = {
  "linear": schedules.linear(),
  "scaled_linear": schedules.scaled_linear(),
  "squared_cosine": schedules.squared_cosine(),
  "sigmoid_betas": schedules.sigmoid_betas(),
  "zero_snr": schedules.zero_terminal_snr(schedules.scaled_linear()),
  "discrete_flow": schedules.discretize(schedules.RectifiedFlow(), 100),
}
ALL = CONTINUOUS | DISCRETE


def times(schedule, num):
  return np.asarray(schedule.t_min + (schedule.t_max - schedule.t_min) * np.linspace(0, 1, num))


def test_published_values():
  # Ho et al. 2020's T = 1000 ends at a signal of 4.036e-5; Stable Diffusion's sigmas are 0.0292 to 14.6146
  np.testing.assert_allclose(schedules.linear().alphas_cumprod[jnp.array([0, 999])], [0.9999, 4.0358e-5], rtol=1e-4)
  sigma = schedules.scaled_linear().sigma(jnp.array([0.0, 999.0]))
  np.testing.assert_allclose(sigma, [0.0292, 14.6146], rtol=2e-3)


@pytest.mark.parametrize(
  ("ours", "name"),
  [("linear", "linear"), ("scaled_linear", "scaled_linear"), ("squared_cosine", "squaredcos_cap_v2")],
)
def test_alphas_cumprod_as_in_diffusers(ours, name):
  diffusers = pytest.importorskip("diffusers")
  ends = {"scaled_linear": dict(beta_start=0.00085, beta_end=0.012)}.get(name, {})
  theirs = diffusers.DDPMScheduler(num_train_timesteps=1000, beta_schedule=name, **ends).alphas_cumprod.numpy()
  np.testing.assert_allclose(DISCRETE[ours].alphas_cumprod, theirs, rtol=3e-4, atol=1e-9)


def test_sigmoid_betas_as_in_diffusers():
  diffusers = pytest.importorskip("diffusers")
  theirs = diffusers.DDPMScheduler(num_train_timesteps=1000, beta_schedule="sigmoid").alphas_cumprod.numpy()
  np.testing.assert_allclose(schedules.sigmoid_betas().alphas_cumprod, theirs, rtol=3e-4)


@pytest.mark.parametrize("name", ["linear", "scaled_linear"])
def test_zero_terminal_snr_as_in_diffusers(name):
  diffusers = pytest.importorskip("diffusers")
  theirs = diffusers.DDIMScheduler(
    num_train_timesteps=1000, beta_schedule=name, rescale_betas_zero_snr=True, beta_start=1e-4, beta_end=0.02
  ).alphas_cumprod.numpy()
  base = {"linear": schedules.linear, "scaled_linear": schedules.scaled_linear}[name](1000, 1e-4, 0.02)
  ours = schedules.zero_terminal_snr(base)
  np.testing.assert_allclose(ours.alphas_cumprod, theirs, rtol=3e-4, atol=2e-10)
  np.testing.assert_allclose(ours.alphas_cumprod[0], base.alphas_cumprod[0], rtol=1e-6)
  np.testing.assert_allclose(ours.sigma(999.0), schedules.MAX_SIGMA, rtol=1e-5)


def test_vp_solves_its_sde(x64):
  beta = lambda t: 0.1 + t * 19.9
  moments = scipy.integrate.solve_ivp(
    lambda t, y: [-beta(t) / 2 * y[0], beta(t) * (1 - y[1])],
    (0, 1),
    [1.0, 0.0],
    rtol=1e-11,
    atol=1e-13,
    dense_output=True,
  )
  t = np.array([0.001, 0.1, 0.5, 1.0])
  alpha, sigma_t = schedules.VP().alpha_sigma(t)
  np.testing.assert_allclose(alpha, moments.sol(t)[0], rtol=1e-8)
  np.testing.assert_allclose(sigma_t**2, moments.sol(t)[1], rtol=1e-6)


@pytest.mark.parametrize(("num_steps", "tolerance"), [(1000, 0.06), (10000, 0.006)])
def test_linear_betas_tend_to_vp(num_steps, tolerance, x64):
  discrete = schedules.linear(num_steps, 0.1 / num_steps, 20 / num_steps)
  step = np.array([0.1, 0.5, 0.9]) * num_steps - 1
  difference = np.abs(discrete.log_snr(step) - schedules.VP().log_snr((step + 1) / num_steps))
  assert difference.max() < tolerance


def test_cosine_tends_to_its_steps(x64):
  step = np.array([9, 99, 499, 899])
  expected = schedules.squared_cosine(1000).log_snr(step)
  np.testing.assert_allclose(schedules.Cosine().log_snr((step + 1) / 1000), expected, atol=1e-8)
  np.testing.assert_allclose(schedules.discretize(schedules.Cosine(), 1000).log_snr(step), expected, atol=0.1)


@pytest.mark.parametrize(("start", "end", "tau"), [(-3.0, 3.0, 1.0), (0.0, 3.0, 0.3), (0.0, 3.0, 0.9)])
def test_sigmoid_is_the_published_gamma(start, end, tau, x64):
  t = np.linspace(0.01, 0.99, 7)
  sigmoid = lambda x: 1 / (1 + np.exp(-x))
  level = sigmoid((t * (end - start) + start) / tau)
  gamma = (sigmoid(end / tau) - level) / (sigmoid(end / tau) - sigmoid(start / tau))
  alpha, _ = schedules.Sigmoid(start, end, tau).alpha_sigma(t)
  np.testing.assert_allclose(alpha**2, gamma, rtol=1e-9)


def test_sigmoid_ends_at_its_clip():
  log_snr = schedules.Sigmoid(clip_min=1e-4).log_snr(jnp.array([0.0, 1.0]))
  np.testing.assert_allclose(jax.nn.sigmoid(log_snr), [1 - 1e-4, 1e-4], rtol=1e-3)


@pytest.mark.parametrize("shift", [0.5, 3.0])
def test_shifted_flow(shift):
  t = jnp.array([0.1, 0.4, 0.9])
  alpha, sigma_t = schedules.Shifted(schedules.RectifiedFlow(), shift).alpha_sigma(t)
  np.testing.assert_allclose(sigma_t, shift * t / (1 + (shift - 1) * t), rtol=1e-5)
  np.testing.assert_allclose(alpha + sigma_t, 1, rtol=1e-6)


def test_shift_moves_log_snr_by_twice_its_log():
  difference = schedules.VP().log_snr(0.5) - schedules.Shifted(schedules.VP(), 4.0).log_snr(0.5)
  np.testing.assert_allclose(difference, 2 * np.log(4), rtol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_scaling_is_that_of_the_family(name):
  schedule = ALL[name]
  alpha, sigma_t = schedule.alpha_sigma(times(schedule, 9))
  kept = {
    schedules.variance_preserving: alpha**2 + sigma_t**2,
    schedules.variance_exploding: alpha,
    schedules.flow: alpha + sigma_t,
  }[schedule.scaling]
  np.testing.assert_allclose(kept, 1, rtol=2e-6)


@pytest.mark.parametrize("name", ALL)
def test_log_snr_falls_strictly(name):
  schedule = ALL[name]
  assert np.all(np.diff(schedule.log_snr(times(schedule, 100))) < 0)
  assert np.all(np.diff(schedule.sigma(times(schedule, 100))) > 0)


@pytest.mark.parametrize("name", ALL)
def test_time_inverts_sigma_in_float32(name):
  schedule = ALL[name]
  t = jnp.asarray(times(schedule, 41), jnp.float32)
  sigma = schedule.sigma(t)
  t, sigma = t[sigma < 1e4], sigma[sigma < 1e4]
  np.testing.assert_allclose(schedule.t(sigma), t, atol=2e-6 * schedule.t_max, rtol=2e-5)
  np.testing.assert_allclose(schedule.sigma(schedule.t(sigma)), sigma, rtol=1e-3)


@pytest.mark.parametrize("name", ALL)
def test_time_inverts_sigma_in_float64(name, x64):
  schedule = ALL[name]
  t = times(schedule, 41)[1:-1]
  assert schedule.sigma(t).dtype == jnp.float64
  np.testing.assert_allclose(schedule.t(schedule.sigma(t)), t, rtol=1e-7)


@pytest.mark.parametrize("name", ALL)
def test_float32_agrees_with_float64(name):
  schedule = ALL[name]
  t = np.asarray(times(schedule, 23), np.float32)
  narrow = np.asarray(schedule.sigma(t))
  with jax.enable_x64(True):
    assert schedule.sigma(t).dtype == jnp.float32  # x64 does not widen what the caller gave
    wide = np.asarray(schedule.sigma(t.astype(np.float64)))
  np.testing.assert_allclose(narrow, wide, rtol=2e-5)


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_finite(name):
  schedule = ALL[name]
  ends = jnp.asarray(times(schedule, 2), jnp.float32)
  gradient = jax.vmap(jax.grad(lambda t: schedule.sigma(t) + jnp.sum(jnp.stack(schedule.alpha_sigma(t)))))(ends)
  assert np.all(np.isfinite(gradient))


def test_hyper_parameters_are_traced():
  traces = []

  @jax.jit
  def sigma(schedule):
    traces.append(None)
    return schedule.sigma(0.5)

  assert sigma(schedules.VP(0.1, 20.0)) < sigma(schedules.VP(0.1, 25.0))
  assert len(traces) == 1


@pytest.mark.parametrize("t", [3.0, [3.0, 50.0]])
def test_add_noise_moments(t):
  schedule = schedules.linear(100)
  t = jnp.asarray(t)
  x0, noise = jnp.full((2, 3, 3, 1), 2.0), jax.random.normal(jax.random.key(0), (2, 3, 3, 1))
  noisy = schedule.add_noise(x0, noise, t)
  signal = np.cumprod(1 - np.linspace(1e-4, 0.02, 100))[np.broadcast_to(t, (2,)).astype(int)][:, None, None, None]
  np.testing.assert_allclose(noisy, np.sqrt(signal) * 2 + np.sqrt(1 - signal) * noise, rtol=1e-4, atol=1e-5)


def test_add_noise_is_the_sum_of_single_steps():
  betas = np.array([0.1, 0.3, 0.2])
  mean, variance = 1.0, 0.0
  for beta in betas:  # q(x[t] | x[t-1]), Ho et al. eq. 2
    mean, variance = np.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
  alpha, sigma_t = schedules.from_betas(betas).alpha_sigma(2.0)
  np.testing.assert_allclose([alpha, sigma_t**2], [mean, variance], rtol=1e-5)


def test_sigma_below_is_the_step_before():
  for schedule in (schedules.linear(50), schedules.zero_terminal_snr(schedules.linear(50))):
    sigmas = schedule.sigma(jnp.arange(50.0))
    np.testing.assert_allclose(jax.jit(schedule.sigma_below)(sigmas), np.append(0, sigmas[:-1]), rtol=1e-5)


def test_discrete_stays_within_its_steps():
  schedule = schedules.linear(10)
  np.testing.assert_allclose(schedule.t(jnp.array([1e-9, 1e9])), [0, 9])


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: schedules.from_betas([0.1, -0.1]), r"in \(0, 1\]"),
    (lambda: schedules.from_betas([]), r"in \(0, 1\]"),
    (lambda: schedules.linear(10, 0.0, 0.02), r"in \(0, 1\]"),
    (lambda: schedules.from_alphas_cumprod([0.5, 0.6]), "descends strictly"),
    (lambda: schedules.from_alphas_cumprod([1.0, 0.6]), "descends strictly"),
    (lambda: schedules.from_alphas_cumprod([]), "descends strictly"),
    (lambda: schedules.from_betas([0.1, 1.0, 0.1]), "descends strictly"),
    (lambda: schedules.from_alphas_cumprod([0.5, np.nan, 0.1]), "descends strictly"),
    (lambda: schedules.linear(10, np.nan), r"in \(0, 1\]"),
    (lambda: schedules.linear(-1), "num_steps is -1, but must be a whole number"),
    (lambda: schedules.scaled_linear(2.5), "num_steps is 2.5, but"),
    (lambda: schedules.sigmoid_betas(None), "num_steps is None, but"),
    (lambda: schedules.squared_cosine(0), "num_steps is 0, but"),
    (lambda: schedules.squared_cosine(s=-2), "s is -2, but must not be negative"),
    (lambda: schedules.discretize(schedules.VP(), 0), "num_steps is 0, but"),
    (lambda: schedules.discretize(schedules.VP(), -3), "num_steps is -3, but"),
    (lambda: schedules.zero_terminal_snr(schedules.Cosine()), "needs several discrete steps"),
    (lambda: schedules.zero_terminal_snr(schedules.linear(1)), "needs several discrete steps"),
    (
      lambda: schedules.zero_terminal_snr(schedules.discretize(schedules.RectifiedFlow(), 9)),
      "needs a variance-preserving schedule",
    ),
    (lambda: schedules.linear(4000), "more than one step has no signal left"),
  ],
)
def test_impossible_schedules_are_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()
