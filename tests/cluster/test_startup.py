"""Processes of a run wait for each other, and name those that are missing."""

import socket
import threading
import time

import pytest
from several import free_address

from diffjax.cluster.startup import wait_for_all


def told(address, processes, timeout=10.0):
  """The error message that each of [(process_id, num_processes), ...] gets; "" if all are connected."""
  heard = {}

  def call(place, process_id, num_processes):
    try:
      wait_for_all(address, num_processes, process_id, timeout)
      heard[place] = ""
    except OSError as error:
      heard[place] = str(error)

  threads = [threading.Thread(target=call, args=(place, *one)) for place, one in enumerate(processes)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  return [heard[place] for place in range(len(processes))]


def test_all_are_there_and_the_port_is_free_again():
  address = free_address()
  assert told(address, [(3, 4), (0, 4), (1, 4), (2, 4)]) == [""] * 4
  socket.create_server(("127.0.0.1", int(address.split(":")[1]))).close()


def test_one_process_waits_for_nobody():
  assert told(free_address(), [(0, 1)]) == [""]


@pytest.mark.parametrize(
  ("there", "says"),
  [
    ((0, 1, 3), "process 2 of 4 did not connect within 0.5 s"),
    ((0, 2), "processes 1, 3 of 4 did not connect within 0.5 s"),
  ],
)
def test_everyone_hears_who_is_missing(there, says):
  for heard in told(free_address(), [(i, 4) for i in there], timeout=0.5):
    assert heard.startswith(says)


def test_contradictions_are_named():
  assert all("two processes have --process_id=1" in heard for heard in told(free_address(), [(0, 3), (1, 3), (1, 3)]))
  assert all("process 1 has --num_processes=4" in heard for heard in told(free_address(), [(0, 3), (1, 4)]))


def test_without_process_0(monkeypatch):
  monkeypatch.setattr("diffjax.cluster.startup.GRACE", 0)
  (heard,) = told(free_address(), [(1, 2)], timeout=0.5)
  assert heard.startswith("process 0 did not answer at 127.0.0.1:")


def call_and_go(address, process_id, num_processes):
  while True:
    try:
      with socket.create_connection(("127.0.0.1", int(address.split(":")[1])), timeout=5) as connection:
        return connection.sendall(b"[%d, %d]\n" % (process_id, num_processes))
    except OSError:
      time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("again", "says"), [(False, "process 1 of 3 did not connect within 2.5 s"), (True, "")])
def test_one_that_is_stopped_while_it_waits_is_not_there_but_may_come_again(again, says):
  address, heard = free_address(), []
  run = threading.Thread(target=lambda: heard.extend(told(address, [(0, 3)], timeout=2.5)))
  run.start()
  call_and_go(address, 1, 3)
  heard.extend(told(address, [(2, 3), (1, 3)] if again else [(2, 3)], timeout=2.5))
  run.join()
  assert all(one.startswith(says) for one in heard) and (says or not any(heard)), heard


@pytest.mark.slow
def test_strangers_at_the_port_are_not_counted():
  address = free_address()

  def knock():
    for words in (b"GET / HTTP/1.1\r\n\r\n", b"7\n", b"[1]\n", b'["x", 2]\n', b""):
      while True:
        try:
          with socket.create_connection(("127.0.0.1", int(address.split(":")[1])), timeout=5) as stranger:
            stranger.sendall(words)
            break
        except OSError:
          time.sleep(0.05)

  stranger = threading.Thread(target=knock)
  stranger.start()
  (heard,) = told(address, [(0, 2)], timeout=2.5)
  stranger.join()
  assert heard.startswith("process 1 of 2 did not connect")
