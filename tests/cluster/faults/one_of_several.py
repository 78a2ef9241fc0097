"""One of several processes with one device each, which average a number repeatedly until one gets a signal.

python one_of_several.py ADDRESS COUNT INDEX TIMEOUT
"""

import os
import sys
import time

import jax
import numpy as np

from diffjax.cluster import devices, processes
from diffjax.cluster.signals import StopRequest
from diffjax.cluster.watchdog import Watchdog


def main(address, count, index, timeout):
  jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself
  jax.distributed.initialize(address, int(count), int(index))
  add = devices.pmap(lambda x: devices.mean(x, devices.AXIS) + 1)
  x, step = devices.replicate(np.float32(0)), 0
  with StopRequest() as stop_request, Watchdog(0, float(timeout)) as watchdog:
    while True:
      stopping = processes.any_process(stop_request)
      x = jax.block_until_ready(add(x))
      step += 1
      watchdog.beat(step)
      if step == 5:
        print("running", flush=True)
      if stopping:
        break
      time.sleep(0.002 * int(index))  # none keeps another's pace
  assert devices.unreplicate(x) == step
  print(f"stopped at {step}, signal {stop_request.signum}", flush=True)
  jax.distributed.shutdown()
  os._exit(stop_request.exit_code)


if __name__ == "__main__":
  main(*sys.argv[1:])
