"""Devices, processes and their failures: the only package that knows there may be more than one."""
