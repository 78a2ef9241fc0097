"""Token ids against transformers' CLIPTokenizer on the same vocabulary."""

import numpy as np
import pytest
from captions import CAPTIONS, LONG, ODD
from test_tokens import write_pair

from diffjax import data

pytest.importorskip("transformers")

TEXTS = {**ODD, **LONG}


@pytest.fixture(scope="module", params=["pair", "tokenizer.json"])
def tokenizers(request, tmp_path_factory):
  """Ours and theirs, from vocab.json and merges.txt, or from the files that ours saves."""
  from transformers import CLIPTokenizer

  folder = tmp_path_factory.mktemp("tokens")
  trained = data.train_tokenizer(CAPTIONS, 900)
  if request.param == "pair":
    write_pair(trained, folder)
    theirs = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)
  else:
    trained.save(folder)
    theirs = CLIPTokenizer.from_pretrained(folder)
    assert theirs.model_max_length == 77
  return data.load_tokenizer(folder), theirs


@pytest.mark.filterwarnings("ignore:text 0 has")
@pytest.mark.parametrize("name", TEXTS)
def test_ids_are_equal(name, tokenizers):
  ours, theirs = tokenizers
  expected = theirs([TEXTS[name]], padding="max_length", truncation=True, max_length=77)["input_ids"]
  np.testing.assert_array_equal(ours([TEXTS[name]]), expected)
