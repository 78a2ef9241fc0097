"""Real processes of train.py on a very small config."""

import pathlib

import pytest

TESTS = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="session")
def launch(script, tiny_data):
  """launch(workdir, steps=..., ...) starts train.py in a process, or `program` and its arguments."""

  def launch(workdir, *program, **train):
    arguments = [f"--config={TESTS / 'tiny_config.py'}", f"--config.data.data_dir={tiny_data}", f"--workdir={workdir}"]
    arguments += [f"--config.train.{name}={value}" for name, value in train.items()]
    return script(*(program or ("train.py",)), *arguments)

  return launch
