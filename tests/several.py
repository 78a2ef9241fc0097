"""Starts several processes on this machine, each with pretended devices of its own."""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys

import jax
import numpy as np

WORKER = pathlib.Path(__file__).with_name("processes_worker.py")
GLOO = re.compile(r"Gloo|Rank|peer|Expected number|^[\d\s:.]*$")
"""Lines of "[Gloo] Rank 0 is connected to 1 peer ranks. Expected number of connected peer ranks is : 1", and parts."""


def free_address():
  with socket.socket() as listener:
    listener.bind(("127.0.0.1", 0))
    return f"127.0.0.1:{listener.getsockname()[1]}"


def environment(devices):
  return os.environ | {
    "PYTHONPATH": str(WORKER.parents[1]),
    "NPROC": "32",
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
  }


def start(asked, num_processes=1, devices=1, missing=()):
  """The processes of one run, started; `asked` as processes_worker.py takes it."""
  address, text = free_address(), json.dumps(asked)
  pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
  return [
    subprocess.Popen(
      [sys.executable, WORKER, text, address, str(num_processes), str(i)], env=environment(devices), **pipes
    )
    for i in range(num_processes)
    if i not in missing
  ]


def finish(processes, timeout=400):
  """[(exit status, stdout, stderr)] of processes that should end by themselves."""
  try:
    told = [process.communicate(timeout=timeout) for process in processes]
  finally:
    for process in processes:
      process.kill()
  return [(process.returncode, said(out), errors) for process, (out, errors) in zip(processes, told)]


def said(out):
  """What a process has printed, without what the threads of Gloo, which connects the processes, say over each other."""
  return "".join(line for line in out.splitlines(keepends=True) if not GLOO.search(line))


def run(folder, name, tiny_data, num_processes=1, devices=1, **asked):
  """What each process of a run has seen, and what the first has printed."""
  asked |= {"workdir": str(folder / "run"), "out": str(folder / name), "data_dir": str(tiny_data)}
  ended = finish(start(asked, num_processes, devices))
  assert [status for status, _, _ in ended] == [0] * num_processes, ended
  assert not any(out for _, out, _ in ended[1:]), ended  # only the first speaks
  seen = [dict(np.load(folder / f"{name}.{i}.npz")) for i in range(num_processes)]
  assert all(s["devices"] == num_processes * devices for s in seen)
  return seen, ended[0][1]
