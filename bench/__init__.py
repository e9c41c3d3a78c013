"""Measures FortDB beside Redis and etcd, in one run on one machine; see `docs/bench/README.md`."""
