import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from oracles import Gaussian

from diffjax import denoisers, likelihood, losses, schedules
from diffjax.arrays import expand
from diffjax.denoised import Denoised

VP = schedules.VP()
SIGMA = jnp.array([0.01, 0.3, 1.0, 4.0])


def draw():
  return [jax.random.normal(key, (4, 3, 3, 2)) for key in jax.random.split(jax.random.key(0), 3)]


def network_error(prediction, weight, schedule=VP):
  """(our loss, squared error of the network's output) for a network that is off by a known error."""
  x0, noise, error = draw()
  target = prediction.from_x0(x0, x0 + expand(SIGMA, x0) * noise, SIGMA, schedule)
  denoiser = denoisers.NetworkDenoiser(lambda x, c_noise, cond, key: target + error, prediction, schedule)
  ours = losses.denoising(denoiser, weight, x0, noise, SIGMA)
  assert ours.shape == (4,)
  return ours, np.square(error).mean((1, 2, 3))


@pytest.mark.parametrize(
  "schedule", [VP, schedules.VE(), schedules.RectifiedFlow(t_max=0.99)], ids=["vp", "ve", "flow"]
)
@pytest.mark.parametrize("name", ["Eps", "X0", "V", "Flow", "Score", "EDM"])
def test_simple_is_the_error_of_the_output(name, schedule):
  prediction = getattr(denoisers, name)()
  ours, squared = network_error(prediction, losses.Simple(prediction, schedule), schedule)
  np.testing.assert_allclose(ours, squared, rtol=2e-3)


SNR = 1 / np.square(SIGMA)
WEIGHTS = [
  # the weights that the papers put on the error of the network's own output
  ("Eps", losses.SNR(), np.ones(4)),
  ("X0", losses.SNR(), SNR),
  ("V", losses.SNR(), SNR / (SNR + 1)),
  ("Eps", losses.MinSNR(5.0), np.minimum(SNR, 5) / SNR),
  ("X0", losses.MinSNR(5.0), np.minimum(SNR, 5)),
  ("V", losses.MinSNR(5.0), np.minimum(SNR, 5) / (SNR + 1)),
  ("Eps", losses.P2(1.0, 0.5), 1 / (1 + SNR) ** 0.5),
  ("Eps", losses.P2(2.0, 1.0), 1 / (2 + SNR)),
  ("EDM", losses.Preconditioned(0.5), np.ones(4)),
  ("Eps", losses.Sigmoid(-1.0), 1 / (1 + np.exp(np.log(SNR) + 1))),
  ("Flow", losses.Simple(denoisers.Flow(), VP), np.ones(4)),
]


@pytest.mark.parametrize(("name", "weight", "expected"), WEIGHTS, ids=lambda value: type(value).__name__)
def test_weights_of_the_papers(name, weight, expected):
  ours, squared = network_error(getattr(denoisers, name)(), weight)
  np.testing.assert_allclose(ours, expected * squared, rtol=2e-3)


def test_weights_are_finite_at_both_ends():
  ends = jnp.array([1e-3, schedules.MAX_SIGMA])
  for weight in (losses.SNR(), losses.MinSNR(), losses.Preconditioned(), losses.P2(), losses.Sigmoid()):
    assert np.all(np.isfinite(weight(ends))) and np.all(weight(ends) >= 0)


@pytest.mark.slow
def test_x64_does_not_widen_float32(x64):
  sigma = SIGMA.astype(jnp.float32)
  for weight in (losses.SNR(), losses.MinSNR(), losses.Preconditioned(), losses.P2(), losses.Sigmoid()):
    assert weight(sigma).dtype == jnp.float32
  x0, noise, _ = (a.astype(jnp.float32) for a in draw())
  assert losses.denoising(Gaussian(), losses.SNR(), x0, noise, sigma).dtype == jnp.float32
  bound = losses.variational_bound(x0, noise, x0, 0.5, sigma, sigma / 2, DISCRETE)
  assert bound.dtype == jnp.float32


def test_ideal_denoiser_has_the_least_loss():
  # the loss of E[x0 | x] is the posterior variance, sigma^2 std^2 / (sigma^2 + std^2)
  x0, noise = (jax.random.normal(key, (4, 40000)) for key in jax.random.split(jax.random.key(1)))
  loss = losses.denoising(Gaussian(0.3, 0.5), lambda sigma: 1.0, 0.3 + 0.5 * x0, noise, SIGMA)
  np.testing.assert_allclose(loss, SIGMA**2 * 0.25 / (SIGMA**2 + 0.25), rtol=0.03)


T = 20
BETAS = np.linspace(1e-3, 0.2, T)
DISCRETE = schedules.from_betas(BETAS)


def improved_diffusion(x0, x_t, x0_predicted, fraction, t):
  """One term of the bound in bits per dimension, in numpy float64, from Nichol & Dhariwal 2021, eq. 4-6 and 15."""
  cumprod = np.cumprod(1 - BETAS)
  before = np.append(1.0, cumprod)[t]
  c0 = BETAS[t] * np.sqrt(before) / (1 - cumprod[t])
  ct = (1 - before) * np.sqrt(1 - BETAS[t]) / (1 - cumprod[t])
  if t == 0:  # -log p(x0 | x1); the posterior's variance is that of the step above, as improved-diffusion clips it
    small = BETAS[1] * (1 - cumprod[0]) / (1 - cumprod[1])
    std = np.exp((fraction * np.log(BETAS[0]) + (1 - fraction) * np.log(small)) / 2)
    upper = np.where(x0 > 0.999, 1, scipy.stats.norm.cdf((x0 + 1 / 255 - x0_predicted) / std))
    lower = np.where(x0 < -0.999, 0, scipy.stats.norm.cdf((x0 - 1 / 255 - x0_predicted) / std))
    return -np.log(np.maximum(upper - lower, 1e-12)).mean() / np.log(2)
  true_log = np.log(BETAS[t] * (1 - before) / (1 - cumprod[t]))
  model_log = fraction * np.log(BETAS[t]) + (1 - fraction) * true_log
  difference = (c0 * x0 + ct * x_t) - (c0 * x0_predicted + ct * x_t)
  kl = 0.5 * (-1 + model_log - true_log + np.exp(true_log - model_log) + difference**2 * np.exp(-model_log))
  return kl.mean() / np.log(2)


def bound_inputs():
  rng = np.random.default_rng(0)
  x0 = np.round(rng.uniform(0, 255, (T, 4, 4, 1))) / 127.5 - 1
  x0[:, 0, 0], x0[:, 0, 1] = -1, 1
  return x0, rng.normal(size=x0.shape), x0 + 0.1 * rng.normal(size=x0.shape), rng.uniform(size=x0.shape)


@pytest.mark.parametrize("wide", [True, False], ids=["float64", "float32"])
def test_bound_is_improved_diffusions(wide):
  x0, noise, predicted, fraction = bound_inputs()
  cumprod = np.cumprod(1 - BETAS)[:, None, None, None]
  x_t = np.sqrt(cumprod) * x0 + np.sqrt(1 - cumprod) * noise
  expected = [improved_diffusion(x0[t], x_t[t], predicted[t], fraction[t], t) for t in range(T)]
  with jax.enable_x64(wide):
    sigma = DISCRETE.sigma(jnp.arange(float(T)))
    x = jnp.asarray(x_t / np.sqrt(cumprod))
    ours = losses.variational_bound(
      jnp.asarray(x0),
      x,
      jnp.asarray(predicted),
      jnp.asarray(fraction),
      sigma,
      DISCRETE.sigma_below(sigma),
      DISCRETE,
    )
  np.testing.assert_allclose(ours, expected, rtol=1e-6 if wide else 2e-3)


def bound_of_a_pixel(steps, std=0.22):
  """(bound, entropy) in bits of one 8-bit Gaussian pixel: all steps of the ideal model, integrated by quadrature."""
  schedule = schedules.Discrete(np.linspace(9.0, -13.0, steps))
  values = np.arange(256) / 127.5 - 1
  probabilities = np.diff(scipy.stats.norm(0, std).cdf(np.concatenate([[-np.inf], values[1:] - 1 / 255, [np.inf]])))
  nodes, weights = np.polynomial.hermite_e.hermegauss(9)
  x0, noise = (jnp.asarray(a.reshape(-1, 1)) for a in np.meshgrid(values, nodes, indexing="ij"))
  joint = np.outer(probabilities, weights / weights.sum()).ravel()

  def term(t):
    sigma = jnp.full(x0.shape[0], schedule.sigma(t))
    x = x0 + expand(sigma, x0) * noise
    x0_predicted = Gaussian(0.0, std)(x, sigma)
    # the posterior variance, but beta for the pixels: the second step here is so long that its variance is far off
    fraction = jnp.where(t == 0, 1.0, 0.0)
    return (
      joint * losses.variational_bound(x0, x, x0_predicted, fraction, sigma, schedule.sigma_below(sigma), schedule)
    ).sum()

  total = jax.jit(lambda: jax.lax.map(term, jnp.arange(float(steps))).sum())()
  return float(total), -(probabilities * np.log2(probabilities)).sum()


@pytest.mark.slow
def test_bound_of_the_ideal_model_nears_the_likelihood_from_above(x64):
  gaps = [total - entropy for total, entropy in (bound_of_a_pixel(100), bound_of_a_pixel(400))]
  assert 0 < gaps[1] < gaps[0] / 3.5, gaps
  assert abs((4 * gaps[1] - gaps[0]) / 3) < 0.01, gaps  # a gap of order 1 / steps, extrapolated


def hybrid_parts(bound_weight):
  x0, noise, _, _ = (jnp.asarray(a, jnp.float32) for a in bound_inputs())
  sigma = DISCRETE.sigma(jnp.arange(float(T)))

  def loss(shift, spread):
    network = lambda x, c_noise, cond, key: jnp.concatenate([0.3 * x + shift, jnp.full_like(x, spread)], -1)
    denoiser = denoisers.NetworkDenoiser(network, denoisers.Eps(), DISCRETE)
    weight = losses.Simple(denoisers.Eps(), DISCRETE)
    return losses.hybrid(denoiser, weight, x0, noise, sigma, DISCRETE.sigma_below(sigma), bound_weight=bound_weight)

  return loss


@pytest.mark.slow
def test_bound_teaches_the_variance_alone():
  gradient = lambda weight: jax.jacobian(hybrid_parts(weight), (0, 1))(0.1, 0.2)
  mean_with, variance_with = gradient(1.0)
  mean_without, variance_without = gradient(0.0)
  np.testing.assert_allclose(mean_with, mean_without, rtol=1e-6)
  np.testing.assert_array_equal(variance_without, 0)
  assert np.all(np.isfinite(variance_with)) and np.all(variance_with != 0)


def test_hybrid_is_the_sum_of_its_parts():
  both, simple = hybrid_parts(2.0)(0.1, 0.2), hybrid_parts(0.0)(0.1, 0.2)
  x0, noise, _, _ = bound_inputs()
  cumprod = np.cumprod(1 - BETAS)[:, None, None, None]
  x_t = np.sqrt(cumprod) * x0 + np.sqrt(1 - cumprod) * noise
  eps = 0.3 * x_t + 0.1
  np.testing.assert_allclose(simple, np.square(eps - noise).mean((1, 2, 3)), rtol=2e-3)
  predicted = (x_t - np.sqrt(1 - cumprod) * eps) / np.sqrt(cumprod)
  bound = [improved_diffusion(x0[t], x_t[t], predicted[t], 0.6, t) for t in range(T)]
  np.testing.assert_allclose(both - simple, 2 * np.array(bound), rtol=5e-3)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_the_last_step_is_that_of_the_whole_bound(fraction, x64):
  class Learned:
    def predict(self, x, sigma, cond=None, *, key=None):
      return Denoised(Gaussian(0.1, 0.4)(x, sigma), variance=jnp.full_like(x, fraction))

  x0, noise = (jnp.asarray(a) for a in bound_inputs()[:2])
  draws = lambda keys, shape: noise
  whole = likelihood.variational_bound(Learned(), DISCRETE, x0, key=jax.random.key(0), noise=draws)
  sigma = DISCRETE.sigma(jnp.zeros(T))
  x = x0 + sigma[0] * noise
  own = Learned().predict(x, sigma)
  one = losses.variational_bound(x0, x, own.x0, own.variance, sigma, 0 * sigma, DISCRETE)
  np.testing.assert_allclose(one, whole.reconstruction, rtol=1e-6)


def test_hybrid_needs_channels_for_the_variance():
  x0 = jnp.zeros((2, 4, 4, 3))
  denoiser = denoisers.NetworkDenoiser(lambda x, c_noise, cond, key: x, denoisers.Eps(), DISCRETE)
  with pytest.raises(ValueError, match="outputs 3 channels"):
    losses.hybrid(denoiser, losses.SNR(), x0, x0, jnp.ones(2), jnp.full(2, 0.5))
