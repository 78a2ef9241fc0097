"""Who of a run's processes is there. JAX waits for all of them, too, but when it gives up it aborts and names none."""

import contextlib
import json
import socket
import time

GRACE = 5
"""Seconds that the others wait longer than process 0, to hear from it what is wrong."""
LONGEST = 1000
"""Bytes of a line."""


def wait_for_all(coordinator: str, num_processes: int, process_id: int, timeout: float) -> None:
  """Returns in every process once all are there. Process 0 listens where JAX's coordinator will, and then leaves.

  Args:
    coordinator: "host:port" of process 0.
    num_processes: how many there are.
    process_id: which of them this one is.
    timeout: seconds to wait.

  Raises:
    OSError: in every process that is there, if one is missing or comes twice; names it.
  """
  host, _, port = coordinator.rpartition(":")
  deadline = time.monotonic() + timeout
  if process_id == 0:
    failure = _listen(int(port), num_processes, deadline, timeout)
  else:
    failure = _report((host.strip("[]"), int(port)), [process_id, num_processes], deadline + GRACE)
    if failure is None:
      failure = f"process 0 did not answer at {coordinator} within {timeout} s; start it there, or correct the address."
  if failure:
    raise OSError(failure)


def _listen(port, num_processes, deadline, timeout) -> str:
  """Waits for the others, and tells them and returns what is wrong, "" if nothing is."""
  there, failure = {}, ""
  family = {"family": socket.AF_INET6, "dualstack_ipv6": True} if socket.has_dualstack_ipv6() else {}
  with socket.create_server(("", port), backlog=num_processes, **family) as listener:
    while not failure and len(there := _without_gone(there)) < num_processes - 1:
      listener.settimeout(max(deadline - time.monotonic(), 0.001))
      try:
        connection, _ = listener.accept()
      except TimeoutError:
        missing = sorted(set(range(1, num_processes)) - there.keys())
        who = f"process{'es' * (len(missing) > 1)} {', '.join(map(str, missing))} of {num_processes}"
        failure = f"{who} did not come within {timeout} s; start all, with the same --coordinator and --num_processes."
        break
      told = _read(connection, 1.0)
      if not (isinstance(told, list) and [type(number) for number in told] == [int, int]):
        connection.close()  # somebody else, who tries this port
        continue
      process_id, count = told
      if count != num_processes:
        failure = (
          f"process {process_id} has --num_processes={count} and process 0 has {num_processes}; give all the same."
        )
      elif process_id in (0, *_without_gone(there)):
        failure = f"there are two processes with --process_id={process_id}; give each its own, from 0 on."
      there[None if failure else process_id] = connection
  for connection in there.values():
    with connection, contextlib.suppress(OSError):  # one that has gone meanwhile is JAX's affair
      _write(connection, failure)
  return failure


def _without_gone(there):
  """Of {process: connection} those that still wait: one that was stopped meanwhile may come again."""
  for connection in there.values():
    connection.setblocking(False)
  return {process_id: connection for process_id, connection in there.items() if not _has_gone(connection)}


def _has_gone(connection) -> bool:
  try:
    return connection.recv(1, socket.MSG_PEEK) == b""
  except BlockingIOError:  # it says nothing more, and listens
    return False
  except OSError:
    return True


def _report(address, told, deadline) -> str | None:
  """Tells process 0 that this one is there, as soon as it listens, and returns what it answers."""
  while time.monotonic() < deadline:
    try:
      with socket.create_connection(address, timeout=max(deadline - time.monotonic(), 0.001)) as connection:
        _write(connection, told)
        answer = _read(connection, max(deadline - time.monotonic(), 0.001))
      if answer is not None:
        return answer
    except OSError:  # nobody listens yet
      pass
    time.sleep(0.2)
  return None


def _write(connection, value) -> None:
  connection.sendall(json.dumps(value).encode() + b"\n")


def _read(connection, timeout):
  """The line of JSON that the other end writes, or None if none comes."""
  connection.settimeout(timeout)
  try:
    with connection.makefile("rb") as file:
      return json.loads(file.readline(LONGEST))
  except (OSError, ValueError):
    return None
