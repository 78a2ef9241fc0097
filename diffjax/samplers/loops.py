import functools
from collections.abc import Callable

import jax
from jax.core import eval_jaxpr

from diffjax.typing import PyTree


def while_loop(going: Callable, body: Callable, state: PyTree, max_steps: int) -> PyTree:
  """`jax.lax.while_loop` of at most `max_steps` iterations that supports reverse-mode differentiation.

  The gradient, including that of values `body` closes over, runs the loop as a scan of max_steps iterations and skips
  the idle ones. `going` may depend only on the state.
  """
  jaxpr, shapes = jax.make_jaxpr(body, return_shape=True)(state)
  outline = jax.tree.structure(shapes)

  def body_of(closed_over, state):
    return jax.tree.unflatten(outline, eval_jaxpr(jaxpr.jaxpr, closed_over, *jax.tree.leaves(state)))

  return _while(going, body_of, max_steps, jaxpr.consts, state)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _while(going, body, max_steps, closed_over, state):
  turn = lambda turns_state: (turns_state[0] + 1, body(closed_over, turns_state[1]))
  return jax.lax.while_loop(lambda s: (s[0] < max_steps) & going(s[1]), turn, (0, state))[1]


def _forward(going, body, max_steps, closed_over, state):
  def scan(closed_over, state):
    turn = lambda state, _: (jax.lax.cond(going(state), body, lambda _, state: state, closed_over, state), None)
    return jax.lax.scan(turn, state, length=max_steps)[0]

  return jax.vjp(scan, closed_over, state)


_while.defvjp(_forward, lambda going, body, max_steps, pullback, cotangent: pullback(cotangent))
