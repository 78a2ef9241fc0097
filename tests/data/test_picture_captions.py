"""Captions of one's own pictures: metadata or text files, and every mistake in them named."""

import json

import numpy as np
import pytest
from PIL import Image

from diffjax import data
from diffjax.data.picture_captions import read_captions

TEXTS = {f"{i}.png": f"picture number {i}" for i in range(5)}


@pytest.fixture
def folder(tmp_path):
  for i, name in enumerate(TEXTS):
    Image.fromarray(np.full((6, 6, 3), 40 * i, np.uint8)).save(tmp_path / name)
  return tmp_path


def json_lines(rows):
  return "".join(json.dumps(row) + "\n" for row in rows)


def rows(texts=None):
  return [{"file_name": name, "text": text} for name, text in (TEXTS if texts is None else texts).items()]


def write_jsonl(folder):
  (folder / "metadata.jsonl").write_text(json_lines(rows()) + "\n")


def write_csv(folder):
  lines = ["text,file_name,further"] + [f'"{text}",{name},7' for name, text in reversed(TEXTS.items())]
  (folder / "metadata.csv").write_text("\r\n".join(lines), encoding="utf-8-sig")


def write_texts(folder):
  for name, text in TEXTS.items():
    (folder / name).with_suffix(".txt").write_text(f"  {text}\n")


@pytest.mark.parametrize("write", [write_jsonl, write_csv, write_texts])
def test_three_ways_to_write_captions(folder, write):
  write(folder)
  assert read_captions(folder, list(TEXTS)) == list(TEXTS.values())
  for split in ("train", "test"):
    source = data.load("image_folder", split, folder=folder, image_size=6, captions=True)
    for i, record in enumerate(source.records):
      assert source.text(record) == f"picture number {source[i]['image'][0, 0, 0] // 40}"


def test_metadata_in_the_folders_of_a_split(folder):
  for i, head in enumerate(("train", "test")):
    (folder / head).mkdir()
    for name in list(TEXTS)[2 * i : 2 * i + 2]:
      (folder / name).rename(folder / head / name)
    (folder / head / "metadata.jsonl").write_text(json_lines(rows(dict(list(TEXTS.items())[2 * i : 2 * i + 2]))))
  (folder / "4.png").unlink()
  source = data.load("image_folder", "test", folder=folder, image_size=6, captions=True)
  assert [source.text(record) for record in source.records] == ["picture number 2", "picture number 3"]


def test_tokens_of_the_captions(folder):
  write_jsonl(folder)
  tokenizer = data.train_tokenizer(TEXTS.values(), 560, 8)
  source = data.load("image_folder", "train", folder=folder, image_size=6, captions=True)
  examples = data.in_memory(data.with_tokens(source, tokenizer))
  np.testing.assert_array_equal(examples["tokens"], tokenizer([source.text(record) for record in source.records]))
  assert examples["tokens"].dtype == np.int32


def test_without_captions_nothing_is_read(folder):
  assert read_captions(folder, list(TEXTS)) is None
  (folder / "metadata.jsonl").write_text("not JSON")
  source = data.load("image_folder", "train", folder=folder, image_size=6)
  assert source.text is None
  with pytest.raises(ValueError, match=r"'image_folder' has no captions; for labelled images set captions.names"):
    data.with_tokens(source, lambda texts: texts)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("{", r"metadata.jsonl is not valid JSON in line 1 .*; correct it"),
    ("[]", "holds no object in line 1; write"),
    ('{"file_name": "0.png", "caption": "a"}', "has no file_name and text in row 1, but caption, file_name; give"),
    ('{"file_name": "0.png", "text": 3}', "has no file_name and text in row 1"),
    (
      json_lines(rows(dict(list(TEXTS.items())[1:]))),
      r"1 of 5 images have no caption in .*metadata.jsonl: 0.png; write",
    ),
    (json_lines(rows(TEXTS | {"2.png": "  "})), "1 of 5 images have no caption .*: 2.png"),
  ],
)
def test_mistakes(folder, text, message):
  (folder / "metadata.jsonl").write_text(text)
  with pytest.raises(ValueError, match=message):
    data.load("image_folder", "train", folder=folder, image_size=6, captions=True)


def test_a_missing_text_file_and_other_encodings(folder):
  write_texts(folder)
  (folder / "3.txt").unlink()
  with pytest.raises(ValueError, match=r"1 of 5 images have no caption in a .txt file beside them: 3.png; write"):
    read_captions(folder, list(TEXTS))
  (folder / "3.txt").write_bytes("größer".encode("utf-16"))
  with pytest.raises(ValueError, match=r"3.txt is not UTF-8 text; save it as that"):
    read_captions(folder, list(TEXTS))
