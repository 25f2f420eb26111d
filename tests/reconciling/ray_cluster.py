"""What runs on the machines: Ray nodes that come up after a setup, work, idle and die."""

from dataclasses import dataclass

from ray.core.generated.autoscaler_pb2 import ClusterResourceState, NodeStatus

from autoscaler.simulator import Simulation

SETUP_S = 40.0
HEARTBEAT_S = 30.0
GPU_NODE = {"CPU": 26.0, "GPU": 1.0}
HEAD_NODE = {"CPU": 4.0, "node:__internal_head__": 1.0}


@dataclass
class RayNode:
    instance_id: str
    node_type: str
    idle_since_s: float | None = None
    silent_since_s: float | None = None
    is_dead: bool = False

    @property
    def node_id(self) -> bytes:
        return self.instance_id.encode()[:28].ljust(28, b"0")


class RayCluster:
    """As Ray's control service on the head sees it. `demand` is in whole GPU nodes."""

    def __init__(self, simulation: Simulation, head_id: str) -> None:
        self._simulation = simulation
        self._now = simulation.clock.now
        self.head_id = head_id
        self.demand = 0
        self.nodes: dict[str, RayNode] = {}
        self.setups: dict[str, tuple[float, str]] = {}
        self.reinstalls = 0

    def runs(self, instance_id: str) -> bool:
        """Whether the machine is up, whatever the API shows."""
        instance = self._simulation.cloud.instances[instance_id]
        up = any(status == "active" for _, status in instance.history)
        return up and instance.alive and "shutdown" not in instance.faults

    def begin_setup(self, instance_id: str, node_type: str) -> None:
        node = self.nodes.get(instance_id)
        self.reinstalls += node is not None and not node.is_dead and self.runs(instance_id)
        self.setups[instance_id] = (self._now() + SETUP_S, node_type)

    def finish_setups(self) -> dict[str, bool]:
        """The setups that have ended, and whether each went well."""
        ended: dict[str, bool] = {}
        for instance_id, (ready_s, node_type) in list(self.setups.items()):
            if self._now() >= ready_s:
                del self.setups[instance_id]
                ended[instance_id] = self.runs(instance_id)
                if ended[instance_id]:
                    self.nodes[instance_id] = RayNode(instance_id, node_type)
        return ended

    def drain(self, instance_id: str) -> None:
        if node := self.nodes.get(instance_id):
            node.is_dead = True

    @property
    def running(self) -> list[RayNode]:
        return [node for node in self.nodes.values() if not node.is_dead]

    def step(self) -> None:
        """Lets heartbeats fail, and puts the work on the nodes there are."""
        now_s = self._now()
        for node in self.running:
            if self.runs(node.instance_id):
                node.silent_since_s = None
            elif node.silent_since_s is None:
                node.silent_since_s = now_s
            elif now_s - node.silent_since_s >= HEARTBEAT_S:
                node.is_dead = True
        for index, node in enumerate(self.running):
            if index < self.demand:
                node.idle_since_s = None
            elif node.idle_since_s is None:
                node.idle_since_s = now_s

    @property
    def pending(self) -> int:
        return max(0, self.demand - len(self.running))

    def idle_s(self, node: RayNode) -> float:
        return 0.0 if node.idle_since_s is None else self._now() - node.idle_since_s

    def state(self) -> ClusterResourceState:
        """What autoscaler v2 reads."""
        state = ClusterResourceState()
        head = state.node_states.add()
        head.node_id, head.instance_id = b"h" * 28, self.head_id
        head.ray_node_type_name, head.status = "head", NodeStatus.RUNNING
        for name, amount in HEAD_NODE.items():
            head.total_resources[name] = head.available_resources[name] = amount
        for node in self.nodes.values():
            self._add(state, node)
        if self.pending:
            request = state.pending_resource_requests.add()
            request.count = self.pending
            request.request.resources_bundle["GPU"] = 1
        return state

    def _add(self, state: ClusterResourceState, node: RayNode) -> None:
        shown = state.node_states.add()
        shown.node_id, shown.instance_id = node.node_id, node.instance_id
        shown.ray_node_type_name = node.node_type
        if node.is_dead:
            shown.status = NodeStatus.DEAD
            return
        idle = node.idle_since_s is not None
        shown.status = NodeStatus.IDLE if idle else NodeStatus.RUNNING
        for name, amount in GPU_NODE.items():
            shown.total_resources[name] = amount
            shown.available_resources[name] = amount if idle else 0.0
        if idle:
            shown.idle_duration_ms = int(self.idle_s(node) * 1000)
