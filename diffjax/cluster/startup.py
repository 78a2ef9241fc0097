"""Checks that all processes of a run have started. JAX waits for them too, but on timeout it aborts and names none."""

import contextlib
import json
import socket
import time

GRACE = 5
"""Extra seconds that the other processes wait after process 0's deadline, to receive its error message."""
MAX_BYTES = 1000
"""Maximum bytes in a line."""


def wait_for_all(coordinator: str, num_processes: int, process_id: int, timeout: float) -> None:
  """Blocks until all processes have connected to process 0, which listens on the port JAX's coordinator uses later.

  Args:
    coordinator: "host:port" of process 0.
    num_processes: number of processes.
    process_id: index of this process.
    timeout: seconds to wait.

  Raises:
    OSError: in every connected process, if one is missing or connects twice; names it.
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
  """Waits for the others, then sends them what is wrong and returns it, or "" if all is well."""
  there, failure = {}, ""
  family = {"family": socket.AF_INET6, "dualstack_ipv6": True} if socket.has_dualstack_ipv6() else {}
  with socket.create_server(("", port), backlog=num_processes, **family) as listener:
    while not failure and len(there := _still_connected(there)) < num_processes - 1:
      listener.settimeout(max(deadline - time.monotonic(), 0.001))
      try:
        connection, _ = listener.accept()
      except TimeoutError:
        missing = sorted(set(range(1, num_processes)) - there.keys())
        who = f"process{'es' * (len(missing) > 1)} {', '.join(map(str, missing))} of {num_processes}"
        failure = f"{who} did not connect within {timeout} s; start all with equal --coordinator and --num_processes."
        break
      message = _read(connection, 1.0)
      if not (isinstance(message, list) and [type(number) for number in message] == [int, int]):
        connection.close()  # not one of ours, e.g. a port scan
        continue
      process_id, count = message
      if count != num_processes:
        failure = (
          f"process {process_id} has --num_processes={count} but process 0 has {num_processes}; use the same for all."
        )
      elif process_id in (0, *_still_connected(there)):
        failure = f"two processes have --process_id={process_id}; give each its own, counting from 0."
      there[None if failure else process_id] = connection
  for connection in there.values():
    with connection, contextlib.suppress(OSError):  # JAX reports one that has exited meanwhile
      _write(connection, failure)
  return failure


def _still_connected(there):
  """Drops closed connections from {process: connection}, as a process stopped meanwhile may connect again."""
  for connection in there.values():
    connection.setblocking(False)
  return {process_id: connection for process_id, connection in there.items() if not _is_closed(connection)}


def _is_closed(connection) -> bool:
  try:
    return connection.recv(1, socket.MSG_PEEK) == b""
  except BlockingIOError:  # still connected, nothing to read
    return False
  except OSError:
    return True


def _report(address, message, deadline) -> str | None:
  """Reports this process to process 0, retrying until it listens, and returns its answer, None if there is none."""
  while time.monotonic() < deadline:
    try:
      with socket.create_connection(address, timeout=max(deadline - time.monotonic(), 0.001)) as connection:
        _write(connection, message)
        answer = _read(connection, max(deadline - time.monotonic(), 0.001))
      if answer is not None:
        return answer
    except OSError:  # process 0 is not listening yet
      pass
    time.sleep(0.2)
  return None


def _write(connection, value) -> None:
  connection.sendall(json.dumps(value).encode() + b"\n")


def _read(connection, timeout):
  """Reads a line of JSON from the other end; None if none arrives."""
  connection.settimeout(timeout)
  try:
    with connection.makefile("rb") as file:
      return json.loads(file.readline(MAX_BYTES))
  except (OSError, ValueError):
    return None
