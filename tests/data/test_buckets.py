"""Aspect-ratio buckets: sizes, the pictures in them, and batches of one size each."""

import numpy as np
import pytest
from PIL import Image

from diffjax.data import batches, bucket_sizes, load
from diffjax.data.buckets import nearest_bucket


@pytest.mark.parametrize(("size", "multiple"), [(512, 64), (1024, 64), (768, 32), (32, 4)])
def test_sizes_have_nearly_the_area_and_no_extreme_proportions(size, multiple):
  sizes = bucket_sizes(size, multiple)
  assert (size, size) in sizes and len(set(sizes)) == len(sizes) > 2
  for height, width in sizes:
    assert height % multiple == width % multiple == 0
    assert size * size - multiple * max(height, width) < height * width <= size * size
    assert max(height, width) <= 2 * min(height, width)
    assert (width, height) in sizes


def test_a_picture_takes_the_nearest_proportions():
  sizes = ((640, 384), (512, 512), (384, 640))
  assert [nearest_bucket(sizes, *shape) for shape in ((900, 300), (100, 101), (300, 900), (130, 100))] == [0, 1, 2, 0]


def test_another_multiple_is_refused():
  with pytest.raises(ValueError, match="size is 500, but must be a multiple of 64"):
    bucket_sizes(500)


@pytest.fixture
def folder(tmp_path):
  """Pictures of three proportions, whose colour tells their number."""
  for i, (width, height) in enumerate([(40, 20)] * 5 + [(20, 40)] * 3 + [(30, 30)] * 12):
    Image.new("RGB", (width, height), (10 * i, 0, 0)).save(tmp_path / f"{i:02d}.png")
  return tmp_path


def opened(folder, split="train"):
  return load("image_folder", split, folder=folder, image_size=8, buckets=((12, 4), (8, 8), (4, 12)))


def test_pictures_of_a_folder_keep_their_proportions(folder):
  source = opened(folder)
  shapes = [source[i]["image"].shape for i in range(len(source))]
  assert set(shapes) == {(12, 4, 3), (8, 8, 3), (4, 12, 3)}
  assert [((12, 4, 3), (8, 8, 3), (4, 12, 3))[group] for group in source.groups] == shapes
  assert len(source) + len(opened(folder, "test")) == 20


def test_batches_are_of_one_size_and_show_every_picture_equally_often(folder):
  source = opened(folder)
  stream = batches(source, 2, seed=3)
  orders = []
  for _ in range(3):
    taken = [next(stream) for _ in range(len(source))]  # two epochs, so that no part of a batch is left
    seen = [int(image[0, 0, 0]) // 10 for batch in taken for image in batch["image"]]
    numbers, counts = np.unique(seen, return_counts=True)
    assert len(numbers) == len(source) and set(counts) == {2}
    assert all(batch["image"].shape[0] == 2 for batch in taken)
    orders.append(seen)
  assert orders[0] != orders[1]
  state = stream.get_state()
  expected = [next(stream) for _ in range(3)]
  again = batches(source, 2, seed=3)
  again.set_state(state)
  for batch in expected:
    np.testing.assert_array_equal(next(again)["image"], batch["image"])


def test_processes_share_each_batch(folder):
  source = opened(folder)
  whole = batches(source, 4, seed=0)
  parts = [batches(source, 4, seed=0, process_index=i, process_count=2) for i in range(2)]
  for _ in range(5):
    batch, own = next(whole), [next(part) for part in parts]
    np.testing.assert_array_equal(
      np.stack([o["image"] for o in own], axis=1).reshape(batch["image"].shape), batch["image"]
    )


def test_other_data_sets_have_one_size():
  with pytest.raises(ValueError, match="buckets of several sizes are for data set 'image_folder', not 'digits'"):
    load("digits", "train", buckets=((8, 8),))
