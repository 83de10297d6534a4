"""Hosts out of Linux namespaces, joined by a bridge: nothing is shared but a read-only Python environment.

Each host has its own network, mounts (with its own /tmp, /root, /home, /run and /dev/shm), process numbers, name and
System V memory. The bridge lies in a network namespace of its own, so nothing changes outside. A host crashes by
SIGKILL for its process 1; its cable is pulled at the bridge. Needs root, iproute2 and util-linux.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
_NETWORK = "10.77.0"
_OUTSIDE = "outside"
S3_PORT, DASHBOARD_PORT = 9000, 8265
#: With Ray's own settings a host that is silent counts as lost after about a minute.
_SOON_LOST = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "4000",
    "RAY_health_check_failure_threshold": "4",
}

_WRONG_CLOCK = Path(__file__).with_name("wrong_clock")

#: However this process ends, nothing of the hosts stays.
_ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL")

#: Process 1 of a host. Folders that are shown lie in the ones that are hidden, so they are kept aside meanwhile.
_INIT = """
set -eu
name=$1 etc_hosts=$2; shift 2
hostname "$name"
mount -t tmpfs tmpfs /mnt
number=0
for shown in "$@"; do
  number=$((number + 1)); mkdir "/mnt/$number"; mount --bind "$shown" "/mnt/$number"
done
mount --bind "$etc_hosts" /etc/hosts
for hidden in /tmp /var/tmp /root /home /run /dev/shm "$HIDDEN"; do
  mkdir -p "$hidden"; mount -t tmpfs tmpfs "$hidden"
done
number=0
for shown in "$@"; do
  number=$((number + 1)); mkdir -p "$shown"; mount --bind "/mnt/$number" "$shown"
  mount -o remount,bind,ro "$shown"
done
mount -t proc proc /proc
mount -o remount,bind,ro /
chmod 1777 /tmp /dev/shm
ip link set lo up
echo ready
while true; do sleep 3600 & wait $! || true; done
"""


def why_not() -> str | None:
    """Why no hosts can be made here; None when they can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "hosts of namespaces need Linux and root"
    missing = [name for name in ("ip", "unshare", "nsenter", "mount", "setpriv") if shutil.which(name) is None]
    if missing:
        return f"hosts of namespaces need {missing[0]} (iproute2, util-linux)"
    tried = ["unshare", "--net", "--mount", "--pid", "--fork", "ip", "link", "add", "bridge", "type", "bridge"]
    if subprocess.run(tried, capture_output=True, check=False).returncode:
        return "this machine may not make namespaces"
    return None


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it printed."""

    code: int
    output: str


@dataclass
class Host:
    """One host.

    Attributes:
        pid: its process 1, as seen from here.
        is_plugged: its cable is.
        start_of_ray: the command that starts Ray there, while that is not waited for.
    """

    name: str
    address: str
    pid: int
    network: "Network"
    is_plugged: bool = True
    start_of_ray: subprocess.Popen | None = None

    def argv(self, *command: str, cwd: str = "/tmp", environment: dict[str, str] | None = None) -> list[str]:
        """What runs a command there, with an environment of its own."""
        variables = {
            "PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",  # lines of a job are waited for
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # at Ray's own 15 workers hardly run beside others
            "RAY_API_SERVER_ADDRESS": f"http://{self.network.address_of('head')}:{DASHBOARD_PORT}",
            "AWS_ENDPOINT_URL": f"http://{self.network.address_of(_OUTSIDE)}:{S3_PORT}",
            "AWS_ACCESS_KEY_ID": "private",
            "AWS_SECRET_ACCESS_KEY": "private",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            **_SOON_LOST,
            **(environment or {}),
        }
        enter = ["nsenter", f"--target={self.pid}", "--net", "--mount", "--pid", "--uts", "--ipc", f"--wdns={cwd}"]
        return [*enter, "--", "env", "-i", *(f"{name}={value}" for name, value in variables.items()), *command]

    def run(self, *command: str, check: bool = True, timeout: float = 120, **options) -> Done:
        """Run a command there to its end.

        Raises:
            RuntimeError: it failed, unless that is not checked.
        """
        done = subprocess.run(
            self.argv(*command, **options),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout,
            check=False,
        )  # fmt: skip
        if check and done.returncode:
            raise RuntimeError(f"{self.name}: {shlex.join(command)} ended with {done.returncode}\n{done.stdout}")
        return Done(done.returncode, done.stdout)

    def start(self, *command: str, log: Path, **options) -> subprocess.Popen:
        """Start a command there; what it prints goes into a file here."""
        with log.open("w") as output:
            return subprocess.Popen(
                self.argv(*command, **options), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )

    def link(self, state: str) -> None:
        """`down`: the cable is pulled; `up`: it is back."""
        self.network.at_bridge("ip", "link", "set", f"to-{self.name}", state)
        self.is_plugged = state == "up"

    def unplugged_for(self, seconds: float) -> None:
        self.link("down")
        time.sleep(seconds)
        self.link("up")

    def without_route_for(self, seconds: float, other: "Host") -> None:
        """Let what it sends to another host be refused at once for so long."""
        self.run("ip", "route", "add", "unreachable", other.address)
        time.sleep(seconds)
        self.run("ip", "route", "del", "unreachable", other.address)

    def crash(self) -> None:
        """All of it is gone at once, and nobody is told."""
        self.network.at_bridge("ip", "link", "del", f"to-{self.name}")
        os.kill(self.pid, signal.SIGKILL)
        self.network.hosts.pop(self.name)

    def is_in_cluster(self) -> bool:
        """Whether Ray is at work on it, or about to; it ends itself once it hears that the host was counted as lost."""
        is_starting = self.start_of_ray is not None and self.start_of_ray.poll() is None
        return self.is_plugged and (is_starting or any("/raylet/raylet " in title for title in self.titles()))

    def titles(self) -> Iterator[str]:
        """Command lines of the processes on it."""
        own = _pid_namespace(self.pid)
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if _pid_namespace(int(process.name)) == own:
                    yield (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()


def _pid_namespace(pid: int) -> str:
    return str(Path(f"/proc/{pid}/ns/pid").readlink())


@dataclass
class Network:
    """A bridge and the hosts at it."""

    folder: Path
    bridge: subprocess.Popen
    hosts: dict[str, Host] = field(default_factory=dict)
    _numbers: dict[str, int] = field(default_factory=dict)
    _processes: list[subprocess.Popen] = field(default_factory=list)

    @classmethod
    def start(cls, folder: Path) -> "Network":
        bridge = subprocess.Popen([*_ENDS_WITH_US, "unshare", "--net", "sleep", "infinity"])
        network = cls(folder, bridge)
        here = Path("/proc/self/ns/net").readlink()
        wait_until(lambda: Path(f"/proc/{bridge.pid}/ns/net").readlink() != here, "the bridge")
        network.at_bridge("ip", "link", "add", "bridge", "type", "bridge")
        network.at_bridge("ip", "link", "set", "bridge", "up")
        return network

    def at_bridge(self, *command: str) -> None:
        subprocess.run(["nsenter", f"--target={self.bridge.pid}", "--net", "--", *command], check=True)

    def address_of(self, name: str) -> str:
        return f"{_NETWORK}.{self._numbers.setdefault(name, len(self._numbers) + 1)}"

    def add(
        self, name: str, *, shows: Sequence[Path] = (), hostname: str | None = None, is_debian: bool = False
    ) -> Host:
        """Start a host.

        Args:
            shows: folders that it has too, read-only, beside the Python environment.
            hostname: where that is another than its name here.
            is_debian: its name stands for 127.0.1.1 in its /etc/hosts, as Debian installs it.
        """
        address = self.address_of(name)
        etc_hosts = self.folder / f"{name}.hosts"
        etc_hosts.write_text(f"127.0.0.1 localhost\n{'127.0.1.1' if is_debian else address} {hostname or name}\n")
        places = [sys.prefix, str(Path(sys.executable).resolve().parents[1]), *map(str, shows)]
        process = subprocess.Popen(
            [*_ENDS_WITH_US, "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc",
             "--propagation=private", "bash", "-c", _INIT, "init", hostname or name, str(etc_hosts), *places],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env={**os.environ, "HIDDEN": str(REPOSITORY)},
        )  # fmt: skip
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{name} did not start; see above")
        self._processes.append(process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        host = self.hosts[name] = Host(name, address, int(children[0]), self)
        self._plug(host)
        return host

    def _plug(self, host: Host) -> None:
        port = ["ip", "link", "add", f"to-{host.name}", "type", "veth", "peer", "name", "eth0"]
        self.at_bridge(*port, "netns", str(host.pid))
        self.at_bridge("ip", "link", "set", f"to-{host.name}", "master", "bridge", "up")
        inside = ["nsenter", f"--target={host.pid}", "--net", "--", "ip"]
        subprocess.run([*inside, "address", "add", f"{host.address}/24", "dev", "eth0"], check=True)
        subprocess.run([*inside, "link", "set", "eth0", "up"], check=True)
        # Nobody answers there; with a way out a program can ask the kernel which address is its own.
        subprocess.run([*inside, "route", "add", "default", "via", f"{_NETWORK}.254"], check=True)

    def stop(self) -> None:
        for process in [*self._processes, self.bridge]:
            process.kill()  # process 1 of a host ends with it, and all others there with that
            process.wait()


#: What a line of progress says of time.
_TIMES = re.compile(r"[(,] *(about )?[\d.]+ (s|min|h)\b.*$")


@dataclass
class Job:
    """A job that was submitted from outside; its log is read as it grows."""

    process: subprocess.Popen
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_line(self, text: str, timeout: float = 400) -> None:
        wait_until(lambda: text in self.output or self.process.poll() is not None, f"{text!r}", timeout=timeout)
        assert text in self.output, f"the job ended before {text!r}\n{self.output}"

    def wait(self, timeout: float = 300, meanwhile: Callable[[], None] = lambda: None) -> Done:
        deadline = time.monotonic() + timeout
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"the job hangs\n{self.output}"
            meanwhile()
            time.sleep(0.2)
        return Done(self.process.returncode, self.output)

    def longest_standstill(self) -> tuple[float, str]:
        """For how many seconds all lines of the log said the same but for the time that it took, and what."""
        longest, said, since = (0.0, ""), "", 0.0
        for clock, line in re.findall(r"^(\d\d:\d\d:\d\d) (.*)$", self.output, re.MULTILINE):
            hours, minutes, seconds = map(int, clock.split(":"))
            now, words = hours * 3600 + minutes * 60 + seconds, _TIMES.sub("", line)
            longest = max(longest, (now - since, said)) if said else longest
            if words != said:
                said, since = words, now
        return longest


@dataclass
class RayCluster:
    """A head and nodes with Ray, and a host outside with an S3 server, from where jobs are submitted."""

    network: Network
    outside: Host
    _cores: dict[str, int] = field(default_factory=dict)
    _jobs: list[Job] = field(default_factory=list)
    _num_fresh: int = 0

    @classmethod
    def start(cls, folder: Path) -> "RayCluster":
        network = Network.start(folder)
        outside = network.add(_OUTSIDE, shows=[REPOSITORY])
        server = folder / "s3.log"
        here = str(Path(__file__).with_name("s3_host.py"))
        outside.start("python", "-u", here, outside.address, str(S3_PORT), log=server)
        wait_until(lambda: "serving" in server.read_text(), "the S3 server")
        return cls(network, outside)

    def add_node(self, name: str, *, cores: int, clock_off_s: int = 0, waits: bool = True, **options) -> Host:
        """Start a host with Ray; the one that is called head is that.

        Args:
            clock_off_s: how far the clock of all Python programs that Ray starts there is ahead.
            waits: until Ray has started.
        """
        environment = None
        if clock_off_s:
            options["shows"] = [_WRONG_CLOCK]
            environment = {"PYTHONPATH": str(_WRONG_CLOCK), "CLOCK_OFF_S": str(clock_off_s)}
        host = self.network.add(name, **options)
        self._cores[name] = cores
        command = ["ray", "start", f"--node-ip-address={host.address}", f"--num-cpus={cores}", "--disable-usage-stats",
                   f"--object-store-memory={200 << 20}"]  # fmt: skip
        if name == "head":
            command += ["--head", "--port=6379", "--dashboard-host=0.0.0.0", f"--dashboard-port={DASHBOARD_PORT}"]
        else:
            command.append(f"--address={self.network.address_of('head')}:6379")
        if not waits:
            log = self.network.folder / f"{name}.log"
            host.start_of_ray = host.start(*command, environment=environment, log=log)
            return host
        host.run(*command, timeout=240, environment=environment)
        if name == "head":
            probe = f"import socket; socket.create_connection(('{host.address}', {DASHBOARD_PORT}), 2)"
            wait_until(lambda: self.outside.run("python", "-c", probe, check=False).code == 0, "the dashboard")
        return host

    def add_fresh(self, *, cores: int = 1, **options) -> Host:
        """Start a host that was never there before."""
        self._num_fresh += 1
        return self.add_node(f"fresh{self._num_fresh}", cores=cores, **options)

    def workers(self) -> list[Host]:
        """The hosts beside the head on which Ray is at work."""
        found = [host for name, host in self.network.hosts.items() if name in self._cores and name != "head"]
        return [host for host in found if host.is_in_cluster()]

    def settle(self, *cores: int) -> None:
        """Have hosts of so many cores beside the head, and no job. Hosts that are too many, or lost, crash."""
        for job in self._jobs:
            if job.process.poll() is None:  # a test has failed meanwhile
                self.stop(job)
        missing, kept = list(cores), self.workers()
        for name, count in list(self._cores.items()):
            if name == "head" or name not in self.network.hosts:
                continue
            if self.network.hosts[name] in kept and count in missing:
                missing.remove(count)
            else:
                self.network.hosts[name].crash()
        for count in missing:
            self.add_fresh(cores=count, waits=False)
        self.wait_started()
        assert len(self.workers()) == len(cores)

    def wait_started(self) -> None:
        starts = [host.start_of_ray for host in self.workers()]
        wait_until(lambda: all(start is None or start.poll() is not None for start in starts), "Ray", timeout=240)

    def refill(self, count: int) -> None:
        """Have at least so many hosts of a core beside the head, as what starts hosts for a cluster does."""
        for _ in range(count - len(self.workers())):
            self.add_fresh(waits=False)

    def submit(self, *command: str) -> Job:
        """`ray job submit` of what the repository holds; the hosts have no code of dxmc."""
        number = len(list(self.network.folder.glob("job*.log")))
        log = self.network.folder / f"job{number}.log"
        argv = ("ray", "job", "submit", "--working-dir", ".", "--", *command)
        self._jobs.append(Job(self.outside.start(*argv, log=log, cwd=str(REPOSITORY)), log))
        return self._jobs[-1]

    def stop(self, job: Job) -> None:
        """`ray job stop`."""
        found = re.search(r"raysubmit_\w+", job.output)
        assert found is not None, job.output
        self.outside.run("ray", "job", "stop", found[0])

    def store_stands_still_for(self, seconds: float) -> None:
        """Let the S3 server take requests and not answer for so long."""
        self.outside.run("pkill", "-STOP", "--full", "s3_host.py")
        time.sleep(seconds)
        self.outside.run("pkill", "-CONT", "--full", "s3_host.py")

    def host_at(self, *titles: str, timeout: float = 120) -> Host:
        """The first host on which a process is found whose command line begins with one of these."""
        found: list[Host] = []

        def look() -> bool:
            hosts = list(self.network.hosts.values())
            found.extend(host for host in hosts if any(title.startswith(titles) for title in host.titles()))
            return bool(found)

        wait_until(look, f"a process {titles}", timeout=timeout)
        return found[0]


def wait_until(is_so: Callable[[], bool], what: str, *, timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not is_so():
        assert time.monotonic() < deadline, f"not within {timeout:.0f} s: {what}"
        time.sleep(0.1)
