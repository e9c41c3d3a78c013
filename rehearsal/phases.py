"""The rehearsal as a story: one method a phase, in the order of `ALL`.

Each phase asserts what it is there to show and raises `RehearsalError` if it does not hold. Long output goes to
logs/PHASE.log in the rehearsal's directory.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rehearsal import simulated_aws
from rehearsal.base import make_base
from rehearsal.breakages import BREAKAGES, failed_checks
from rehearsal.hosts import Access, Host, forget, tear_down
from rehearsal.network import CLIENT, Network
from rehearsal.progress import Progress
from rehearsal.tools import RehearsalError, beside_python, call, control_group, logged, wait_until, within

REPOSITORY = Path(__file__).parents[1]
PORT = 5000
MOVE_S_MAX = 60.0
HEALTHY_S_MAX = 120.0
LOAD_S = 5.0  # before and after the fault
_NOT_COPIED = shutil.ignore_patterns(
    ".terraform", "*.tfstate*", "*.tfvars", "*.tfvars.json", "destroy_override.tf"
)


@dataclass
class State:
    """What later commands need to know of a rehearsal that was left running; rehearsal.json."""

    vpc: str
    url: str = ""
    elastic_ip: str = ""
    hosts: dict[str, tuple[str, str]] = field(default_factory=dict)


class Rehearsal:
    """One run in one directory."""

    def __init__(self, directory: Path, cache: Path, vpc: str, progress: Progress) -> None:
        self.directory = directory
        self.cache = cache
        self.network = Network(vpc)
        self.progress = progress
        self.state = State(vpc)
        self.access = Access(directory / "access")
        self.logs = directory / "logs"
        self.terraform = directory / "terraform"
        self.secrets = directory / "secrets"  # of the controller: authorities, admin's password
        self._base = Path()
        self.hosts: dict[str, Host] = {}

    @classmethod
    def resume(cls, directory: Path, cache: Path, progress: Progress) -> Rehearsal:
        """The one that was left running in this directory."""
        file = directory / "rehearsal.json"
        if not file.exists():
            raise RehearsalError(f"no rehearsal is in {directory}: make rehearsal-up")
        state = State(**json.loads(file.read_text()))
        found = cls(directory, cache, state.vpc, progress)
        found.state = state
        for name, (address, zone) in dict(state.hosts).items():
            found._add_host(name, address, zone)
        found._base = make_base(cache, found._group("base"))
        return found

    # --- the phases ------------------------------------------------------------------------------

    def begin(self) -> None:
        """Nothing of an earlier run; the hosts' base."""
        tear_down(self.network)
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / ".gitignore").write_text("*\n")
        for part in ("access", "logs", "terraform", "secrets"):
            shutil.rmtree(self.directory / part, ignore_errors=True)
        forget(self.directory)
        self.logs.mkdir()
        self.access.make()
        self._base = make_base(self.cache, self._group("base"))

    def aws(self) -> None:
        """The VPC as a network, and AWS."""
        self.network.up()
        self.state.url = simulated_aws.start(self.network, self.logs)
        self._save()

    def apply(self) -> None:
        """`terraform apply` with what a stranger sets; the second plan is clean."""
        shutil.copytree(REPOSITORY / "terraform", self.terraform, ignore=_NOT_COPIED)
        self._set(
            {
                "region": simulated_aws.REGION,
                "allowed_client_cidrs": [self.network.clients_cidr],
                "ssh_public_key": self.access.public_key,
                "admin_cidrs": [f"{self.network.operator}/32"],
                "vpc_cidr": self.network.vpc_cidr,
            }
        )
        self._terraform("apply", "init", "-input=false")
        self._terraform("apply", "apply", "-input=false", "-auto-approve")
        self._terraform("apply", "plan", "-input=false", "-detailed-exitcode")  # 2, a failure, if not clean
        self._learn_hosts()
        self.progress.note(
            f"{len(self.hosts)} instances, Elastic IP {self.state.elastic_ip}, second plan clean"
        )

    def boot(self) -> None:
        """A host for every instance, with the address Terraform gave it."""
        self._boot(self.hosts)
        self.progress.note(", ".join(f"{host.name} {host.address}" for host in self.hosts.values()))

    def deploy(self) -> None:
        """ansible-playbook, as in the README."""
        self._play("deploy")

    def again(self) -> None:
        """The second run changes nothing and restarts nobody."""
        before = self._processes()
        recap = self._play("again")
        self._hold_unchanged(recap, "again")
        self._hold(self._processes() == before, "the second run restarted something", "again")
        self.progress.note(f"changed=0 on {len(recap)} hosts")

    def verify(self) -> None:
        """What an operator would check, over SSH."""
        self._logged("verify", self._checks())
        self.progress.note((self.logs / "verify.log").read_text().strip().splitlines()[-1].strip("= "))

    def broken(self) -> None:
        """One thing of each kind is broken, and the checks notice every one; mended, they pass again."""
        log = self.logs / "broken.log"
        for breakage in BREAKAGES:
            self.hosts[breakage.host].ssh(f"sudo sh -c {shlex.quote(breakage.broken_by)}")
        found = self._call(*self._checks(), check=False)
        log.write_text(found)
        failed = failed_checks(found)
        missed = [b.what for b in BREAKAGES if not failed.keys() >= set(b.noticed_by)]
        self._hold(not missed, f"not noticed: {', '.join(missed)}", "broken")
        known = {check for b in BREAKAGES for check in b.noticed_by}
        further = sorted(failed.keys() - known)
        self._hold(not further, f"not meant to be broken: {', '.join(further)}", "broken")
        self._hold("journal of fortdb-node@node-03" in found, "no journal is printed", "broken")
        for breakage in reversed(BREAKAGES):
            self.hosts[breakage.host].ssh(f"sudo sh -c {shlex.quote(breakage.mended_by)}")
        self._healthy()
        self._logged("broken", self._checks(*failed.values()))
        self.progress.note(f"{len(BREAKAGES)} things broken, noticed by {len(failed)} checks, mended")

    def client(self) -> None:
        """From outside, through the Elastic IP: FortDB's own client and Redis's."""
        found = self._call(*self._fortdb("endpoint", "--aws"))
        self._hold(self.state.elastic_ip in found, f"endpoint --aws says {found!r}", "client")
        self._expect("", "put", "greeting", "hello, ring", exact=False)
        self._expect("hello, ring", "get", "greeting")
        for command, answer in (
            ("SET a b", "OK"),
            ("GET a", "b"),
            ("DEL a greeting", "2"),
            ("EXISTS greeting", "0"),
        ):
            said = self._redis_cli(*command.split())
            self._hold(said == answer, f"redis-cli {command} answered {said!r}", "client")
        self._expect("", "put", "kept", "through it all", exact=False)
        refused = self._client(
            *("redis-cli", "-h", self.state.elastic_ip, "-p", str(PORT), "PING"), check=False
        )
        self._hold("PONG" not in refused, "plain text gets in", "client")

    def rotate(self) -> None:
        """Certificates, keys and admin's password are replaced under load: no request fails, nobody restarts."""
        processes, certificate, password = self._processes(), self._shown(), self._password_file.read_text()
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        certificates: Any = {"playbook": "rotate-certificates.yml", "certificates_made_after": moment}
        passwords: Any = {"playbook": "rotate-passwords.yml"}
        dropped: Any = {**passwords, "fortdb_drop_password": True}
        with self._load("rotated") as load:
            self._play("rotate", "--check", "--diff", **certificates)
            self._hold(self._shown() == certificate, "check mode changed a certificate", "rotate")
            for words in (certificates, passwords, dropped):
                recap = self._play("rotate", **words)
                changed = all(counts["changed"] for counts in recap.values())
                self._hold(changed, f"{words} changed nothing somewhere: {recap}", "rotate")
                self._hold_unchanged(self._play("rotate", **words), "rotate")
            time.sleep(LOAD_S)  # of load with what is new
        self._hold(self._shown() != certificate, "the certificate is still the former one", "rotate")
        self._hold(self._processes() == processes, "something restarted", "rotate")
        former = self._redis_cli("PING", password=password.strip())
        self._hold("NOAUTH" in former, f"the former password is answered {former!r}", "rotate")
        secrets = [password.strip(), self._password_file.read_text().strip(), "PRIVATE KEY", "$argon2id$"]
        told = [word[:12] for word in secrets if word in self._log("rotate") + self._log("deploy")]
        self._hold(not told, f"secrets are in the playbook's output: {told}", "rotate")
        found = load()
        self._hold(not found["failed"], f"requests failed: {found['failed'][:5]}", "rotate")
        self.progress.note(f"{found['acknowledged']} writes acknowledged meanwhile, none failed or lost")

    def grow(self) -> None:
        """Two nodes more. The play takes them in and shows what would move to them; told to, it moves just that."""
        zones = {f"node-{number:02}": {"zone_index": (number - 1) % 3} for number in range(1, 6)}
        members = {name: {**node, "etcd": True} for name, node in list(zones.items())[:3]}
        self._set({"nodes": {**zones, **members}})
        self._terraform("grow", "apply", "-input=false", "-auto-approve")
        known = set(self.hosts)
        self._learn_hosts()
        new = sorted(set(self.hosts) - known)
        self._boot(new)
        before = self._ring()["layout"]["version"]
        self._play("grow")
        self._hold("This layout is NOT applied" in self._log("grow"), "no plan was shown", "grow")
        self._hold(self._ring()["layout"]["version"] == before, "a plan was applied unasked", "grow")
        self._play("grow", fortdb_apply_layout=True)
        ring = self._ring()
        held = {name: sum(name in p["replicas"] for p in ring["partitions"]) for name in sorted(self.hosts)}
        self._hold(all(held[name] for name in new), f"new nodes hold nothing: {held}", "grow")
        self._expect("through it all", "get", "kept")
        self._logged("grow", self._checks("tests/deploy/test_ring.py"))
        self.progress.note(
            f"{', '.join(new)} hold {sum(held[name] for name in new)} of {sum(held.values())} replicas"
        )

    def move_ip(self) -> None:
        """The active router's host dies: the standby takes the address, clients go on."""
        active = self._active_router()
        active.kill()
        start = time.monotonic()
        wait_until(lambda: self._answers("kept"), "the Elastic IP to serve again", MOVE_S_MAX)
        took = time.monotonic() - start
        now = self._active_router()
        self._hold(now.name != active.name, f"the Elastic IP is still at {active.name}", "move_ip")
        self.progress.note(f"from {active.name} to {now.name} in {took:.1f} s")
        active.power_on(self._base)
        active.wait()
        self._healthy()

    def reboot(self) -> None:
        """A node's host reboots; its unit starts by itself and the ring heals."""
        node = self.hosts["node-02"]
        node.reboot()
        self.progress.note(f"{node.name} back, all in sync after {self._healthy():.1f} s more")

    def kill_node(self) -> None:
        """A node's host loses power under load: no acknowledged write is lost, and the playbook goes on without it."""
        node = self.hosts["node-01"]
        with self._load("acknowledged") as load:
            time.sleep(LOAD_S)  # of load before the fault
            node.kill()
            file = self.directory / "acknowledged"
            size = file.stat().st_size
            wait_until(lambda: file.stat().st_size > size + 10_000, "writes to go on", HEALTHY_S_MAX)
            time.sleep(LOAD_S)  # and after it
        load()
        self._hold_unchanged(self._play("absent", absent={node.name}, fortdb_absent=node.name), "absent")
        node.power_on(self._base)
        node.wait()
        self._healthy()
        after = load()
        self._expect("through it all", "get", "kept")
        self.progress.note(
            f"{after['acknowledged']} acknowledged, none lost, longest pause {after['longest_pause_s']} s"
        )

    def destroy(self) -> None:
        """`terraform destroy`, with its protection lifted as the documentation says; nothing is left in AWS."""
        shutil.copy(self.terraform / "destroy_override.tf.example", self.terraform / "destroy_override.tf")
        self._terraform("destroy", "destroy", "-input=false", "-auto-approve")
        ec2 = simulated_aws.ec2(self.state.url)
        instances = [i for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]
        running = [i["InstanceId"] for i in instances if i["State"]["Name"] != "terminated"]
        left = [*running, *ec2.describe_addresses()["Addresses"], *ec2.describe_volumes()["Volumes"]]
        self._hold(not left, f"still in AWS: {left}", "destroy")

    def end(self) -> None:
        """Tear everything down. Raises `RehearsalError` that names what is left."""
        left = tear_down(self.network)
        forget(self.directory)
        (self.directory / "rehearsal.json").unlink(missing_ok=True)
        if left:
            raise RehearsalError(f"still there: {', '.join(left)}")

    # --- what they are made of -------------------------------------------------------------------

    def _add_host(self, name: str, address: str, zone: str) -> None:
        has_volume = name.startswith("node")
        self.hosts[name] = Host(name, address, zone, has_volume, self.network, self.directory, self.access)
        self.state.hosts[name] = (address, zone)

    def _set(self, settings: dict[str, object]) -> None:
        """Terraform's variables, beside those that are set."""
        file = self.terraform / "rehearsal.auto.tfvars.json"
        known = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**known, **settings}, indent=2))

    def _learn_hosts(self) -> None:
        """From Terraform's outputs."""
        outputs = {name: output["value"] for name, output in self._terraform_outputs().items()}
        self.state.elastic_ip = outputs["elastic_ip"]
        for role in ("nodes", "routers"):
            for name, machine in outputs[role].items():
                if name not in self.hosts:
                    self._add_host(name, machine["private_ip"], machine["zone"])
        self._save()

    def _boot(self, names: Iterable[str]) -> None:
        hosts = [self.hosts[name] for name in names]
        for host in hosts:
            host.create()
            host.power_on(self._base)
        for host in hosts:
            host.wait()

    def _save(self) -> None:
        (self.directory / "rehearsal.json").write_text(json.dumps(asdict(self.state), indent=2))

    def _group(self, name: str) -> Path:
        return control_group(self.network.tag, name)

    def _logged(self, phase: str, command: list[str], directory: Path = REPOSITORY) -> None:
        log = self.logs / f"{phase}.log"
        logged(command, log, self._group("phases"), self._environment(), directory)

    def _environment(self) -> dict[str, str]:
        """The environment of every tool: nothing of the user's own account is in it."""
        inherited = simulated_aws.environment(self.state.url)
        return {
            **inherited,
            **self.access.environment,
            "ANSIBLE_CONFIG": str(REPOSITORY / "ansible/ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "1",
            "TF_IN_AUTOMATION": "1",
            "FORTDB_CA": str(self.secrets / "ca/ca.pem"),
            "FORTDB_USER": "admin",
            "FORTDB_PASSWORD_FILE": str(self._password_file),
            "PATH": f"{Path(sys.executable).parent}:{inherited['PATH']}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(REPOSITORY),
        }

    @property
    def _password_file(self) -> Path:
        return self.secrets / "users/admin.password"

    def _checks(self, *only: str) -> list[str]:
        """pytest on the deployment, as in the README."""
        return [
            *(sys.executable, "-m", "pytest", *(only or ("tests/deploy",))),
            *("-q", "--tb=short", "-p", "no:cacheprovider"),
            *("--timeout=600", "--ansible-inventory=inventory/aws_ec2.yml"),
            *(f"--ssh-config={self.access.config}", f"--endpoint={self.state.elastic_ip}:{PORT}"),
        ]

    def _terraform(self, phase: str, *words: str) -> None:
        self._logged(phase, ["terraform", *words[:1], "-no-color", *words[1:]], self.terraform)

    def _terraform_outputs(self) -> dict[str, Any]:
        text = self._call("terraform", f"-chdir={self.terraform}", "output", "-json")
        outputs: dict[str, Any] = json.loads(text)
        return outputs

    def _play(
        self,
        phase: str,
        *options: str,
        playbook: str = "site.yml",
        absent: Collection[str] = (),
        **words: object,
    ) -> dict[str, dict[str, int]]:
        """A playbook, told `words` by -e; the recap of every host that is not absent."""
        further = {
            **words,
            "fortdb_router_environment": simulated_aws.variables(self.state.url),
            "fortdb_secrets": str(self.secrets),
            "firewall_client_sources": [self.network.clients_cidr],
            "firewall_ssh_sources": [f"{self.network.operator}/32"],
        }
        inventory = ["-i", "inventory/aws_ec2.yml", f"ansible/{playbook}", "-e", json.dumps(further)]
        self._logged(phase, [beside_python("ansible-playbook"), *inventory, *options])
        recap = recap_of(self._log(phase))
        expected = set(self.hosts) - set(absent)
        self._hold(expected <= set(recap), f"the play was only for {sorted(recap)}", phase)
        return {host: recap[host] for host in expected}

    def _log(self, phase: str) -> str:
        return (self.logs / f"{phase}.log").read_text()

    def _ring(self) -> Any:
        """As the router says it."""
        return json.loads(self._client(*self._fortdb("--host", self.state.elastic_ip, "ring", "--json")))

    def _processes(self) -> dict[str, str]:
        """The main processes of what was deployed."""
        show = "systemctl show --property=Id,MainPID,NRestarts 'fortdb-*' etcd.service"
        return {name: host.ssh(show) for name, host in self.hosts.items()}

    def _call(self, *command: str, check: bool = True) -> str:
        return call(*command, check=check, environment=self._environment(), directory=REPOSITORY)

    def _outside(self) -> list[str]:
        return ["ip", "netns", "exec", self.network.namespace(CLIENT)]

    def _client(self, *command: str, check: bool = True) -> str:
        """A command where a client would be."""
        return self._call(*self._outside(), *command, check=check)

    def _redis_cli(self, *words: str, password: str = "") -> str:
        """What Redis' own command line is answered."""
        ca = str(self.secrets / "ca/ca.pem")
        where = ["-h", self.state.elastic_ip, "-p", str(PORT), "--tls", "--cacert", ca, "--user", "admin"]
        secret = {"REDISCLI_AUTH": password or self._password_file.read_text().strip()}
        command = [*self._outside(), "redis-cli", *where, "--no-auth-warning", *words]
        return call(*command, environment={**self._environment(), **secret}, check=False).strip()

    def _shown(self) -> str:
        """The certificate that clients see at the Elastic IP."""
        script = f"import ssl; print(ssl.get_server_certificate({(self.state.elastic_ip, PORT)}))"
        return self._client(sys.executable, "-c", script)

    @contextmanager
    def _load(self, name: str) -> Iterator[Callable[[], Any]]:
        """Clients write all the while. What is handed out tells, after it, what they heard; none of it is lost."""
        file = self.directory / name
        file.unlink(missing_ok=True)
        load = [sys.executable, "-m", "rehearsal.load", self.state.elastic_ip, str(PORT), str(file)]

        def heard() -> Any:
            found = json.loads(self._client(*load, "check"))
            self._hold(not found["lost"], f"acknowledged writes are lost: {found['lost'][:5]}", "load")
            return found

        with (self.logs / "load.log").open("a") as log:
            process = subprocess.Popen(
                within(self._group("load"), [*self._outside(), *load]),
                stdin=subprocess.PIPE,
                stderr=log,
                cwd=REPOSITORY,
                env=self._environment(),
            )
            try:
                wait_until(lambda: file.exists() and file.stat().st_size > 0, "the first write", 30)
                yield heard
            finally:
                process.communicate()

    def _fortdb(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "fortdb", *words]

    def _expect(self, answer: str, *words: str, exact: bool = True) -> None:
        said = self._client(*self._fortdb("--host", self.state.elastic_ip, *words)).removesuffix("\n")
        self._hold(not exact or said == answer, f"fortdb {' '.join(words)} answered {said!r}", "client")

    def _answers(self, key: str) -> bool:
        said = self._client(*self._fortdb("--host", self.state.elastic_ip, "get", key), check=False)
        return said.removesuffix("\n") == "through it all"

    def _healthy(self) -> float:
        """Seconds until every router says that all is well."""
        command = "sudo fortdb status >/dev/null && echo well"
        routers = [host for host in self.hosts.values() if not host.has_volume]
        are_well: Callable[[], bool] = lambda: all(  # noqa: E731
            router.ssh(command, check=False).strip() == "well" for router in routers
        )
        return wait_until(are_well, "the ring to be healthy", HEALTHY_S_MAX, every_s=0.5)

    def _active_router(self) -> Host:
        leads = simulated_aws.leads(simulated_aws.ec2(self.state.url).describe_addresses()["Addresses"])
        holder = leads.get(self.state.elastic_ip)
        found = [host for host in self.hosts.values() if host.address == holder]
        self._hold(len(found) == 1, f"the Elastic IP leads to {holder}", "move_ip")
        return found[0]

    def _hold_unchanged(self, recap: dict[str, dict[str, int]], phase: str) -> None:
        changed = {host: counts["changed"] for host, counts in recap.items() if counts["changed"]}
        self._hold(not changed, f"{phase} changed something: {changed}", phase)

    def _hold(self, condition: bool, otherwise: str, phase: str) -> None:
        if not condition:
            raise RehearsalError(f"{otherwise}; see {self.logs}/{phase}.log")


DEPLOYED = (
    ("base system of the hosts", Rehearsal.begin),
    ("simulated AWS", Rehearsal.aws),
    ("terraform apply", Rehearsal.apply),
    ("hosts boot", Rehearsal.boot),
    ("ansible-playbook", Rehearsal.deploy),
)
SHOWN = (
    ("ansible-playbook again", Rehearsal.again),
    ("testinfra", Rehearsal.verify),
    ("testinfra on what is broken", Rehearsal.broken),
    ("clients on the Elastic IP", Rehearsal.client),
    ("certificates and passwords change under load", Rehearsal.rotate),
    ("two nodes more", Rehearsal.grow),
    ("active router's host dies", Rehearsal.move_ip),
    ("node reboots", Rehearsal.reboot),
    ("node's host dies under load", Rehearsal.kill_node),
    ("terraform destroy", Rehearsal.destroy),
)
ALL = (*DEPLOYED, *SHOWN)


def recap_of(output: str) -> dict[str, dict[str, int]]:
    """Host -> its counts, from the end of what ansible-playbook says."""
    recap = output.rpartition("PLAY RECAP")[2]
    lines = re.findall(r"^(\S+)\s+: (ok=.*)$", recap, flags=re.MULTILINE)
    return {
        host: {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", counts)}
        for host, counts in lines
    }
