"""From a launch to the machine that it makes."""

from autoscaler.simulator.cloud.account import Account
from autoscaler.simulator.cloud.instances import Instance, LaunchSpec
from autoscaler.simulator.machines.machines import Blueprint


def mount_points(spec: LaunchSpec, account: Account) -> dict[str, str]:
    """Mount point by file system id: the default path, unless the launch gave another."""
    by_id = {fs_id: point for point, fs_id in spec.mounts}
    for name in spec.file_system_names:
        fs = account.file_systems.get(name)
        if fs is not None:
            by_id.setdefault(fs.id, f"/lambda/nfs/{name}")
    return by_id


def blueprint(instance: Instance, account: Account) -> Blueprint:
    """The machine of an instance, with the ailments that the instance has by now."""
    spec, offer = instance.spec, instance.type
    key = account.ssh_keys.get(spec.ssh_key_name)
    points = mount_points(spec, account)
    return Blueprint(
        id=instance.id,
        number=instance.number,
        hostname=spec.hostname,
        vcpus=offer.vcpus,
        memory_gib=offer.memory_gib,
        gpus=max(0, offer.gpus - ("missing_gpu" in instance.ailments)),
        gpu_name=offer.gpu_description,
        cuda_starts="dead_cuda" not in instance.ailments,
        public_keys=() if key is None else (key.public_key,),
        mounts=tuple((point, fs_id) for fs_id, point in points.items()),
    )
