"""CLIP's byte-pair encoding (Sennrich et al. 2016; Radford et al. 2021, section 2.4), with the `tokenizers` library.

Text is normalised (NFC), lower-cased and split into words; each word's bytes are merged in the order of the merges.
"""

import json
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffjax.system.files import read_json, read_small, shown
from diffjax.warning import DiffjaxWarning

START, END = "<|startoftext|>", "<|endoftext|>"
SUFFIX = "</w>"
PLAIN_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|" + PLAIN_WORDS
PARTS = [
  {"type": "NFC"},
  {"type": "Lowercase"},
  {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
  {"type": "Split", "pattern": {"Regex": WORDS}},
  {"type": "Split", "pattern": {"Regex": PLAIN_WORDS}},  # as in the original release
  {"type": "ByteLevel"},
]
"""Steps that a tokenizer file may contain: arbitrary patterns could take forever, replacements fill the memory."""
MAX_ID, MAX_BYTES = 2**20, 2**22
NUM_BYTES = 2 * 256
"""Every byte, within a word and at its end: the smallest vocabulary has these plus start and end."""


class Tokenizer(NamedTuple):
  """Maps texts to rows of `length` token ids with `bpe`, a `tokenizers.Tokenizer`, padded with `pad_id`.

  `words` are further ones, each with the ids that stand for it.
  """

  bpe: Any
  length: int
  pad_id: int
  words: tuple[tuple[str, range], ...] = ()

  @property
  def vocab_size(self) -> int:
    return self.bpe.get_vocab_size()

  @property
  def start_id(self) -> int:
    return self.bpe.token_to_id(START)

  @property
  def end_id(self) -> int:
    return self.bpe.token_to_id(END)

  def __call__(self, texts: Sequence[str], *, quiet: bool = False) -> np.ndarray:
    """int32 [len(texts), length]: start of text, the words, end of text, then padding.

    Longer texts are truncated, unless `quiet` with a DiffjaxWarning that names the text and the words cut off. An empty
    text is only start and end. TypeError for anything but a list of strings.
    """
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
      raise TypeError(
        f"a tokenizer expects a list of strings, got {type(texts).__name__} {str(texts)[:60]!r}; pass such a list."
      )
    rows = np.full((len(texts), self.length), self.pad_id, np.int32)
    for number, (row, text) in enumerate(zip(rows, texts)):
      ids = self._ids(text, number, quiet)
      row[: len(ids)] = ids
    return rows

  def prompts(self, texts: Sequence[str]) -> np.ndarray:
    """As calling it, but for prompts: an empty one is a ValueError."""
    rows = self(texts)
    for number, text in enumerate(texts):
      if rows[number, 1] == self.end_id:
        raise ValueError(f"prompt {number} is empty ({text!r}); say what the image should show.")
    return rows

  def ids(self, text: str) -> list[int]:
    """The ids of a text of any length, without start and end."""
    return [i for i, _ in self._expanded(self.bpe.encode(_valid(text), add_special_tokens=False))]

  def with_word(self, word: str, ids: range) -> "Tokenizer":
    """The tokenizer with a further word, for which these ids stand in a row.

    Raises:
      ValueError: it knows the word already.
    """
    from tokenizers import AddedToken

    known = dict(self.words)
    if word in known or self.bpe.token_to_id(word) is not None:
      raise ValueError(f"the tokenizer knows {shown(word)!r} already; choose another word.")
    bpe = type(self.bpe).from_str(self.bpe.to_str())
    bpe.add_tokens([AddedToken(word, normalized=False) for word in (*known, word)])
    return self._replace(bpe=bpe, words=(*self.words, (word, ids)))

  def _expanded(self, encoding: Any) -> list[tuple[int, int]]:
    """(id, where it begins in the text) of each token, further words being expanded."""
    meant = {self.bpe.token_to_id(word): own for word, own in self.words}
    pairs = zip(encoding.ids, encoding.offsets)
    return [(i, begin) for number, (begin, _) in pairs for i in meant.get(number, (number,))]

  def _ids(self, text, number, quiet):
    ids, begins = zip(*self._expanded(self.bpe.encode(_valid(text))))
    if len(ids) <= self.length:
      return ids
    kept = self.length - 1
    if not quiet:
      cut = text[begins[kept] :]
      warnings.warn(
        f"text {number} has {len(ids)} tokens, but only {self.length} are used, and {cut[:80]!r} is cut off; shorten"
        " it.",
        DiffjaxWarning,
        stacklevel=3,
      )
    return [*ids[:kept], self.end_id]

  def save(self, folder: str | os.PathLike) -> None:
    """Writes tokenizer.json and tokenizer_config.json, which `load_tokenizer` and `transformers` read.

    Raises:
      ValueError: it has further words, which have no place there.
    """
    if self.words:
      named = ", ".join(word for word, _ in self.words)
      raise ValueError(f"a tokenizer with words of textual inversion ({named}) cannot be saved; save it without them.")
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    self.bpe.save(str(folder / "tokenizer.json"))
    tokens = dict(bos_token=START, eos_token=END, unk_token=END, pad_token=self.bpe.id_to_token(self.pad_id))
    config = dict(tokenizer_class="CLIPTokenizer", model_max_length=self.length, **tokens)
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _valid(text):
  return text.encode("utf-8", "replace").decode("utf-8")  # replaces lone surrogates


def load_tokenizer(folder: str | os.PathLike, length: int | None = None) -> Tokenizer:
  """Loads CLIP's tokenizer from a folder with tokenizer.json, or else with vocab.json and merges.txt.

  Args:
    folder: as published; the padding token is taken from tokenizer_config.json or special_tokens_map.json, by default
      end of text.
    length: ids in a row; None: from tokenizer_config.json, or else 77.

  Raises:
    ValueError: a folder without these files, damaged files, or a tokenizer without CLIP's start and end.
  """
  folder = Path(folder).expanduser()
  bpe = _read_bpe(folder)
  bpe.no_truncation()
  bpe.no_padding()
  if bpe.token_to_id(START) is None or bpe.token_to_id(END) is None:
    raise ValueError(f"the tokenizer in {folder} has no {START} and {END}; use CLIP's.")
  if bpe.encode("").ids != [bpe.token_to_id(START), bpe.token_to_id(END)]:
    raise ValueError(f"the tokenizer in {folder} does not put {START} and {END} around a text; use CLIP's.")
  config = _read_if_there(folder, "tokenizer_config.json")
  pad = config.get("pad_token") or _read_if_there(folder, "special_tokens_map.json").get("pad_token") or END
  pad = pad.get("content") if isinstance(pad, dict) else pad
  pad_id = bpe.token_to_id(pad) if isinstance(pad, str) else None
  if pad_id is None:
    raise ValueError(
      f"the tokenizer in {folder} pads with {shown(pad)!r}, which is not in its vocabulary; correct its pad_token."
    )
  said = config.get("model_max_length", 77)
  # `transformers` writes 10^30 for an unknown length
  length = length or (said if isinstance(said, int) and 3 <= said <= 2**20 else 77)
  if length < 3:
    raise ValueError(f"length {length} leaves no room for text; use at least 3.")
  return Tokenizer(bpe, length, pad_id)


def _read_bpe(folder):
  whole, vocab, merges = (folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
  if whole.exists():
    bpe = _whole_bpe(whole, read_json(folder, whole.name, MAX_BYTES))
  elif vocab.exists() and merges.exists():
    words = read_json(folder, vocab.name, MAX_BYTES)
    lines = (
      read_small(folder, merges.name, MAX_BYTES).decode("utf-8", errors="replace").replace("\r\n", "\n").split("\n")
    )
    pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    bpe = clip_bpe(words, pairs, str(vocab))
  else:
    raise ValueError(f"{folder} holds no tokenizer; add tokenizer.json, or vocab.json and merges.txt.")
  if max(bpe.get_vocab().values()) > MAX_ID:
    raise ValueError(f"the tokenizer in {folder} has ids above {MAX_ID}; use CLIP's.")
  return bpe


def _whole_bpe(path, whole):
  from tokenizers import Tokenizer as Rust

  for kind, several in (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers")):
    for part in _parts(whole.get(kind), several):
      if {key: part[key] for key in ("type", "pattern", "content") if key in part} not in PARTS:
        raise ValueError(f"{path} has a {kind} {shown(part, 200)}; use CLIP's.")
  try:
    return Rust.from_str(json.dumps(whole))
  except Exception as error:  # the library raises nothing narrower
    raise ValueError(f"{path} is not a valid tokenizer file ({shown(str(error), 200)}); download it again.") from None


def _parts(part, several):
  """A normalizer or pre-tokenizer as the list of its steps; `several` is the key of a sequence's parts."""
  if isinstance(part, dict) and part.get("type") == "Sequence" and isinstance(part.get(several), list):
    return [each for item in part[several] for each in _parts(item, several)]
  return [] if part is None else [part if isinstance(part, dict) else {"type": part}]


def _read_if_there(folder, name):
  return read_json(folder, name) if (folder / name).exists() else {}


def clip_bpe(vocab: dict[str, int], merges: list[Any], source: str) -> Any:
  """A `tokenizers.Tokenizer` with CLIP's rules; ValueError naming `source` if vocabulary and merges are invalid."""
  from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

  try:
    bpe = Tokenizer(models.BPE(vocab=vocab, merges=merges, end_of_word_suffix=SUFFIX, unk_token=END))
  except Exception as error:  # the library raises nothing narrower
    raise ValueError(
      f"{source} and its merges are not a byte-pair vocabulary ({shown(str(error), 200)}); download them again."
    ) from None
  if START not in vocab or END not in vocab:
    raise ValueError(f"{source} has no {START} and {END}; use CLIP's vocabulary.")
  bpe.normalizer = normalizers.Sequence(
    [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
  )
  words = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
  bpe.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
  bpe.decoder = decoders.ByteLevel()
  bpe.add_special_tokens([START, END])
  bpe.post_processor = processors.RobertaProcessing(
    (END, vocab[END]), (START, vocab[START]), trim_offsets=False, add_prefix_space=False
  )
  return bpe


def train_tokenizer(captions: Iterable[str], vocab_size: int, length: int = 77) -> Tokenizer:
  """Trains a tokenizer like CLIP's, with the most frequent merges in these captions.

  Args:
    captions: texts like those the model will be trained on.
    vocab_size: maximum number of tokens, at least 514; fewer if the captions have no more pairs to merge.
    length: ids in a row.

  The vocabulary is ordered like CLIP's: bytes, bytes that end a word, merges, start, end. So end of text has the
  highest id, as `TextEncoder(pooling="highest")` requires.
  """
  from tokenizers import pre_tokenizers, trainers

  if vocab_size < NUM_BYTES + 2:
    raise ValueError(f"a vocabulary of {vocab_size} tokens is too small, as each byte needs two; use at least 514.")
  if length < 3:
    raise ValueError(f"length {length} leaves no room for text; use at least 3.")
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  blank = clip_bpe({START: 0, END: 1}, [], "an empty vocabulary")
  trainer = trainers.BpeTrainer(
    vocab_size=vocab_size, initial_alphabet=alphabet, end_of_word_suffix=SUFFIX, show_progress=False
  )
  blank.train_from_iterator(captions, trainer)
  merges = [tuple(pair) for pair in json.loads(blank.to_str())["model"]["merges"]][: vocab_size - NUM_BYTES - 2]
  tokens = [*alphabet, *(byte + SUFFIX for byte in alphabet), *map("".join, merges), START, END]
  vocab = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
  return Tokenizer(clip_bpe(vocab, merges, "the trained vocabulary"), length, vocab[END])
