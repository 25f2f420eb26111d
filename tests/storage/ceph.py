"""A real S3 server for tests: Ceph's RADOS Gateway on one monitor and one disk, without
systemd and containers, on free ports of 127.0.0.1, gone with the process that started it.

Debian packages: radosgw ceph-mon ceph-osd ceph-common (and util-linux for `setpriv`).
"""

import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import pyarrow.fs as pafs

PROGRAMS = ("radosgw", "radosgw-admin", "ceph-mon", "ceph-osd", "ceph", "monmaptool")
ACCESS_KEY = "TESTACCESSKEY0000001"
SECRET_KEY = "test/secret+key0123456789abcdefghijklmnop"
REGION = "us-east-1"
# Deleted objects must give their space back soon: a full disk stalls the gateway.
CONFIG = """[global]
fsid = {fsid}
mon_host = [v2:127.0.0.1:{mon_port}]
mon_initial_members = a
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
auth_allow_insecure_global_id_reclaim = false
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_ipv6 = false
osd_pool_default_size = 1
osd_pool_default_min_size = 1
mon_allow_pool_size_one = true
osd_pool_default_pg_num = 8
osd_pool_default_pgp_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_max_pg_per_osd = 1000
mon_warn_on_pool_no_redundancy = false
run_dir = {home}/run
pid_file = {home}/run/$name.pid
admin_socket = {home}/run/$name.asok
log_file = {home}/log/$name.log
mon_cluster_log_file = {home}/log/cluster.log
crash_dir = {home}/log
keyring = {home}/keyring
osd_objectstore = bluestore
bluestore_block_size = {disk_bytes}
bluestore_block_create = true
bluestore_fsck_on_mount = false
osd_memory_target = 939524096
osd_op_num_shards = 2
[mon.a]
host = localhost
mon_data = {home}/mon
mon_addr = 127.0.0.1:{mon_port}
mon_data_avail_crit = 1
mon_data_avail_warn = 2
[osd.0]
osd_data = {home}/osd
[client.rgw]
rgw_frontends = beast endpoint=127.0.0.1:{s3_port}
rgw_data = {home}/rgw
rgw_thread_pool_size = 32
rgw_enable_usage_log = false
rgw_gc_obj_min_wait = 2
rgw_gc_processor_period = 5
rgw_gc_processor_max_time = 5
debug_rgw = 0/0
debug_ms = 0/0
"""
KEYS = (
    ("mon.", "mon", "allow *"),
    ("client.admin", "mon", "allow *", "osd", "allow *"),
    ("osd.0", "mon", "allow profile osd", "osd", "allow *"),
    ("client.rgw", "mon", "allow rw", "osd", "allow rwx"),
)


def missing_programs() -> list[str]:
    """Names of the programs that are not installed; empty when the server can start."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class CephServer:
    """`start()`, then `uri(bucket)`; `kill_gateway()` and `start_gateway()` make an outage."""

    def __init__(self, disk_bytes: int = 12 << 30) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="rgw-"))  # short: sockets allow 107 characters
        self.port = free_port()
        self.disk_bytes = disk_bytes
        self._config = self.home / "ceph.conf"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client process needs besides the URI."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def uri(self, bucket: str, path: str = "", endpoint: str | None = None) -> str:
        query = f"endpoint_override={endpoint or self.endpoint}&scheme=http&region={REGION}"
        return f"s3://{bucket}/{path}?{query}"

    def create_bucket(self, bucket: str) -> None:
        pafs.S3FileSystem(
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
            endpoint_override=self.endpoint,
            scheme="http",
            region=REGION,
            allow_bucket_creation=True,
        ).create_dir(bucket)

    def start(self) -> "CephServer":
        for folder in ("mon", "osd", "run", "log", "rgw"):
            (self.home / folder).mkdir()
        fsid, mon_port = str(uuid.uuid4()), free_port()
        self._config.write_text(
            CONFIG.format(
                fsid=fsid,
                mon_port=mon_port,
                s3_port=self.port,
                home=self.home,
                disk_bytes=self.disk_bytes,
            )
        )
        self._make_keyring()
        self._start_monitor(fsid, mon_port)
        self._start_disk()
        self.start_gateway()
        self._admin(
            *("radosgw-admin", "-c", str(self._config), "user", "create", "--uid=test"),
            *("--display-name=test", f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}"),
        )
        return self

    def start_gateway(self) -> None:
        self._daemon("rgw", "radosgw", "-n", "client.rgw", "-c", str(self._config), "-f")
        self._wait_for("gateway", self._gateway_answers)

    def kill_gateway(self) -> None:
        """SIGKILL: what was being uploaded is cut off."""
        self._end("rgw")

    def stop(self) -> None:
        for name in ("rgw", "osd", "mon"):
            self._end(name)
        shutil.rmtree(self.home, ignore_errors=True)

    def _make_keyring(self) -> None:
        keyring = self.home / "keyring"
        for index, (name, *caps) in enumerate(KEYS):
            pairs = zip(caps[::2], caps[1::2], strict=True)
            create = ["--create-keyring"] if index == 0 else []
            words = [word for service, cap in pairs for word in ("--cap", service, cap)]
            self._admin("ceph-authtool", *create, str(keyring), "--gen-key", "-n", name, *words)

    def _start_monitor(self, fsid: str, mon_port: int) -> None:
        config, monmap = str(self._config), str(self.home / "monmap")
        address = f"[v2:127.0.0.1:{mon_port}]"
        self._admin("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, monmap)
        self._admin(
            *("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap),
            *("--keyring", str(self.home / "keyring"), "-c", config),
        )
        self._daemon("mon", "ceph-mon", "-i", "a", "-c", config, "-f")
        self._ceph("config", "set", "mon", "mon_allow_pool_size_one", "true")

    def _start_disk(self) -> None:
        config, disk_id = str(self._config), str(uuid.uuid4())
        self._ceph("osd", "new", disk_id, "0")
        self._admin("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk_id, "-c", config)
        self._daemon("osd", "ceph-osd", "-i", "0", "-c", config, "-f")
        self._ceph("osd", "crush", "add", "osd.0", "1.0", "root=default", "host=localhost")
        self._wait_for("disk", lambda: "1 up" in self._ceph("osd", "stat"))

    def _ceph(self, *words: str) -> str:
        return self._admin("ceph", "-c", str(self._config), *words)

    def _admin(self, *command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]} failed ({done.returncode}): {done.stderr[-2000:]}")
        return done.stdout

    def _daemon(self, name: str, *command: str) -> None:
        # The kernel ends the daemon when this process dies, however it dies.
        with (self.home / "log" / f"{name}.out").open("ab") as out:
            self._daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command], stdout=out, stderr=out
            )

    def _end(self, name: str) -> None:
        daemon = self._daemons.pop(name, None)
        if daemon is not None:
            daemon.kill()
            daemon.wait()

    def _gateway_answers(self) -> bool:
        daemon = self._daemons["rgw"]
        if daemon.poll() is not None:
            raise RuntimeError(f"radosgw ended with {daemon.returncode}; see {self.home}/log")
        try:
            urllib.request.urlopen(f"http://{self.endpoint}/", timeout=5).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    def _wait_for(self, what: str, ready, timeout_s: float = 120.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not ready():
            if time.monotonic() > deadline:
                raise RuntimeError(f"the {what} did not come up in {timeout_s:.0f} s")
            time.sleep(0.1)
