"""What is accepted from untrusted folders: names, links, JSON, and how their text is shown."""

import os

import pytest
from mutations import Bounded

from diffjax.system import files


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "outside.json").write_text("{}")
  (tmp_path / "folder").mkdir()
  (tmp_path / "folder" / "inside.json").write_text("{}")
  return tmp_path / "folder"


NAMES = [
  "../outside.json",
  "/etc/passwd",
  "..\\outside.json",
  "C:x.json",
  "in\0side.json",
  "",
  ".",
  "..",
  "a/b",
  "./inside.json",
]
NAMES += ["x" * 256, "x" * 10**6, None, 3, ["inside.json"], b"inside.json"]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:20])
def test_names_that_are_not_plain(name, folder):
  with pytest.raises(ValueError, match="use a plain file name inside the folder") as error:
    files.file_in(folder, name)
  assert str(error.value).isprintable() and len(str(error.value)) < 400


LINKS = {"to a file": "../outside.json", "to a file, all the way": "{}/outside.json", "to the folder above": ".."}
LINKS |= {"to a device": "/dev/zero", "to a process": "/proc/self/environ"}


@pytest.mark.parametrize("kind", LINKS)
def test_links_out_of_the_folder(kind, folder):
  (folder / "link.json").symlink_to(LINKS[kind].format(folder.parent))
  with pytest.raises(ValueError, match="outside the folder; put the file itself there"):
    files.file_in(folder, "link.json")
  (folder / "second.json").symlink_to("link.json")
  with pytest.raises(ValueError, match="outside the folder"):
    files.file_in(folder, "second.json")


def test_links_that_stay_or_lead_nowhere(folder):
  (folder / "link.json").symlink_to("inside.json")
  assert files.read_json(folder, "link.json") == {}
  (folder / "circle.json").symlink_to("circle.json")
  with pytest.raises(ValueError, match="can be found"):
    files.file_in(folder, "circle.json")
  (folder / "nowhere.json").symlink_to("missing.json")
  for name in ("nowhere.json", "missing.json"):
    with pytest.raises(FileNotFoundError, match=name):
      files.file_in(folder, name)


def test_links_of_a_cache(tmp_path):
  """Hugging Face's: models--x/snapshots/<commit>/name -> ../../blobs/<hash>, and nowhere else."""
  (tmp_path / "blobs").mkdir()
  (tmp_path / "blobs" / "ab").write_text('{"a": 1}')
  (tmp_path / "refs").mkdir()
  (tmp_path / "refs" / "ab").write_text('{"a": 2}')
  for depth in ("snapshots/commit", "snapshots/commit/text_encoder"):
    snapshot = tmp_path / depth
    snapshot.mkdir(parents=True, exist_ok=True)
    up = "../" * (depth.count("/") + 1)
    (snapshot / "config.json").symlink_to(f"{up}blobs/ab")
    assert files.read_json(snapshot, "config.json") == {"a": 1}
    for target in ("refs/ab", "blobs/../refs/ab"):
      (snapshot / "config.json").unlink()
      (snapshot / "config.json").symlink_to(up + target)
      with pytest.raises(ValueError, match="outside the folder"):
        files.read_json(snapshot, "config.json")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_regular_file(make, folder):
  make(folder / "odd.json")
  with Bounded(), pytest.raises(ValueError, match="not a regular file"):
    files.read_json(folder, "odd.json")


SOUND = {
  '{"a": [1, 2.5, -3e4, "b", true, null]}': {"a": [1, 2.5, -3e4, "b", True, None]},
  "[]": [],
  "3": 3,
  "[" * 32 + "]" * 32: [],
}


@pytest.mark.parametrize("text", SOUND, ids=lambda text: text[:20])
def test_sound_json(text):
  value = files.parse_json(text)
  assert value == SOUND[text] or text.startswith("[[")
  assert files.parse_json(text.encode()) == value


UNSOUND = {
  "": "Expecting value",
  "{'a': 1}": "property name",
  "[1,]": "Expecting value|Illegal trailing comma",  # until Python 3.12, and since
  "{} {}": "Extra data",
  '{"a": 1, "b": 2, "a": 1}': "the key a is duplicated",
  '[{"b": {"\\u0061": 1, "a": 2}}]': "the key a is duplicated",
  '{"\\n\\u001b": 1, "\\n\\u001b": 1}': "is duplicated",
  "NaN": "NaN is not a finite number",
  "[-Infinity]": "-Infinity is not a finite number",
  "1e999": "1e999 is not a finite number",
  "-1" + "0" * 500 + ".0": "not a finite number",
  "1" + "0" * 5000: "4300 digits",
  "[" * 33 + "]" * 33: "more than 32 levels of nesting",
  '{"a":' * 33 + "1" + "}" * 33: "more than 32 levels",
  "[" * 100_000: "more than 32 levels",
  '{"a":' * 100_000 + "1" + "}" * 100_000: "more than 32 levels",
}


@pytest.mark.parametrize("text", UNSOUND, ids=lambda text: ascii(text[:20]))
def test_unsound_json(text):
  with Bounded(), pytest.raises(ValueError, match=UNSOUND[text]) as error:
    files.parse_json(text)
  assert str(error.value).isprintable() and len(str(error.value)) < 300


@pytest.mark.parametrize("text", [b"\xff", b'{"a": "\xed\xa0\x80"}', '{"a": 1}'.encode("utf-16")])
def test_json_is_utf_8(text):
  with pytest.raises(ValueError):
    files.parse_json(text)


def test_many_keys_of_which_one_is_twice_are_looked_through_once():
  keys = ",".join(f'"{i}":0' for i in range(80_000))
  with Bounded(), pytest.raises(ValueError, match="the key 79999 is duplicated"):
    files.parse_json(f'{{{keys},"79999":0}}')


WORDS = [
  "\n\x1b[2J",
  "\u202e",
  "x" * 10**6,
  "\ud800",
  [["x" * 10**5] * 1000],
  {"\n": {"\x1b": "\0"}},
  10**4000,
  None,
  b"\0",
]


@pytest.mark.parametrize("value", WORDS, ids=range(len(WORDS)))
def test_words_of_others_are_repeated_in_one_short_line(value):
  assert files.shown(value).isprintable() and len(files.shown(value)) <= 83


def test_plain_names_are_repeated_as_they_are():
  assert files.shown("text_model.é.weight") == "text_model.é.weight"
