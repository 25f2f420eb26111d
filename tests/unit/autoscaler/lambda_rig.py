"""What the provider's tests stand on: scripted answers, and whole hosts in virtual time."""

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3 import HTTPResponse

from autoscaler.domain import ApiKey, Lane
from autoscaler.events import EventLog
from autoscaler.instances.acquire import Acquirer, Choice
from autoscaler.instances.journal import Journal
from autoscaler.instances.launcher import Launched, Launcher, NodeSpec
from autoscaler.instances.reconcile import Reconciler
from autoscaler.instances.teardown import Teardown
from autoscaler.instances.terminator import Terminator
from autoscaler.instances.unavailable_offerings import UnavailableOfferings
from autoscaler.lambda_cloud import tags
from autoscaler.lambda_cloud.catalog import CatalogSource
from autoscaler.lambda_cloud.client import LambdaClient
from autoscaler.lambda_cloud.rate_limit import SharedRateLimit
from autoscaler.lambda_cloud.transport import Transport
from autoscaler.money.budget import Caps
from autoscaler.money.ledger import Ledger
from autoscaler.simulator import CloudConfig, InProcessAdapter, Simulation
from autoscaler.state import State

URL = "https://lambda.test/api/v1"
SECRET = "secret_key_0123456789abcdef"
REGION = "us-west-1"
NO_EVENTS = EventLog(Path(os.devnull))


@dataclass
class Scripted:
    """One answer: JSON, raw bytes, or an exception to raise."""

    status: int = 200
    body: object = None
    raw: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    error: Exception | None = None


class ScriptedAdapter(BaseAdapter):
    """Answers in order, and keeps what it was sent."""

    def __init__(self, *answers: Scripted) -> None:
        super().__init__()
        self.answers = list(answers)
        self.requests: list[requests.PreparedRequest] = []
        self.timeouts: list[object] = []

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        self.requests.append(request)
        self.timeouts.append(options["timeout"])
        answer = self.answers.pop(0)
        if answer.error is not None:
            raise answer.error
        raw = answer.raw if answer.raw is not None else json.dumps(answer.body).encode()
        response = HTTPResponse(
            io.BytesIO(raw), answer.headers, answer.status, preload_content=False
        )
        return HTTPAdapter().build_response(request, response)

    def close(self) -> None:
        pass

    @property
    def calls(self) -> list[str]:
        return [f"{r.method} {(r.url or '').removeprefix(URL)}" for r in self.requests]

    def bodies(self) -> list[Any]:
        return [json.loads(r.body) if r.body else None for r in self.requests]


class NoRateLimit:
    """Lets everything pass, and notes what it was asked."""

    def __init__(self) -> None:
        self.waits: list[Lane] = []
        self.back_offs: list[tuple[Lane, float | None]] = []

    def wait(self, lane: Lane, deadline_s: float | None = None) -> None:
        self.waits.append(lane)

    def back_off(self, lane: Lane, delay_s: float | None) -> float:
        self.back_offs.append((lane, delay_s))
        return delay_s or 1.0


@dataclass
class Wired:
    client: LambdaClient
    adapter: ScriptedAdapter
    rate_limit: NoRateLimit
    sleeps: list[float]


def scripted(
    *answers: Scripted,
    clock: Callable[[], float] = lambda: 0.0,
    events: EventLog = NO_EVENTS,
) -> Wired:
    adapter, rate_limit, sleeps = ScriptedAdapter(*answers), NoRateLimit(), []
    transport = Transport(
        ApiKey(SECRET),
        URL,
        rate_limit,
        events,
        clock=clock,
        sleep=sleeps.append,
        jitter=lambda: 1.0,
        adapter=adapter,
    )
    return Wired(LambdaClient(transport), adapter, rate_limit, sleeps)


def error_body(code: str, message: str = "no") -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


def instance_json(instance_id: str = "i1", **fields: Any) -> dict[str, Any]:
    return {
        "id": instance_id,
        "status": "active",
        "ssh_key_names": ["k"],
        "file_system_names": [],
        "region": {"name": REGION, "description": "California, USA"},
        "instance_type": {
            "name": "gpu_1x_a10",
            "description": "1x A10",
            "gpu_description": "A10",
            "price_cents_per_hour": 129,
            "specs": {"vcpus": 30, "memory_gib": 200, "storage_gib": 1434, "gpus": 1},
        },
        "actions": {},
        **fields,
    }


class Host:
    """One machine with its own state file (a laptop, or the head) and all the provider's parts."""

    def __init__(
        self,
        simulation: Simulation,
        folder: Path,
        *,
        sleep: Callable[[float], object] | None = None,
        on_nonce: Callable[[], str] = tags.new_nonce,
        url: str | None = None,
    ) -> None:
        """`url` is that of a server to speak to over a network; without, no socket is used."""
        clock = simulation.clock.now
        go: Any = sleep or simulation.advance
        self.simulation = simulation
        self.clock = clock
        self.key = ApiKey("sim")
        self.state = State(folder / "state.db", durable=False)
        self.events = EventLog(folder / "events.jsonl", clock)
        self.rate_limit = SharedRateLimit(
            self.state,
            self.key.account,
            clock=clock,
            sleep=go,
            jitter=lambda: 0.0,
        )
        transport = Transport(
            self.key,
            url or URL,
            self.rate_limit,
            self.events,
            clock=clock,
            sleep=go,
            jitter=lambda: 1.0,
            adapter=None if url else InProcessAdapter(simulation),
        )
        self.client = LambdaClient(transport)
        self.journal = Journal(self.state, self.key.account)
        self.ledger = Ledger(self.state, self.key.account)
        self.unavailable = UnavailableOfferings(self.state, self.key.account)
        self.catalog = CatalogSource(self.client, clock)
        self.terminator = Terminator(self.client, self.ledger, self.events, clock)
        self.launcher = Launcher(
            self.client,
            self.journal,
            self.ledger,
            self.terminator,
            self.events,
            clock=clock,
            sleep=go,
            make_nonce=on_nonce,
        )
        self.acquirer = Acquirer(
            self.client,
            self.catalog,
            self.unavailable,
            self.journal,
            self.launcher,
            self.events,
            clock=clock,
        )
        self.teardown = Teardown(
            self.client,
            self.journal,
            self.ledger,
            self.reconciler,
            self.terminator,
            self.events,
            clock=clock,
            sleep=go,
        )

    def reconciler(self, cluster: str = "demo") -> Reconciler:
        return Reconciler(
            cluster,
            self.launcher,
            self.journal,
            self.ledger,
            self.terminator,
            self.events,
            clock=self.clock,
        )

    def acquire(
        self,
        *candidates: str,
        within_s: float = 120.0,
        caps: Caps | None = None,
        regions: Sequence[str] = (REGION,),
        spec: NodeSpec | None = None,
    ) -> Launched:
        choice = Choice(candidates or ("gpu_1x_a10",), regions, caps or Caps())
        return self.acquirer.acquire(spec or worker_spec(), choice, self.clock() + within_s)

    def told(self, event: str) -> list[Mapping[str, object]]:
        return [record for record in self.events.tail(10_000) if record["event"] == event]


def worker_spec(cluster: str = "demo", kind: str = "worker") -> NodeSpec:
    ray_tags = {
        tags.NODE_KIND: kind,
        tags.USER_NODE_TYPE: f"{kind}.a10",
        tags.NODE_NAME: f"ray-{cluster}-{kind}",
        tags.LAUNCH_CONFIG: "0" * 52,
        tags.NODE_STATUS: "uninitialized",
    }
    return NodeSpec(cluster, ray_tags, "sim-key")


def simulation(**config: Any) -> Simulation:
    """An account with one SSH key. Its rates are enforced and counted."""
    made = Simulation(CloudConfig(**config))
    made.cloud.account.add_ssh_key("sim-key", "ssh-ed25519 AAAA test")
    return made
