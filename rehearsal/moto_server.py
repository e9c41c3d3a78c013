"""moto's server with its gaps mended where Terraform's second plan falls into them.

Only the simulator is bent, never what is deployed: an instance whose security groups were given with its
network interface does not show them, and a terminated one leaves them attached, in moto 5.2.
"""

from __future__ import annotations

from typing import Any

from moto.ec2.models.instances import Instance
from moto.server import main

_make, _terminate = Instance.__init__, Instance.terminate


def _init(self: Any, *arguments: Any, **options: Any) -> None:
    _make(self, *arguments, **options)
    if not self.security_groups:
        self.security_groups = [group for nic in self.nics.values() for group in nic.group_set]


def _terminated(self: Any, *arguments: Any, **options: Any) -> Any:
    done = _terminate(self, *arguments, **options)
    for nic in list(self.nics.values()):
        nic._group_set.clear()
        self.ec2_backend.enis.pop(nic.id, None)
    return done


Instance.__init__ = _init  # type: ignore[method-assign]
Instance.terminate = _terminated  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
