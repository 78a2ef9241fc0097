"""Devices, processes and their failures: the only room that knows there is more than one."""
