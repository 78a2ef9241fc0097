"""Mistakes print one sentence; bugs print tracebacks."""

import functools
import subprocess
import sys
import warnings

import pytest
from absl import flags
from ml_collections import config_flags

from diffjax import from_config
from diffjax.cluster import command_line
from diffjax.from_config import construction


def told(error):
  """The message that `reporting` exits with for an error, or for what a function raises."""
  with pytest.raises(SystemExit) as stop, command_line.reporting():
    if isinstance(error, BaseException):
      raise error
    error()
  return stop.value.code


def test_our_own_checks_become_a_sentence():
  assert told(lambda: construction.lookup(from_config.SAMPLERS, "sampler", "huen")).startswith(
    "error: there is no sampler 'huen' (did you mean 'heun'?); choose one of "
  )


def test_what_the_system_refuses_becomes_a_sentence(tmp_path):
  assert told(lambda: (tmp_path / "no" / "file").write_text("")).startswith("error: [Errno 2] No such file")
  assert told(OSError("the disk is\n  full")) == "error: the disk is full"


@pytest.mark.parametrize("error", [ValueError("from elsewhere"), KeyError("x"), TypeError("y"), ZeroDivisionError()])
def test_bugs_stay_as_they_are(error):
  with pytest.raises(type(error)), command_line.reporting():
    raise error


def test_interrupt_is_silent():
  assert told(KeyboardInterrupt()) == 130


def test_warnings_are_a_sentence_each(capsys):
  with command_line.reporting():
    warnings.warn("two pictures\n are damaged", stacklevel=1)
  assert capsys.readouterr() == ("", "warning: two pictures are damaged\n")


def test_flags():
  values = flags.FlagValues()
  flags.DEFINE_integer("num", 3, "", flag_values=values)
  command_line.parse(["program", "--num=5"], values)
  assert values.num == 5
  for arguments, says in (
    (["--nun=5"], "'nun' (did you mean num?); correct it."),
    (["--num=x"], "--num=x: expected a whole number; correct it."),
    (["5"], "'5' is not a flag"),
  ):
    with pytest.raises(SystemExit) as stop:
      command_line.parse(["program", *arguments], values)
    assert stop.value.code.startswith("error: ") and says in stop.value.code and "\n" not in stop.value.code


@pytest.mark.parametrize(
  ("argument", "says"),
  [
    (
      "model.zzz=3",
      "error: the config has no key 'zzz', which --config.model.zzz names; see its",
    ),
    (
      "model.widht=3",
      "error: the config has no key 'widht', which --config.model.widht names (did you mean 'width'?); see",
    ),
    ("train.steps=2.5", "--config.train.steps=2.5: expected a whole number"),
    ("train.learning_rate=x", "--config.train.learning_rate=x: expected a number"),
    ("data.flip=perhaps", "--config.data.flip=perhaps: expected true or false"),
  ],
)
def test_flags_of_a_config(monkeypatch, tmp_path, argument, says):
  values, path = flags.FlagValues(), tmp_path / "config.py"
  path.write_text(
    "from diffjax.from_config.configuration import default_config\n"
    "def get_config():\n  config = default_config()\n  config.model.width = 8\n  return config\n"
  )
  config_flags.DEFINE_config_file("config", None, "", flag_values=values)
  arguments = ["program", f"--config={path}", f"--config.{argument}"]
  monkeypatch.setattr(sys, "argv", arguments)
  with pytest.raises(SystemExit) as stop:
    command_line.parse(arguments, values)
  assert says in stop.value.code and "\n" not in stop.value.code


EVIL = ["__import__('pathlib').Path('ran').touch()", "!!python/object/apply:os.system ['touch ran']", "$(touch ran)"]
EVIL += ["(" * 5000, "[" * 100_000, "{1: __import__('os').system('touch ran')}", "lambda: 1", "1\n2", "9" * 5000]


@pytest.mark.parametrize("value", EVIL, ids=lambda value: ascii(value[:20]))
@pytest.mark.parametrize(
  "key",
  [
    "train.steps", "train.learning_rate", "data.flip", "data.name", "data", "model.multipliers", "model.head_dim",
    "ema.decays", "sampler.guidance_interval", "sampler.options", "model.width", "parallel", "to_json", "__class__",
    "train['steps']", "train.__import__('os').system('touch ran')",
  ],
)  # fmt: skip
def test_overrides_are_never_evaluated(monkeypatch, tmp_path, key, value):
  """Each is refused in one sentence, or read as text or as a number; nothing is executed."""
  values, path = flags.FlagValues(), tmp_path / "config.py"
  path.write_text(
    "from diffjax.configuration import default_config\n"
    "def get_config():\n  config = default_config()\n"
    "  config.model.update(width=8, multipliers=(1, 2), head_dim=None)\n  return config\n"
  )
  monkeypatch.chdir(tmp_path)
  config_flags.DEFINE_config_file("config", None, "", flag_values=values)
  arguments = ["program", f"--config={path}", f"--config.{key}={value}"]
  monkeypatch.setattr(sys, "argv", arguments)
  try:
    command_line.parse(arguments, values)
    got = functools.reduce(lambda config, name: config[name], key.split("."), values.config)
    assert got in (value, (value,), float("inf"))  # as text; `from_config.check` says what it should be
  except SystemExit as stop:
    assert stop.code.startswith("error: ") and stop.code.isprintable() and len(stop.code) < 2100
  assert not (tmp_path / "ran").exists()


def test_import_is_quick_and_quiet():
  """A script reports a mistyped flag without first importing the slow packages."""
  heavy = "{'orbax', 'tensorflow_datasets', 'matplotlib'}"
  script = f"import sys, diffjax.cluster.command_line; assert not {heavy} & set(sys.modules)"
  assert subprocess.run([sys.executable, "-W", "error", "-c", script], check=False).returncode == 0
