"""The torture on a ring of somebody else's, who makes the faults: clients, and the judgement of what they were told.

Keys and keyspaces have names that begin alike and that nobody else has, and are removed afterwards. What the user may not
do is left out, and said; who may not read and write keys has nothing to torture. Nobody looks at the replicas here, and no
chain is followed from its beginning, which may hold more than the torture's: receipts stand for both.
"""

from __future__ import annotations

import secrets
import time

from fortdb.client import Access, Address
from fortdb.torture.caller import Door
from fortdb.torture.crowd import Crowd
from fortdb.torture.findings import HISTORY_FILE, Findings
from fortdb.torture.history import History
from fortdb.torture.run import Glance, Options, Show, make_room, wait

_TIMEOUT_S = 15.0  # a router of default settings says after 12 that it does not know
_RETENTIONS_S_MAX = 60.0  # several times what they are, should leaders change meanwhile


def torture_remote(options: Options, address: Address, access: Access, show: Show) -> Findings:
    """Raises `FortError` if nothing can be done there."""
    began_s = time.monotonic()
    make_room(options.directory)
    name = f"torture-{secrets.token_hex(4)}"
    findings = Findings(seed=options.seed, seconds=options.seconds, options=["--remote"], keys_named=name)
    door = Door("router", address.host, address.port, _TIMEOUT_S, access)
    with History(options.directory / HISTORY_FILE) as history:
        crowd = Crowd(
            [door],
            [door],
            history,
            clients=options.clients,
            seed=options.seed,
            keyspace=name,
            prefix=f"{name}:",
        )

        def glance(phase: str) -> None:
            show(Glance(phase, time.monotonic() - began_s, options.seconds, crowd.calls, (), 0, 0))

        try:
            findings.left_out = crowd.prepare()
            crowd.start()
            try:
                wait(options.seconds, lambda: glance("torturing"))
            finally:
                crowd.stop(findings)
            glance("reading every key")
            crowd.last_words(door, options.directory, findings)
        finally:
            findings.left_behind = crowd.remove_all(_RETENTIONS_S_MAX, lambda: glance("removing its keys"))
    crowd.judge_feed(options.directory, findings)
    findings.write(options.directory)
    return findings
