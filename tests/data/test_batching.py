import json

import numpy as np
import pytest

from diffjax import data


def draw(iterator, num):
  return [next(iterator) for _ in range(num)]


def stream(n, batch_size, seed, num):
  return np.concatenate([batch["id"] for batch in draw(data.id_batches(n, batch_size, seed), num)])


def pictures(n):
  return [{"image": np.full((2, 2, 1), i, np.uint8), "label": np.int32(i % 3)} for i in range(n)]


@pytest.mark.parametrize("n, batch_size", [(10, 4), (7, 7), (3, 8), (1, 2)])
def test_every_epoch_is_a_permutation(n, batch_size):
  ids = stream(n, batch_size, 0, 8 * n)
  epochs = ids[: len(ids) // n * n].reshape(-1, n)
  np.testing.assert_array_equal(np.sort(epochs), np.broadcast_to(np.arange(n), epochs.shape))
  if n > 4:
    assert len({tuple(epoch) for epoch in epochs}) > len(epochs) // 2


def test_every_position_sees_every_example_equally_often():
  epochs = stream(5, 50, 0, 400).reshape(-1, 5)
  counts = np.stack([(epochs == i).sum(0) for i in range(5)])
  expected = len(epochs) / 5
  # 16 degrees of freedom: chi-squared exceeds 39.3 once in a thousand.
  assert ((counts - expected) ** 2 / expected).sum() < 39.3


def test_the_seed_decides():
  np.testing.assert_array_equal(stream(50, 10, 3, 9), stream(50, 10, 3, 9))
  assert (stream(50, 10, 3, 9) != stream(50, 10, 4, 9)).any()
  # Neighbouring seeds are not each other's epochs.
  assert (stream(50, 50, 3, 2)[50:] != stream(50, 50, 4, 1)).any()


def test_the_stream_does_not_depend_on_the_batch_size():
  np.testing.assert_array_equal(stream(13, 4, 0, 6), stream(13, 12, 0, 2))


def test_the_order_is_pinned():
  # A resumed run must see the order that it would have seen, also after an upgrade of NumPy or grain.
  assert stream(8, 8, 0, 2).tolist() == [3, 7, 4, 0, 2, 6, 5, 1, 0, 5, 6, 1, 3, 2, 4, 7]


@pytest.mark.parametrize("process_count", [2, 3, 6])
def test_processes_split_the_global_batch(process_count):
  whole = draw(data.id_batches(10, 6, 1), 5)
  parts = [
    draw(data.id_batches(10, 6, 1, process_index=p, process_count=process_count), 5) for p in range(process_count)
  ]
  for k, batch in enumerate(whole):
    np.testing.assert_array_equal(batch["index"], np.arange(6))
    for p in range(process_count):
      np.testing.assert_array_equal(parts[p][k]["index"], np.arange(p, 6, process_count))
      np.testing.assert_array_equal(parts[p][k]["id"], batch["id"][p::process_count])


def test_batches_hold_the_examples_of_id_batches():
  source = pictures(10)
  ids = draw(data.id_batches(10, 4, 5, process_index=1, process_count=2), 6)
  for batch, id_batch in zip(draw(data.batches(source, 4, 5, process_index=1, process_count=2), 6), ids):
    assert batch["image"].shape == (2, 2, 2, 1) and batch["image"].dtype == np.uint8
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], id_batch["id"])
    np.testing.assert_array_equal(batch["label"], id_batch["id"] % 3)
    assert batch["label"].dtype == batch["index"].dtype == id_batch["id"].dtype == id_batch["index"].dtype == np.int32
    np.testing.assert_array_equal(batch["index"], id_batch["index"])


@pytest.mark.parametrize("make", [lambda: data.batches(pictures(10), 4, 7), lambda: data.id_batches(10, 4, 7)])
def test_resume_is_exact(make):
  iterator = make()
  draw(iterator, 5)  # in the third epoch
  state = json.loads(json.dumps(iterator.get_state()))
  expected = draw(iterator, 7)
  fresh = make()
  fresh.set_state(state)
  for batch, want in zip(draw(fresh, 7), expected):
    assert batch.keys() == want.keys()
    for key in want:
      np.testing.assert_array_equal(batch[key], want[key])
  iterator.set_state(state)
  np.testing.assert_array_equal(next(iterator)["index"], expected[0]["index"])


@pytest.mark.parametrize(
  "kwargs, message",
  [
    ({"batch_size": 6, "process_count": 4}, "multiple of 4"),
    ({"batch_size": 0}, "batch size 0"),
    ({"process_index": 2, "process_count": 2}, "process index 2"),
    ({"process_count": 0}, "process_count = 0"),
    ({"n": 0}, "empty"),
    ({"seed": -1}, "seed is -1"),
  ],
)
def test_bad_numbers(kwargs, message):
  kwargs = {"n": 8, "batch_size": 4, "seed": 0} | kwargs
  with pytest.raises(ValueError, match=message):
    data.id_batches(**kwargs)
  source = pictures(kwargs.pop("n"))
  with pytest.raises(ValueError, match=message):
    data.batches(source, **kwargs)
