"""Safetensors files, sound, malformed, and damaged at random, against a reader by the format's description."""

import json
import math
import re
import struct

import jax
import ml_dtypes
import numpy as np
import pytest
from mutations import Bounded, damage, endure
from safetensors.numpy import save

from diffjax.pretrained import key_maps
from diffjax.pretrained.tensors import open_tensors

NAME = "model.safetensors"
DTYPES = {
  "F64": np.float64,
  "F32": np.float32,
  "F16": np.float16,
  "BF16": ml_dtypes.bfloat16,
  "I64": np.int64,
  "I32": np.int32,
  "U8": np.uint8,
  "BOOL": np.bool_,
}


def read(folder):
  """{name: (dtype, array)} of the file in the folder."""
  with open_tensors(folder, NAME) as stored:
    return {name: (tensor.dtype, np.array(tensor.read())) for name, tensor in stored.items()}


def entry(start, stop, shape=(1,), dtype="F32"):
  return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def file(header, data=b"\0" * 8, length=None):
  header = header if isinstance(header, bytes) else json.dumps(header).encode()
  return struct.pack("<Q", len(header) if length is None else length) + header + data


def twice(one, two):
  return file(b'{"a":%s,"a":%s}' % (json.dumps(one).encode(), json.dumps(two).encode()))


HOSTILE = {
  "empty": b"",
  "not a length": b"\1\2\3",
  "a length alone": struct.pack("<Q", 2),
  "header longer than the file": file({"a": entry(0, 8, (2,))}, length=10**6),
  "header over the limit": file(b"{}" + b" " * 2**20),
  "header length over the limit": file({"a": entry(0, 8, (2,))}, length=10**8 + 1),
  "header of 2^63 bytes": file({"a": entry(0, 8, (2,))}, length=2**63),
  "header of 2^64 - 1 bytes": file({"a": entry(0, 8, (2,))}, length=2**64 - 1),
  "header of no bytes": file(b""),
  "header shorter than its JSON": file({"a": entry(0, 8, (2,))}, length=20),
  "not UTF-8": file(b'{"\xff": 1}'),
  "UTF-16": file(json.dumps({"a": entry(0, 8, (2,))}).encode("utf-16")),
  "half a surrogate": file(b'{"\\ud800": %s}' % json.dumps(entry(0, 8, (2,))).encode()),
  "not JSON": file(b"{'a': 1}"),
  "a trailing comma": file(b'{"a":%s,}' % json.dumps(entry(0, 8, (2,))).encode()),
  "two objects": file(b"{}{}", b""),
  "a list": file([1, 2]),
  "a number": file(b"1"),
  "null": file(b"null"),
  "NaN": file(b"NaN"),
  "deep": file(b'{"a":' * 100_000),
  "deep and whole": file(b'{"__metadata__":' + b"[" * 1000 + b"]" * 1000 + b"}", b""),
  "a name twice": twice(entry(0, 4), entry(4, 8)),
  "a name twice in one place": twice(entry(0, 8, (2,)), entry(0, 8, (1, 2))),
  "a name twice, escaped": file(b'{"a":%s,"\\u0061":%s}' % ((json.dumps(entry(0, 8, (2,))).encode(),) * 2)),
  "shape twice": file(b'{"a":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}}'),
  "metadata twice": file(b'{"__metadata__":{},"__metadata__":{}}', b""),
  "metadata of numbers": file({"__metadata__": {"a": 1}}, b""),
  "metadata that is a list": file({"__metadata__": ["a"]}, b""),
  "an entry that is a number": file({"a": 3}),
  "no dtype": file({"a": {"shape": [2], "data_offsets": [0, 8]}}),
  "no shape": file({"a": {"dtype": "F32", "data_offsets": [0, 8]}}),
  "no offsets": file({"a": {"dtype": "F32", "shape": [2]}}),
  "unknown dtype": file({"a": entry(0, 8, (2,), "Q4_0")}),
  "dtype in small letters": file({"a": entry(0, 8, (2,), "f32")}),
  "dtype that is a number": file({"a": entry(0, 8, (2,), 32)}),
  "half a byte": file({"a": entry(0, 8, (15,), "F4")}),
  "overlap": file({"a": entry(0, 8, (2,)), "b": entry(4, 8)}),
  "one place twice": file({"a": entry(0, 8, (2,)), "b": entry(0, 8, (2,))}),
  "gap": file({"a": entry(0, 4), "b": entry(8, 12)}, b"\0" * 12),
  "gap before": file({"a": entry(4, 8)}),
  "backwards": file({"a": entry(8, 0, (2,))}),
  "beyond the file": file({"a": entry(0, 80, (20,))}),
  "far beyond the file": file({"a": entry(0, 2**62, (2**60,))}),
  "surplus bytes": file({"a": entry(0, 4)}),
  "no tensors but bytes": file({}),
  "one offset": file({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0]}}),
  "three offsets": file({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4, 8]}}),
  "offsets of 2^64": file({"a": entry(2**64, 2**64 + 8, (2,))}),
  "negative offsets": file({"a": entry(-8, 0, (2,))}),
  "broken offsets": file({"a": entry(0.0, 8.5, (2,))}),
  "offsets in words": file({"a": entry("0", "8", (2,))}),
  "shape against bytes": file({"a": entry(0, 8, (3,))}),
  "shape that overflows": file({"a": entry(0, 8, (2**62, 2**62))}),
  "shape that overflows to the right size": file({"a": entry(0, 8, (2**63 + 1, 2))}),
  "bytes that overflow": file({"a": entry(0, 8, (2**61 + 1, 2))}),
  "shape of 2^64": file({"a": entry(0, 8, (2**64 + 2,))}),
  "shape of 10^400": file({"a": entry(0, 8, (10**400,))}),
  "shape of 10^5000": file(b'{"a":{"dtype":"F32","shape":[1' + b"0" * 5000 + b'],"data_offsets":[0,8]}}'),
  "negative shape": file({"a": entry(0, 8, (-2,))}),
  "two negative shapes": file({"a": entry(0, 8, (-2, -1))}),
  "broken shape": file({"a": entry(0, 8, (2.0,))}),
  "shape of a word": file({"a": entry(0, 8, "2")}),
  "shape of yes": file({"a": entry(0, 8, (True, 2))}),
  "no bytes for a number": file({"a": entry(0, 0, ())}, b""),
  "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x93.",
  "zip": b"PK\x03\x04" + b"\0" * 60,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_malformed_files(kind, tmp_path):
  (tmp_path / NAME).write_bytes(HOSTILE[kind])
  with (
    Bounded(),
    pytest.raises(ValueError, match=r"is not a valid safetensors file \(.+\); download it again\.$") as error,
  ):
    read(tmp_path)
  assert str(tmp_path / NAME) in str(error.value) and str(error.value).isprintable() and len(str(error.value)) < 500


@pytest.mark.parametrize("unit", [b'"a":0,', b'"a":[[]],', b'"a":[[],[],[],[],[],[],[]],', b'"a":{},'])
def test_the_largest_header_stays_small_in_memory(unit, tmp_path):
  count = (2**20 - 10) // (len(unit) + 6)
  body = b"".join(unit.replace(b"a", b"%06d" % i, 1) for i in range(count))
  (tmp_path / NAME).write_bytes(file(b"{" + body.rstrip(b",") + b"}"))
  with Bounded(), pytest.raises(ValueError, match="not a valid safetensors file"):
    read(tmp_path)


def test_a_header_of_gigabytes_is_not_read(tmp_path):
  with (tmp_path / NAME).open("wb") as large:
    large.write(struct.pack("<Q", 10**8 - 8))
    large.truncate(2**34)  # a hole, not written
  with Bounded(), pytest.raises(ValueError, match=r"its header has 99999992 bytes, expected at most 1048576"):
    read(tmp_path)


SOUND = {
  "no tensors": (file({}, b""), {}),
  "spaces behind the header": (file(b"{}    ", b""), {}),
  "null for metadata": (file({"__metadata__": None}, b""), {}),
  "metadata alone": (file({"__metadata__": {"format": "pt"}}, b""), {}),
  "large metadata": (file({"__metadata__": {"notes": "x" * 2**19}}, b""), {}),
  "no numbers": (file({"a": entry(0, 0, (0,)), "b": entry(0, 0, (3, 0, 2))}, b""), {"a": (0,), "b": (3, 0, 2)}),
  "no numbers between others": (
    file({"a": entry(0, 4), "b": entry(4, 4, (0, 5)), "c": entry(4, 8)}),
    {"a": (1,), "b": (0, 5), "c": (1,)},
  ),
  "one number": (file({"a": entry(0, 4, ())}, b"\0" * 4), {"a": ()}),
  "many dimensions": (file({"a": entry(0, 8, (1,) * 30 + (2,))}), {"a": (1,) * 30 + (2,)}),
  "not in order": (file({"b": entry(4, 8), "a": entry(0, 4)}), {"a": (1,), "b": (1,)}),
  "a name of all kinds": (file({"\n\0../\u202e": entry(0, 8, (2,))}), {"\n\0../\u202e": (2,)}),
}


@pytest.mark.parametrize("kind", SOUND)
def test_sound_files(kind, tmp_path):
  data, shapes = SOUND[kind]
  (tmp_path / NAME).write_bytes(data)
  assert {name: array.shape for name, (_, array) in read(tmp_path).items()} == shapes


@pytest.mark.parametrize("shape", [(2**62, 0), (0, 2**62), (2**32, 2**31, 0), (1,) * 70 + (2,)])
def test_shapes_that_no_array_can_have_are_refused_before_reading(shape, tmp_path):
  stop = 4 * math.prod(shape)
  (tmp_path / NAME).write_bytes(file({"a": entry(0, stop, shape)}, b"\0" * stop))
  with pytest.raises(ValueError, match=r"wrongly shaped: a \(.+\), expected \(2,\)"):
    with open_tensors(tmp_path, NAME) as stored:
      key_maps._check({"a": jax.ShapeDtypeStruct((2,), np.float32)}, stored)


def test_names_of_tensors_are_told_in_one_short_line(tmp_path):
  names = ["\n\x1b[2J", "\u202e", "x" * 10**5, *map(str, range(10**4))]
  (tmp_path / NAME).write_bytes(
    file({name: entry(4 * i, 4 * i + 4) for i, name in enumerate(names)}, b"\0" * 4 * len(names))
  )
  with pytest.raises(ValueError, match="surplus") as error:
    with open_tensors(tmp_path, NAME) as stored:
      key_maps._check({}, stored)
  assert str(error.value).isprintable() and len(str(error.value)) < 1000


# The oracle: the format as it is described, written down once more


def unique(pairs):
  if len(dict(pairs)) < len(pairs):
    raise ValueError("twice")
  return dict(pairs)


def described(data):
  """{name: (dtype, array)} of a file's bytes, or ValueError (or KeyError, TypeError) where it is not sound."""
  (length,) = struct.unpack("<Q", data[:8])
  header, buffer = json.loads(data[8 : 8 + length].decode(), object_pairs_hook=unique), data[8 + length :]
  metadata = header.pop("__metadata__", None)
  if length > len(data) - 8 or not all(isinstance(value, str) for value in (metadata or {}).values()):
    raise ValueError
  tensors, end = {}, 0
  for name, what in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
    (start, stop), shape, dtype = what["data_offsets"], what["shape"], np.dtype(DTYPES[what["dtype"]])
    if not all(type(n) is int and n >= 0 for n in (start, stop, *shape)):
      raise ValueError
    if start != end or stop - start != math.prod(shape) * dtype.itemsize or stop > len(buffer):
      raise ValueError
    tensors[name], end = (what["dtype"], np.frombuffer(buffer[start:stop], dtype).reshape(shape)), stop
  if end != len(buffer):
    raise ValueError
  return tensors


RNG = np.random.default_rng(0)
TENSORS = {
  "layer.weight": RNG.normal(size=(2, 3)).astype(np.float32),
  "layer.bias": RNG.normal(size=2).astype(np.float16),
  "norm": RNG.normal(size=(1, 2)).astype(ml_dtypes.bfloat16),
  "none": np.zeros((0, 3), np.float32),
  "scale": np.array(0.5),
}
WHOLE = save(TENSORS, metadata={"format": "pt"})
WANTED = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in TENSORS.items()}
(HEADER_LENGTH,) = struct.unpack("<Q", WHOLE[:8])
HEADER, BUFFER = WHOLE[8 : 8 + HEADER_LENGTH], WHOLE[8 + HEADER_LENGTH :]
ODD = [
  0,
  1,
  -1,
  2,
  3,
  6,
  24,
  2**31,
  2**32,
  2**53,
  2**63,
  2**64 - 1,
  2**64,
  1.5,
  1e300,
  "0",
  "",
  None,
  True,
  [],
  {},
  [[]],
]
NUMBER = re.compile(rb"\d+")


def edited(rng, header):
  """JSON of a header with one to three changes within its meaning."""
  tree = json.loads(header)
  for _ in range(rng.choice([1, 1, 2, 3])):
    name = rng.choice(list(tree) or ["a"])
    what = tree.get(name)
    if not isinstance(what, dict) or rng.random() < 0.15:
      tree[rng.choice([name, "new", "", "\n"])] = rng.choice([*ODD, dict(what) if isinstance(what, dict) else {}])
      continue
    match rng.choice(["dtype", "shape", "offsets", "swap", "remove", "rename", "key"]):
      case "dtype":
        what["dtype"] = rng.choice([*DTYPES, "F8_E4M3", "F4", "C64", "U16", "f32", "", *ODD])
      case "shape" if isinstance(what.get("shape"), list):
        at = rng.randrange(len(what["shape"]) + 1)
        what["shape"][at : at + rng.randrange(2)] = rng.sample(ODD, rng.randrange(3))
      case "offsets" if isinstance(what.get("data_offsets"), list):
        at, near = rng.randrange(3), [n + rng.randrange(-4, 5) for n in what["data_offsets"] if isinstance(n, int)]
        what["data_offsets"][at : at + 1] = [rng.choice(ODD + near)]
      case "swap":
        other = rng.choice(list(tree))
        tree[name], tree[other] = tree[other], tree[name]
      case "remove":
        del tree[name]
      case "rename":
        tree[name + rng.choice(["", "x", "\0", "é"])] = tree.pop(name)
      case "key":
        what[rng.choice(["dtype", "shape", "data_offsets", "more"])] = rng.choice(ODD)
  return json.dumps(tree).encode()


def mutated(rng):
  """The small file, damaged anywhere, in its length, in its header's text, or in what its header says."""
  kind = rng.choice(["bytes", "length", "text", "number", "twice", "meaning", "meaning"])
  if kind == "bytes":
    return damage(rng, WHOLE)
  if kind == "length":
    near = HEADER_LENGTH + rng.randrange(-9, 10)
    return file(HEADER, BUFFER, rng.choice([near, rng.randrange(len(WHOLE)), rng.getrandbits(rng.randrange(1, 65))]))
  if kind == "text":
    return file(damage(rng, HEADER), BUFFER)
  if kind == "number":
    place = rng.choice(list(NUMBER.finditer(HEADER)))
    return file(HEADER[: place.start()] + str(rng.choice(ODD)).encode() + HEADER[place.end() :], BUFFER)
  if kind == "twice":  # a whole entry, maybe changed, once more
    items = [f"{json.dumps(name)}:{json.dumps(what)}" for name, what in json.loads(HEADER).items()]
    items.insert(rng.randrange(len(items) + 1), rng.choice(items).replace("2", rng.choice("2213"), 1))
    return file(f"{{{','.join(items)}}}".encode(), BUFFER)
  return file(edited(rng, HEADER), BUFFER)


@pytest.mark.parametrize("trials", [2000, pytest.param(100_000, marks=pytest.mark.soak)])
def test_mutations(trials, tmp_path):
  path = tmp_path / NAME

  def attempt(rng):
    data = mutated(rng)
    path.write_bytes(data)
    try:
      with open_tensors(tmp_path, NAME) as stored:
        key_maps._check(WANTED, stored)
        got = {name: (tensor.dtype, np.array(tensor.read())) for name, tensor in stored.items()}
    except ValueError as error:
      assert str(error).isprintable() and len(str(error)) < 2000 and str(path) in str(error)
      return "refused"
    right = described(data)
    assert got.keys() == right.keys() == TENSORS.keys()
    for name, (dtype, array) in got.items():
      assert (dtype, array.dtype, array.shape) == (right[name][0], right[name][1].dtype, TENSORS[name].shape)
      assert array.tobytes() == right[name][1].tobytes()
    if data.endswith(BUFFER) and all(right[name][0] == dtype for name, (dtype, _) in described(WHOLE).items()):
      same = all(array.tobytes() == TENSORS[name].tobytes() for name, (_, array) in got.items())
      return "read, and nothing is changed" if same else "read, with entries exchanged"
    return "read as it says"

  outcomes = endure("mutations of safetensors", trials, attempt)
  assert outcomes["refused"] > trials / 2 and outcomes["read, and nothing is changed"] > trials / 200
