"""A cluster that `ray up` made on the simulated cloud's real machines, and its jobs."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cloud.laptop import BIN, REPOSITORY, Laptop
from tests.cloud.machines import CloudProcess, process_list_watched, wait_for
from tests.conftest import BUCKET
from tests.storage.ceph import ACCESS_KEY, SECRET_KEY, CephServer

CLOUD = {
    "boot_s": {"cpu": [2, 2], "single": [3, 3], "multi": [4, 4]},
    "terminating_s": [2, 2],
    # One launch more than the provider's own, of which its pace knows nothing: the stranger's.
    "launch_burst": 2,
}


class Cluster:
    """One cluster of a test, with the laptop that drives it and the cloud it is on."""

    def __init__(self, cloud: CloudProcess, laptop: Laptop, yaml: str, stranger: str) -> None:
        self.cloud = cloud
        self.laptop = laptop
        self.yaml = yaml
        self.stranger = stranger

    @property
    def name(self) -> str:
        return Path(self.yaml).stem

    def ray(self, command: str, *words: str, **options: Any) -> str:
        return self.laptop.ray(command, self.yaml, *words, **options)

    def nodes(self, kind: str) -> list[dict[str, Any]]:
        """The living instances of a kind, `head` or `worker`, as the bill has them."""
        rows = self.cloud.call("GET", "/sim/ledger")["rows"]
        return [r for r in rows if r["alive"] and r["tags"].get("ray-node-type") == kind]

    def address(self, row: Mapping[str, Any]) -> str:
        return self.cloud.active(row["id"])

    @contextmanager
    def job(self, *command: str) -> Iterator["Job"]:
        """`ray job submit` through `ray dashboard`, with what that says to export: without the
        token it is refused. The job's output goes to a file."""
        with self.laptop.dashboard(self.yaml) as address:
            wait_for("the dashboard's port", lambda: self._answers(address), 60)
            self._check_token_is_needed(address)
            output = self.laptop.home / "job.out"
            with output.open("wb") as file:
                process = subprocess.Popen(
                    [
                        *(str(BIN / "ray"), "job", "submit", "--address", address),
                        *("--working-dir", ".", "--", *command),
                    ],
                    env=self.laptop.environment | self.laptop.token_variables(),
                    cwd=REPOSITORY,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
            try:
                yield Job(process, output)
            finally:
                process.terminate()
                process.wait(60)

    def down_to_nothing(self) -> None:
        """`ray down`, and a bill that has ended: nothing of the cluster runs, nothing else did."""
        said = self.ray("down", "--yes", timeout_s=400)
        self.laptop.note("ray down")
        assert "0 instances of" in said and "are running" in said
        self._check_cost(said)
        # What is not of the cluster is left alone.
        assert self.cloud.row(self.stranger)["status"] == "active"
        time.sleep(1.5)  # the account's pace, which `ray down` has just used
        ended = {"instance_ids": [self.stranger]}
        self.cloud.call("POST", "/instance-operations/terminate", ended)
        self.cloud.call("POST", "/sim/invariants", {"expect_none": True})
        seen = self.cloud.call("GET", "/sim/invariants")
        for name in (
            *("alive", "leaked_instances", "leaked_seconds", "burn_cents_per_hour"),
            *("duplicate_nonces", "duplicate_names", "launches_over_rate"),
        ):
            assert seen[name] == 0, f"{name}: {seen}"
        # Laptop and head take turns, but a busy machine may be late with a request whose turn it
        # was.
        assert seen["requests_over_rate"] <= seen["requests"] / 20, seen
        self.laptop.note(f"{seen['requests_over_rate']} of {seen['requests']} over the rate")

    def _check_cost(self, said: str) -> None:
        """The sum covers every machine of the cluster's, those of its head too."""
        found = re.search(r"This run cost about \$([\d.]+\d)(?:, and at most \$([\d.]+\d))?", said)
        assert found, said
        rows = self.cloud.call("GET", "/sim/ledger")["rows"]
        billed = sum(r["cents"] for r in rows if r["tags"].get("ray-cluster-name") == self.name)
        told = [float(dollars) * 100 for dollars in found.groups(default="0")]
        assert sum(told) >= billed, f"{found[0]}, and {billed / 100:.2f} is billed"
        self.laptop.note(f"{found[0]}; billed ${billed / 100:.2f}")

    def _check_token_is_needed(self, address: str) -> None:
        listing = (str(BIN / "ray"), "job", "list", "--address", address)
        refused = self.laptop.run(*listing, check=False)
        assert refused.returncode != 0 and "Authentication required" in refused.stdout
        told = [f"{name}={value}" for name, value in self.laptop.token_variables().items()]
        self.laptop.run("env", *told, *listing)

    def _answers(self, address: str) -> bool:
        code = f"import urllib.request as u; u.urlopen('{address}/api/version', timeout=5)"
        done = self.laptop.run(sys.executable, "-c", code, check=False)
        return done.returncode == 0 or "401" in done.stdout


class Job:
    """A submitted job."""

    def __init__(self, process: "subprocess.Popen[bytes]", output: Path) -> None:
        self.process = process
        self._output = output

    @property
    def text(self) -> str:
        return self._output.read_text(errors="replace")

    def wait_for(self, pattern: str, timeout_s: float = 300.0) -> None:
        def seen() -> bool:
            assert self.process.poll() in (None, 0), self.text[-5000:]
            return re.search(pattern, self.text) is not None

        wait_for(pattern, seen, timeout_s)

    def finish(self, timeout_s: float = 400.0) -> None:
        assert self.process.wait(timeout_s) == 0, self.text[-5000:]


@contextmanager
def cluster_up(folder: Path, ceph: CephServer, v2: bool, **changes: Any) -> Iterator[Cluster]:
    """A cluster after `ray up`. Its machines reach the S3 server, with the owner's credentials;
    `changes` are fields of its YAML."""
    flags = ("--run-dir", str(folder / "run"), "--forward", str(ceph.port), "--memory-gib", "5")
    with CloudProcess("root", folder, *flags, settings=CLOUD) as cloud:
        stranger_id = cloud.launch("cpu_4x_general")
        switch = {"RAY_UP_enable_autoscaler_v2": str(int(v2))}
        laptop = Laptop(folder / "home", f"{cloud.url}/api/v1", switch)
        credentials = laptop.home / "aws-credentials"
        credentials.write_text(
            f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
        )
        mounts = {"~/.aws/credentials": str(credentials)}
        yaml = laptop.write_cluster(f"e2e-v{1 + v2}", file_mounts=mounts, **changes)
        versions = [laptop.version()]
        with process_list_watched(laptop.secrets):
            said = laptop.ray("up", "--yes", yaml, timeout_s=400)
            laptop.note("ray up")
            cloud.identities.append(laptop.home / ".raylambda" / "id_ed25519")
            # Both sides run the same code, and the head's autoscaler is at work. Asked twice: the
            # code may be edited meanwhile.
            versions.append(laptop.version())
            at_work = [f"autoscaler v{1 + v2} is at work: {version}" for version in versions]
            assert any(words in said for words in at_work), said
            yield Cluster(cloud, laptop, yaml, stranger_id)


def result_uri(ceph: CephServer, cloud: CloudProcess, name: str) -> str:
    """A place in the bucket, as laptop and machines alike can reach it."""
    host = cloud.url.removeprefix("http://").partition(":")[0]
    return ceph.uri(BUCKET, name, endpoint=f"{host}:{ceph.port}")
