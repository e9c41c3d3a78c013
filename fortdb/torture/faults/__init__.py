"""Faults that the torture brings upon a ring: processes, disks, clocks, the network, etcd."""
