import importlib.util
import io
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from diffjax import data
from diffjax.data import tfds_source


def png(i):
  """An image of a different size for each i, as an encoded file, so that TFDS can write it without TensorFlow."""
  file = io.BytesIO()
  Image.fromarray(np.full((6 + i % 3, 9, 3), i, np.uint8)).save(file, "PNG")
  file.seek(0)
  return file


def example(i):
  return {"image": png(i), "label": i % 4, "id": str(i), "captions": [{"text": f"number {i}"}, {"text": "another"}]}


class MadeUpPictures(tfds.core.GeneratorBasedBuilder):
  """Forty pictures and no test split."""

  VERSION = tfds.core.Version("1.0.0")
  code_path = None

  def _info(self):
    features = {
      "image": tfds.features.Image(shape=(None, None, 3)),
      "label": tfds.features.ClassLabel(num_classes=4),
      "id": tfds.features.Text(),
      "captions": tfds.features.Sequence({"text": tfds.features.Text()}),
    }
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

  def _split_generators(self, dl_manager):
    return {"train": ((i, example(i)) for i in range(40))}

  def _generate_examples(self):
    raise NotImplementedError


class MadeUpWords(tfds.core.GeneratorBasedBuilder):
  """No pictures."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"text": tfds.features.Text()}))

  def _split_generators(self, dl_manager):
    raise OSError("no network")

  def _generate_examples(self):
    raise NotImplementedError


class MadeUpDownload(MadeUpWords):
  """Needs a network, which is missing."""

  VERSION = tfds.core.Version("1.0.0")
  code_path = None

  def _info(self):
    feature = tfds.features.Tensor(shape=(4, 4, 1), dtype=np.uint8)
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"image": feature}))


@pytest.fixture(scope="module")
def pictures_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tfds")
  MadeUpPictures(data_dir=folder).download_and_prepare(file_format="array_record")
  return folder


def load(folder, split="train", **kwargs):
  return data.load("made_up_pictures", split, data_dir=folder, **kwargs)


def test_prepared_sets_are_read_without_tensorflow(pictures_dir, capfd):
  train, test = load(pictures_dir, image_size=5), load(pictures_dir, "test", image_size=5)
  assert (train.shape, train.num_classes, len(train), len(test)) == ((5, 5, 3), 4, 38, 2)
  examples = [*train, *test]
  assert sorted(int(e["image"][0, 0, 0]) for e in examples) == list(range(40))
  for example in examples:
    assert example.keys() == {"image", "label"}
    assert example["image"].shape == (5, 5, 3) and example["image"].dtype == np.uint8
    assert np.ptp(example["image"]) == 0 and example["image"][0, 0, 0] % 4 == example["label"]
    assert example["label"].dtype == np.int32
  assert capfd.readouterr() == ("", "")


def test_batches_of_a_prepared_set(pictures_dir):
  batch = next(data.batches(load(pictures_dir, image_size=5, channels=1), 16, 0))
  assert batch["image"].shape == (16, 5, 5, 1)
  np.testing.assert_array_equal(batch["image"][:, 0, 0, 0] % 4, batch["label"])


def test_pictures_of_many_sizes_need_a_size(pictures_dir):
  with pytest.raises(ValueError, match="differ in size"):
    load(pictures_dir)


@pytest.mark.parametrize("name, nearest", [("mnsit", "'mnist'"), ("cifar-10", "'cifar10'"), ("digit", "'digits'")])
def test_unknown_names_get_the_nearest(tmp_path, name, nearest):
  with pytest.raises(ValueError, match=rf"there is no data set '{name}' \(did you mean {nearest}\?\); choose"):
    data.load(name, "train", data_dir=tmp_path)


@pytest.mark.parametrize("name", ["huggingface:mnist", "kaggle:a/b", "somebody:pictures/config:1.0.0"])
def test_code_from_elsewhere_is_never_loaded(tmp_path, name, monkeypatch):
  monkeypatch.setattr(tfds, "builder", lambda *args, **kwargs: pytest.fail("opened"))
  with pytest.raises(ValueError, match=f"data set '{name}' would load external code"):
    data.load(name, "train", data_dir=tmp_path)


def test_a_set_that_needs_tensorflow_says_so(tmp_path, monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ImportError, match=r"'mnist' is not prepared.*pip install -e \"\.\[tensorflow\]\""):
    data.load("mnist", "train", data_dir=tmp_path)
  assert not list(tmp_path.iterdir())


def test_a_set_that_cannot_be_downloaded_says_so(tmp_path):
  with pytest.raises(OSError, match=r"'made_up_download' could not be downloaded .*\(no network\)"):
    data.load("made_up_download", "train", data_dir=tmp_path)


def test_a_set_without_pictures(tmp_path):
  with pytest.raises(ValueError, match=r"no 8-bit images under 'image' \(it holds text\)"):
    data.load("made_up_words", "train", data_dir=tmp_path)


def test_a_set_in_another_format(pictures_dir, tmp_path):
  for file in pictures_dir.rglob("*.*"):
    if file.is_file():
      copy = tmp_path / file.relative_to(pictures_dir)
      copy.parent.mkdir(parents=True, exist_ok=True)
      copy.write_bytes(file.read_bytes().replace(b"array_record", b"tfrecord"))
  with pytest.raises(ValueError, match="as tfrecord, which has no random access"):
    load(tmp_path, image_size=5)


@pytest.mark.parametrize("how", ["missing", "cut"])
def test_a_damaged_set(pictures_dir, tmp_path, how):
  (folder,) = (pictures_dir / "made_up_pictures").iterdir()
  copy = tmp_path / "made_up_pictures" / folder.name
  copy.mkdir(parents=True)
  for file in folder.iterdir():
    content = file.read_bytes()
    if file.suffix == ".json":
      (copy / file.name).write_bytes(content)
    elif how == "cut":
      (copy / file.name).write_bytes(content[: len(content) // 2])
  with pytest.raises(OSError, match="cannot be read"):
    load(tmp_path, image_size=5)


@pytest.mark.parametrize(
  "kwargs, message",
  [
    ({"split": "validation"}, "split is 'validation'"),
    ({"image_size": 0}, "image_size is 0"),
    ({"channels": 4}, "channels is 4"),
    ({"folder": "pictures"}, "folder is only for"),
  ],
)
def test_bad_arguments(tmp_path, kwargs, message):
  with pytest.raises(ValueError, match=message):
    data.load(**({"name": "digits", "split": "train", "data_dir": tmp_path} | kwargs))


def test_in_memory_of_an_empty_source():
  with pytest.raises(ValueError, match="'none' is empty"):
    data.in_memory(data.Source("none", (4, 4, 1), 0, [], dict))


def test_importing_data_is_light():
  code = (
    "import sys; sys.modules['jax'] = None\n"
    "import importlib, types; package = types.ModuleType('diffjax'); package.__path__ = [sys.argv[1]]\n"
    "sys.modules['diffjax'] = package\n"
    "importlib.import_module('diffjax.data')\n"
    "print({'tensorflow_datasets', 'grain', 'sklearn', 'PIL'} & set(sys.modules))"
  )
  folder = importlib.util.find_spec("diffjax").submodule_search_locations[0]
  run = subprocess.run([sys.executable, "-W", "default", "-c", code, folder], capture_output=True, text=True)
  assert (run.stdout, run.stderr) == ("set()\n", "")


@pytest.mark.parametrize(
  ("splits", "label", "labelled", "train", "test"),
  [
    (("train", "test", "validation"), 3, True, "train", "test"),
    (("train", "test", "validation"), -1, True, "train", "validation"),
    (("train", "test", "validation"), -1, False, "train", "test"),
    (("train", "test"), -1, True, "train[:95%]", "train[95%:]"),
  ],
)
def test_a_test_split_without_labels_is_not_held_out(monkeypatch, splits, label, labelled, train, test):
  builder = types.SimpleNamespace(info=types.SimpleNamespace(splits=splits))
  labels = {"test": label, "validation": 0}
  monkeypatch.setattr(tfds_source, "_open_records", lambda builder, name, split: [{"label": labels[split]}])
  for split, stored in (("train", train), ("test", test)):
    assert tfds_source._stored_split(builder, "set", split, labelled) == stored


def test_arrays_that_are_not_square_are_cut():
  record = {"image": np.arange(96, dtype=np.uint8).reshape(8, 12, 1)}
  decoded = tfds_source._decode(record, "set", 8, 1, False)["image"]
  np.testing.assert_array_equal(decoded, record["image"][:, 2:10])


def test_the_first_of_several_captions(pictures_dir):
  source = load(pictures_dir, image_size=5)
  for i in (0, 7):
    assert source.text(source.records[i]) == f"number {source[i]['image'][0, 0, 0]}"
