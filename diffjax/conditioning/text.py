"""Texts as hidden states of text encoders, as Stable Diffusion's networks read them."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffjax import randomness, struct
from diffjax.conditioning.prompt_weights import Sections, sections, weighed
from diffjax.networks.transformer import layer_norm
from diffjax.system import compilation
from diffjax.typing import Array, Cond, PyTree


@struct.dataclass
class TextTower:
  """A text encoder, its parameters and its tokenizer.

  Attributes:
    params: of the encoder.
    module: a `networks.TextEncoder`.
    tokenizer: texts to int32 [N, L].
    layer: which hidden state is read: -1 is the last layer's, -2 the penultimate one's.
    normed: whether the encoder's final norm is applied to it.
  """

  params: PyTree
  module: Any = struct.field(pytree_node=False)
  tokenizer: Any = struct.field(pytree_node=False)
  layer: int = struct.field(pytree_node=False, default=-1)
  normed: bool = struct.field(pytree_node=False, default=True)

  def encode(
    self, texts: Sequence[Sections], most: int, syntax: str, clip_skip: int = 0
  ) -> tuple[np.ndarray, np.ndarray]:
    """(weighed hidden states [T, most * L, D], vectors [T, P] of the first section) of texts in up to `most` sections.

    Shorter texts are filled up with empty sections. clip_skip leaves out that many more layers.

    Raises:
      ValueError: clip_skip is negative, or leaves no layer.
    """
    depth = self.module.layers + self.layer + 1
    if not 0 <= clip_skip < depth:
      raise ValueError(f"clip_skip is {clip_skip}, but must be in 0..{depth - 1} for this text encoder; correct it.")
    tower = dataclasses.replace(self, layer=self.layer - clip_skip, tokenizer=None)
    # one section at a time, so that no number of prompts or sections compiles anything again, and each only once
    once = functools.cache(lambda tokens: [np.asarray(a[0]) for a in _states(tower, np.asarray([tokens], np.int32))])
    encode = lambda tokens: once(tuple(tokens.tolist()))
    empty, _ = encode(self.tokenizer([""])[0])
    states, vectors = [], []
    for text in texts:
      each = [encode(tokens) for tokens in text.tokens]
      own = weighed(np.stack([hidden for hidden, _ in each]), text.weights, empty, syntax)
      states.append(np.concatenate([*own, *[empty] * (most - len(own))]))
      vectors.append(each[0][1])
    return np.stack(states), np.stack(vectors)

  def with_word(self, word: str, vectors: np.ndarray) -> "TextTower":
    """The tower with a further word, which stands for the embeddings `vectors` [k, D], as k tokens in a row.

    Raises:
      ValueError: the tokenizer knows the word already.
    """
    table = self.params["params"]["tokens"]
    rows = jnp.concatenate([jnp.asarray(table), jnp.asarray(vectors, jnp.asarray(table).dtype)])
    # its end of text is no longer the highest id
    size, end = self.module.vocab_size, self.tokenizer.end_id
    pooling = {"pooling": "eos", "eos_id": end} if self.module.pooling == "highest" else {}
    return dataclasses.replace(
      self,
      params={"params": {**self.params["params"], "tokens": rows}},
      module=self.module.clone(vocab_size=size + len(vectors), **pooling),
      tokenizer=self.tokenizer.with_word(word, range(size, size + len(vectors))),
    )

  def with_length(self, length: int) -> "TextTower":
    """The tower for texts of up to `length` tokens.

    Positions that it lacks are random, of the deviation of those it has, for training to adapt.
    """
    positions = np.asarray(self.params["params"]["positions"])
    missing = max(length - len(positions), 0)
    more = np.random.RandomState(0).normal(scale=positions.std(), size=(missing, positions.shape[1]))
    table = np.concatenate([positions, more.astype(positions.dtype)])
    return dataclasses.replace(
      self,
      params={"params": {**self.params["params"], "positions": table}},
      module=self.module.clone(context=len(table)),
      tokenizer=self.tokenizer._replace(length=length),
    )

  def states(self, tokens: Array) -> tuple[Array, Array]:
    """(hidden states [N, L, D], vectors [N, P]) of tokens int32 [N, L]."""
    encoded = self.module.apply(self.params, tokens)
    hidden = encoded.hidden[self.layer]
    if self.normed:
      norm = layer_norm(self.module.norm_eps, self.module.dtype, None)
      hidden = norm.apply({"params": self.params["params"]["norm_out"]}, hidden)
    return jnp.asarray(hidden, jnp.float32), encoded.features.astype(jnp.float32)


@compilation.jit
def _states(tower: TextTower, tokens: Array) -> tuple[Array, Array]:
  return tower.states(tokens)


@struct.dataclass
class Text:
  """The conditioner of a text-to-image model: cond["context"], and for SDXL cond["pooled"] and cond["sizes"].

  The hidden states of several towers are concatenated; the last tower gives the pooled vector (Podell et al. 2023,
  sections 2.1 and 2.2).

  Attributes:
    towers: the text encoders.
    pooled: whether the network reads "pooled" and "sizes".
    zero_null: whether the null cond, unless a negative prompt is given, is zero instead of the empty text's.
    dropout: the fraction of texts that training replaces by the empty one (Ho & Salimans 2022, algorithm 1).
    captions: int32 [templates, classes, L], the tokens of the captions of labelled images, for training; or None.
    aesthetic: the refiner's last entry of "sizes", for prompt and null cond; None: sizes end with the target size.
  """

  towers: tuple[TextTower, ...]
  dropout: float = 0.0
  captions: Array | np.ndarray | None = None
  pooled: bool = struct.field(pytree_node=False, default=False)
  zero_null: bool = struct.field(pytree_node=False, default=False)
  aesthetic: tuple[float, float] | None = struct.field(pytree_node=False, default=None)

  def conds(
    self,
    num: int,
    size: tuple[int, int],
    *,
    prompt: str | Sequence[str] | None = None,
    negative_prompt: str | None = None,
    prompt_syntax: str = "a1111",
    clip_skip: int = 0,
    **asked: Any,
  ) -> tuple[Cond, Cond]:
    """(cond, null cond) of `num` images of (H, W) pixels: of one prompt for all, or one for each.

    The null cond is that of the negative prompt, by default the empty text. Prompts of several sections
    (`prompt_weights`) make "context" longer for all.

    Raises:
      ValueError: no prompt, an empty one, or not one for each image; an unknown syntax; clip_skip out of range; or
        something else is asked for.
    """
    if asked:
      raise ValueError(f"this model draws from text, not by {' or '.join(asked)}; omit that.")
    if prompt is None:
      raise ValueError('this model draws from text; write a prompt, as in prompt="a red three on white".')
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if len(prompts) not in (1, num):
      raise ValueError(f"there are {len(prompts)} prompts for {num} images; give one for all, or one for each.")
    for text in prompts:
      if not text.strip():
        raise ValueError(f"the prompt {text!r} is empty; say what the image should show.")
    unique = list(dict.fromkeys(prompts))
    encoded = self._encode([*unique, negative_prompt or ""], prompt_syntax, clip_skip)
    rows = [unique.index(text) for text in prompts] * (num if len(prompts) == 1 else 1)
    cond = {name: values[rows] for name, values in encoded.items()}
    null_cond = {name: values[-1] for name, values in encoded.items()}
    if negative_prompt is None and self.zero_null:
      null_cond = {name: np.zeros_like(values) for name, values in null_cond.items()}
    if self.pooled:
      # height and width of the original image, of its cropped corner, and of the target, or instead of that a score
      ends = [size] * 2 if self.aesthetic is None else [(score,) for score in self.aesthetic]
      sizes, null_sizes = (np.array([*size, 0, 0, *end], np.float32) for end in ends)
      cond, null_cond = cond | {"sizes": np.tile(sizes, (num, 1))}, null_cond | {"sizes": null_sizes}
    return cond, null_cond

  def training_cond(self, batch: PyTree, keys: Array) -> Cond:
    """The cond of a batch's "tokens", int32 [b, L], or of a random caption of each "label", int32 [b].

    Each text is replaced by the empty one at random, by keys [b].

    Raises:
      ValueError: the network reads more than one tower's hidden states.
    """
    if len(self.towers) > 1 or self.pooled:
      raise ValueError("training reads the hidden states of one text encoder; use a network of that kind.")
    tower = next(iter(self.towers))
    tokens = batch["tokens"] if "tokens" in batch else self._caption(batch["label"], randomness.fold_in(keys, 1))
    dropped = randomness.uniform(keys) < self.dropout
    tokens = jnp.where(dropped[:, None], jnp.asarray(tower.tokenizer([""])), tokens)
    return {"context": tower.states(tokens)[0]}

  def _caption(self, labels, keys):
    if self.captions is None:
      raise ValueError("the images have labels but no captions; set captions.names and captions.templates.")
    captions = jnp.asarray(self.captions)
    return captions[randomness.choice(keys, captions.shape[0]), labels]

  def _encode(self, texts, syntax, clip_skip) -> dict[str, np.ndarray]:
    """ "context" [T, S * L, D] of texts of up to S sections, and if it is read "pooled" [T, P] of their first."""
    parts = [[sections(text, syntax, tower.tokenizer) for text in texts] for tower in self.towers]
    most = max(len(part.tokens) for of_tower in parts for part in of_tower)
    encoded = [tower.encode(of_tower, most, syntax, clip_skip) for tower, of_tower in zip(self.towers, parts)]
    found = {"context": np.concatenate([states for states, _ in encoded], axis=-1)}
    return found | ({"pooled": encoded[-1][1]} if self.pooled else {})
