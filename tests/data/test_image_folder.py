import os
import warnings

import numpy as np
import pytest
from PIL import Image

from diffjax import DiffjaxWarning, data
from diffjax.data import image_folder, pictures


def load(folder, split="train", image_size=4, channels=None):
  return data.load("image_folder", split, folder=folder, image_size=image_size, channels=channels)


def greys(*sources):
  return sorted(int(example["image"][0, 0, 0]) for source in sources for example in source)


def test_loose_pictures_have_no_labels(save):
  for grey in range(40):
    folder = save(f"{grey}.png", grey)
  source = load(folder)
  assert (source.name, source.shape, source.num_classes) == ("image_folder", (4, 4, 3), 0)
  assert source[0].keys() == {"image"} and source[0]["image"].dtype == np.uint8
  assert data.in_memory(load(folder, channels=1))["image"].shape == (len(source), 4, 4, 1)


def test_train_and_test_part_the_folder(save):
  for grey in range(250):
    folder = save(f"{grey}.png", grey)
  train, test = load(folder), load(folder, "test")
  assert greys(train, test) == list(range(250))
  assert 3 <= len(test) <= 25  # 12.5 expected, standard deviation 3.4
  held_out = greys(test)
  for grey in range(200):
    os.remove(folder / f"{grey}.png")
  assert greys(load(folder, "test")) == [grey for grey in held_out if grey >= 200]


@pytest.mark.parametrize("num", range(2, 6))
def test_small_folders_hold_one_out(save, num):
  for grey in range(num):
    folder = save(f"{grey}.png", grey)
  assert len(load(folder, "test")) >= 1 and len(load(folder)) >= 1
  assert greys(load(folder), load(folder, "test")) == list(range(num))


def test_one_picture_trains_and_holds_nothing_out(save):
  folder = save("only.png")
  assert len(load(folder)) == 1
  with pytest.raises(ValueError, match="only one image"):
    load(folder, "test")


def test_sub_folders_are_labels(save):
  for i, name in enumerate(["bee", "ant", "cat/deep", "cat"]):
    folder = save(f"{name}/0.png", 10 * i)
  examples = [*load(folder), *load(folder, "test")]
  assert load(folder).num_classes == 3
  got = {int(e["image"][0, 0, 0]): e["label"] for e in examples}
  assert got == {0: 1, 10: 0, 20: 2, 30: 2}
  assert all(label.dtype == np.int32 for label in got.values())


def test_deep_folders_are_no_labels(save):
  save("2024/01/a.png")
  assert load(save("2025/01/b.png")).num_classes == 0


def test_pictures_beside_sub_folders_turn_labels_off(save):
  save("a/0.png")
  save("b/1.png")
  with pytest.warns(DiffjaxWarning, match=r"^1 images are not in any"):
    source = load(save("2.png"))
  assert source.num_classes == 0


def test_hidden_and_other_files_are_left_out(save):
  save(".git/x.png")
  save("._a.png")
  folder = save("A.PNG", 7)
  save("b.png", 7)
  (folder / "notes.txt").write_text("not a picture")
  assert greys(load(folder), load(folder, "test")) == [7, 7]


def test_links_are_followed_once(save, tmp_path_factory):
  elsewhere = tmp_path_factory.mktemp("elsewhere")
  Image.new("RGB", (6, 6), (9, 9, 9)).save(elsewhere / "linked.png")
  (elsewhere / "loop").symlink_to(elsewhere)
  folder = save("a/0.png", 3)
  (folder / "b").symlink_to(elsewhere)
  assert greys(load(folder), load(folder, "test")) == [3, 9]
  assert load(folder).num_classes == 2


def damage(folder):
  """Five unreadable files, by name and reason."""
  picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
  picture.save(folder / "cut.jpg")
  picture.save(folder / "cut.png")
  for name in ("cut.jpg", "cut.png"):
    (folder / name).write_bytes((folder / name).read_bytes()[:2000])
  (folder / "empty.png").touch()
  (folder / "text.jpg").write_text("these are words")
  Image.new("1", (300, 300)).save(folder / "bomb.png")
  return {
    "cut.jpg": "truncated",
    "cut.png": "",
    "empty.png": "empty file",
    "text.jpg": "not an image",
    "bomb.png": "bomb",
  }


def test_damaged_files_are_named_and_skipped(save, monkeypatch):
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)  # 90 000 is beyond it, but not twice: PIL itself only warns
  for i in range(45):
    folder = save(f"{i}.png", i)
  bad = damage(folder)
  with pytest.warns(DiffjaxWarning, match=r"^5 of 50 image files .* are skipped; repair or remove ") as caught:
    train = load(folder)
  assert len(caught) == 1
  for name, reason in bad.items():
    assert name in str(caught[0].message) and reason in str(caught[0].message)
  with pytest.warns(DiffjaxWarning, match="5 of 50"):
    assert greys(train, load(folder, "test")) == list(range(45))


def test_too_many_damaged_files_stop(save, monkeypatch):
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)
  for i in range(44):
    folder = save(f"{i}.png", i)
  damage(folder)
  with pytest.raises(ValueError, match=r"^5 of 49 image files .* more than the 10% allowed.*empty\.png \(empty file\)"):
    load(folder)


def test_changed_files_are_seen(save):
  save("a.png", 1)
  folder = save("b.png", 2)
  assert greys(load(folder), load(folder, "test")) == [1, 2]
  save("b.png", 33)
  os.utime(folder / "b.png", ns=(1, 1))
  assert greys(load(folder), load(folder, "test")) == [1, 33]


def test_large_folders_are_decoded_on_access(save, monkeypatch):
  for i in range(8):
    folder = save(f"{i % 2}/{i}.png", i)
  kept = [*load(folder), *load(folder, "test")]
  image_folder._decode_all.cache_clear()
  monkeypatch.setattr(image_folder, "KEEP_BYTES", 8 * 4 * 4 * 3 - 1)
  streamed = [*load(folder), *load(folder, "test")]
  image_folder._decode_all.cache_clear()
  for a, b in zip(kept, streamed, strict=True):
    np.testing.assert_array_equal(a["image"], b["image"])
    assert a["label"] == b["label"]


def test_odd_metadata_is_silent(save):
  folder = save("a.png", 5)
  picture = Image.fromarray(np.full((6, 6, 3), 6, np.uint8))
  picture.save(folder / "exif.jpg", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff garbage", quality=100)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    assert greys(load(folder), load(folder, "test")) == [5, 6]


def test_missing_and_empty_folders(tmp_path):
  with pytest.raises(ValueError, match=r"test_image_folder\.py is a file; give a folder"):
    load(__file__)
  with pytest.raises(ValueError, match="does not exist"):
    load(tmp_path / "nowhere")
  with pytest.raises(ValueError, match="holds no images"):
    load(tmp_path)
  with pytest.raises(ValueError, match=r"data\.image_size"):
    load(tmp_path, image_size=None)
  with pytest.raises(ValueError, match=r"data\.folder"):
    load(None)


def test_a_folder_that_cannot_be_listed_is_not_left_out(save, monkeypatch):
  save("a/1.png", 1)
  folder, scandir = save("b/2.png", 2), os.scandir

  def refusing(path):
    if str(path).endswith("b"):
      raise PermissionError(13, "Permission denied", str(path))
    return scandir(path)

  monkeypatch.setattr(os, "scandir", refusing)
  with pytest.raises(ValueError, match=r"b cannot be listed \(Permission denied\); make it readable"):
    load(folder)


def heic(path, brand=b"heic"):
  path.write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(12))


def test_photographs_that_cannot_be_read_are_named_with_what_to_install(save, monkeypatch):
  monkeypatch.setattr(pictures, "_init", Image.init)
  for name in [name for name in ("HEIF", "AVIF") if name in Image.OPEN]:
    monkeypatch.delitem(Image.OPEN, name)
  for i in range(40):
    folder = save(f"{i}.png", i)
  heic(folder / "IMG_1.HEIC")
  heic(folder / "renamed.jpg", b"mif1")
  heic(folder / "IMG_2", b"avif")
  (folder / "raw.NEF").write_bytes(b"MM\0*")
  with pytest.warns(DiffjaxWarning, match="^4 of 44 image files") as caught:
    assert len(load(folder)) + len(load(folder, "test")) == 40
  said = str(caught[0].message)
  for part in (
    r'IMG_1.HEIC (HEIC needs pillow-heif: pip install -e ".[heic]")',
    "renamed.jpg (HEIC",
    "IMG_2 (AVIF needs",
  ):
    assert part in said
  assert "raw.NEF (.NEF is not supported: convert it" in said
  for i in range(100):
    heic(folder / f"{i}.heic")
  with pytest.raises(ValueError, match=r"^104 of 144 image files .* more than the 10% allowed.*\.\[heic\]"):
    load(folder)


def test_photographs_are_read_with_pillow_heif(save):
  pillow_heif = pytest.importorskip("pillow_heif")
  folder = save("a.png", 7)
  pillow_heif.from_pillow(Image.new("RGB", (64, 64), (90, 90, 90))).save(folder / "b.HEIC")
  assert greys(load(folder), load(folder, "test"))[0] == 7
  assert abs(greys(load(folder), load(folder, "test"))[1] - 90) < 4


@pytest.mark.parametrize("name", ["a", "photo.2019", "a.jpg_large"])
def test_a_picture_of_no_known_suffix_is_found_by_its_content(save, name):
  folder = save("a.png", 7)
  (folder / "a.png").rename(folder / name)
  for other in ("notes", "notes.old"):
    (folder / other).write_text("not a picture")
  heic(folder / "film", b"isom")  # MP4, in the same kind of container
  assert greys(load(folder)) == [7]


def test_files_of_known_other_suffixes_are_not_opened(save, monkeypatch):
  folder = save("a.png", 7)
  (folder / "labels.CSV").write_text("a,b")
  monkeypatch.setattr("builtins.open", lambda path, *_: pytest.fail(f"opened {path}"))
  assert image_folder._find(folder) == ["a.png"]


@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("Training", "val"), ("train", "validation")])
def test_folders_that_are_a_split_are_that_split(save, train, test):
  for i in range(6):
    save(f"{train}/{'ab'[i % 2]}/{i}.png", i)
  for i in range(3):
    folder = save(f"{test}/{'bc'[i % 2]}/{i}.png", 100 + i)
  assert greys(load(folder)) == list(range(6)) and greys(load(folder, "test")) == [100, 101, 102]
  assert load(folder).num_classes == load(folder, "test").num_classes == 3
  assert {int(e["image"][0, 0, 0]): int(e["label"]) for e in load(folder, "test")} == {100: 1, 101: 2, 102: 1}


def test_one_picture_in_a_train_folder_alone_holds_nothing_out(save):
  folder = save("train/only.png")
  with pytest.raises(ValueError, match="only one image"):
    load(folder, "test")


def test_of_two_held_out_folders_one_is_left_alone(save):
  for name, grey in (("train/a", 1), ("val/b", 2), ("test/c", 3)):
    folder = save(f"{name}.png", grey)
  with pytest.warns(DiffjaxWarning, match=r"^test/ is held out, and val ignored"):
    assert (greys(load(folder)), greys(load(folder, "test"))) == ([1], [3])
    assert load(folder).num_classes == 0


def test_folders_of_these_names_among_others_are_labels(save):
  for i, name in enumerate(["test", "train", "exam"]):
    folder = save(f"{name}/0.png", i)
  assert load(folder).num_classes == 3
  assert load(save("../alone/train/0.png", 1).parent / "alone").num_classes == 0
