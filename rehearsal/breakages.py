"""One thing of each kind, broken on a deployed host, and the check of tests/deploy that has to notice it.

Commands run as root, all breakages at once: each check must find its own among the others. `kept`
is a directory of the host for what a breakage puts aside.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fortdb.net.security import UNPROTECTED

KEPT = "/root/kept"


@dataclass(frozen=True)
class Breakage:
    """What is done to `host`, how it is undone, and the names of the checks that fail."""

    what: str
    host: str
    broken_by: str
    mended_by: str
    noticed_by: tuple[str, ...]


def _put_aside(path: str, then: str) -> tuple[str, str]:
    """Change a file, keeping the one that was there for the way back."""
    kept = f"{KEPT}/{path.strip('/').replace('/', '-')}"
    return f"mkdir -p {KEPT} && cp -a {path} {kept} && {then}", f"rm -f {path} && mv {kept} {path}"


def _drop_in(unit: str, setting: str) -> tuple[str, str]:
    """A setting of a unit, overridden as an operator in a hurry would."""
    directory = f"/etc/systemd/system/{unit}.d"
    file = f"{directory}/99-broken.conf"
    return (
        f"mkdir -p {directory} && printf '[Service]\\n{setting}\\n' > {file} && systemctl daemon-reload",
        f"rm {file} && systemctl daemon-reload",
    )


def _restarted(unit: str, setting: str) -> tuple[str, str]:
    """The same, and the unit runs with it."""
    broken_by, mended_by = _drop_in(unit, setting)
    return f"{broken_by} && systemctl restart {unit}", f"{mended_by} && systemctl restart {unit}"


_TLS = "/etc/fortdb/tls"
# The environment wins over the file.
_UNPROTECTED = "\\n".join(
    f'Environment="FORTDB_{name}={value}"'
    for name, value in {
        **{f"TLS__{part}": "" for part in ("CERT", "KEY", "CA")},
        "SECURITY__USERS": "",
        "SECURITY__UNPROTECTED": UNPROTECTED,
    }.items()
)
_SHORT_LIVED = (
    f"openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=other -keyout /dev/null -out {_TLS}/host.pem"
    " 2>/dev/null"
)
_NODE_3 = "fortdb-node@node-03.service"

BREAKAGES = (
    Breakage(
        "a program is gone",
        "node-01",
        *_put_aside("/usr/bin/etcdctl", "rm /usr/bin/etcdctl"),
        ("test_what_must_be_installed_is[node-01]", "test_etcd_is_well_and_speaks_tls_only[node-01]"),
    ),
    Breakage(
        "a private key can be read by all",
        "node-01",
        f"chmod 0644 {_TLS}/host.pem",
        f"chmod 0400 {_TLS}/host.pem",
        ("test_the_user_owns_its_files_and_nobody_else_reads_keys[node-01]",),
    ),
    Breakage(
        "a data directory is open to others",
        "node-02",
        "chmod 0755 /var/lib/fortdb/node-02",
        "chmod 0700 /var/lib/fortdb/node-02",
        ("test_the_data_directory_is_the_nodes_own[node-02]",),
    ),
    Breakage(
        "a unit does not start at boot",
        "router-01",
        "systemctl disable fortdb-router.service",
        "systemctl enable fortdb-router.service",
        ("test_units_run_and_start_at_boot[router-01]",),
    ),
    Breakage(
        "a node stands still, its volume is read-only",
        "node-03",
        f"systemctl stop {_NODE_3} && mount -o remount,bind,ro /var/lib/fortdb",
        f"mount -o remount,bind,rw /var/lib/fortdb && systemctl start {_NODE_3}",
        (
            "test_the_data_directory_is_the_nodes_own[node-03]",
            "test_units_run_and_start_at_boot[node-03]",
            *(f"test_a_node_listens_inside[node-03-{port}]" for port in (5100, 5200, 5300)),
            "test_the_running_version_is_the_installed_one[node-03]",
            "test_plain_text_is_refused_at_every_port[node-03]",
            "test_nobody_comes_in_without_a_password[node-03]",
            "test_peers_show_a_certificate[node-03]",
            "test_logins_are_in_the_audit_log[node-03]",
            *(
                f"test_the_firewall_lets_in_what_it_should[{host}]"
                for host in ("node-01", "router-01", "router-02")
            ),
            "test_each_nodes_disk_holds_what_the_layout_says[node-03]",
            "test_every_partition_is_led_and_in_sync_over_distinct_zones",
            "test_every_node_of_the_inventory_serves",
            "test_all_is_well",
            "test_a_write_is_on_the_disks_of_the_right_nodes",
        ),
    ),
    Breakage(
        "a unit is not restarted",
        "node-02",
        *_drop_in("fortdb-node@node-02.service", "Restart=no"),
        ("test_our_units_are_supervised[node-02]",),
    ),
    Breakage(
        "a unit's hardening is off",
        "router-01",
        *_drop_in("fortdb-router.service", "NoNewPrivileges=no\\nProtectSystem=no"),
        ("test_hardening_as_systemd_reports_it[router-01]",),
    ),
    Breakage(
        "the release on disk is another than the running one",
        "node-01",
        "ln -sfn releases/9.9.9 /opt/fortdb/next && cp -a /opt/fortdb/releases/0* /opt/fortdb/releases/9.9.9"
        f" && mkdir -p {KEPT} && mv /opt/fortdb/current {KEPT}/ && mv /opt/fortdb/next /opt/fortdb/current",
        f"rm -r /opt/fortdb/current /opt/fortdb/releases/9.9.9 && mv {KEPT}/current /opt/fortdb/",
        ("test_the_running_version_is_the_installed_one[node-01]",),
    ),
    Breakage(
        "the users can be read by all",
        "node-02",
        "chmod 0644 /etc/fortdb/users.toml",
        "chmod 0640 /etc/fortdb/users.toml",
        ("test_secrets_can_be_read_by_nobody_else[node-02]",),
    ),
    Breakage(
        "a router speaks plain text and lets everybody in",
        "router-02",
        *_restarted("fortdb-router.service", _UNPROTECTED),
        (
            "test_plain_text_is_refused_at_every_port[router-02]",
            "test_nobody_comes_in_without_a_password[router-02]",
            "test_logins_are_in_the_audit_log[router-02]",
            "test_the_running_version_is_the_installed_one[router-02]",
        ),
    ),
    Breakage(
        "a configuration has a wrong setting",
        "router-02",
        *_put_aside("/etc/fortdb/router.toml", "echo 'colour = \"red\"' >> /etc/fortdb/router.toml"),
        ("test_configurations_are_right[router-02]",),
    ),
    Breakage(
        "the firewall is off",
        "node-02",
        "systemctl stop fortdb-firewall.service",
        "systemctl start fortdb-firewall.service",
        (
            "test_the_firewall_lets_in_what_it_should[node-02]",
            "test_ring_ports_are_closed_to_others[node-02]",
        ),
    ),
    Breakage(
        "a member of etcd is down",
        "node-03",
        "systemctl stop etcd.service",
        "systemctl start etcd.service",
        ("test_etcd_is_well_and_speaks_tls_only[node-03]",),
    ),
    Breakage(
        "a certificate is another's and ends tomorrow",
        "node-03",
        *_put_aside(f"{_TLS}/host.pem", _SHORT_LIVED),
        (
            "test_certificates_are_valid_for_long_enough[node-03]",
            "test_certificates_are_for_the_right_names[node-03]",
            "test_the_user_owns_its_files_and_nobody_else_reads_keys[node-03]",
        ),
    ),
    Breakage(
        "a clock is wrong",
        "node-01",
        "printf '#!/bin/sh\\necho $(($(/usr/bin/date +%%s) + 100)).0\\n' > /usr/local/bin/date"
        " && chmod 0755 /usr/local/bin/date",
        "rm /usr/local/bin/date",
        ("test_clocks_agree[node-01]",),
    ),
    Breakage(
        "a rendered layout is not the ring's",
        "node-02",
        *_put_aside("/etc/fortdb/layout.json", 'sed -i \'s/"node-03"/"node-04"/\' /etc/fortdb/layout.json'),
        ("test_the_rendered_layout_is_the_live_one[node-02]",),
    ),
)


def failed_checks(output: str) -> dict[str, str]:
    """The checks that pytest says have failed: name -> where it stands, as pytest takes it."""
    places = re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    return {place.rpartition("::")[2]: place for place in places}
