"""A launch: the checks of the names in it, and the blueprint of its machine."""

from autoscaler.simulator.cloud import errors
from autoscaler.simulator.cloud.account import Account
from autoscaler.simulator.cloud.instances import Instance, LaunchSpec
from autoscaler.simulator.cloud.offers import DEFAULT_FAMILY, IMAGES, REGIONS, TYPES
from autoscaler.simulator.machines.machines import Blueprint


def check_names(spec: LaunchSpec, account: Account, not_found_status: int) -> None:
    """Checks that what a launch names exists and fits together, else raises ApiError.

    Unknown type, region, key, file system, firewall ruleset or image (`not_found_status`); a
    file system of another region, an image of another architecture (400).
    """
    if spec.instance_type not in TYPES:
        raise errors.does_not_exist(f"Instance type {spec.instance_type}", not_found_status)
    if spec.region not in REGIONS:
        raise errors.does_not_exist(f"Region {spec.region}", not_found_status)
    if spec.ssh_key_name not in account.ssh_keys:
        raise errors.does_not_exist(f"SSH key {spec.ssh_key_name}", not_found_status)
    wanted = {n: account.file_systems.get(n) for n in spec.file_system_names}
    wanted |= {i: account.file_system_by_id(i) for _, i in spec.mounts}
    for name, fs in wanted.items():
        if fs is None:
            raise errors.does_not_exist(f"Filesystem {name}", not_found_status)
        if fs.region != spec.region:
            raise errors.wrong_region(name, spec.region)
    for ruleset_id in spec.firewall_ruleset_ids:
        ruleset = account.firewall_rulesets.get(ruleset_id)
        if ruleset is None or ruleset.region != spec.region:
            raise errors.does_not_exist(f"Firewall ruleset {ruleset_id}", not_found_status)
    _check_image(spec, not_found_status)


def _check_image(spec: LaunchSpec, not_found_status: int) -> None:
    """An image id is of one region and architecture; a family has an image for each."""
    architecture = TYPES[spec.instance_type].architecture
    if spec.image_id is not None:
        image = IMAGES.get(spec.image_id)
        if image is None or image.region != spec.region:
            raise errors.does_not_exist(f"Image {spec.image_id}", not_found_status)
        if image.architecture != architecture:
            raise errors.invalid_parameters(f"Image {image.name} does not run on this type.")
        return
    family = spec.image_family or DEFAULT_FAMILY
    if all(image.family != family for image in IMAGES.values()):
        raise errors.does_not_exist(f"Image family {family}", not_found_status)


def mount_points(spec: LaunchSpec, account: Account) -> dict[str, str]:
    """Mount point by file system id: the launch's own, else `/lambda/nfs/NAME`."""
    by_id = {fs_id: point for point, fs_id in spec.mounts}
    for name in spec.file_system_names:
        fs = account.file_systems.get(name)
        if fs is not None:
            by_id.setdefault(fs.id, f"/lambda/nfs/{name}")
    return by_id


def blueprint(instance: Instance, account: Account) -> Blueprint:
    """The machine of an instance, with the faults that the instance has now."""
    spec, offer = instance.spec, instance.type
    key = account.ssh_keys.get(spec.ssh_key_name)
    points = mount_points(spec, account)
    return Blueprint(
        id=instance.id,
        number=instance.number,
        hostname=spec.hostname,
        vcpus=offer.vcpus,
        memory_gib=offer.memory_gib,
        gpus=max(0, offer.gpus - ("missing_gpu" in instance.faults)),
        gpu_name=offer.gpu_description,
        cuda_starts="dead_cuda" not in instance.faults,
        public_keys=() if key is None else (key.public_key,),
        mounts=tuple((point, fs_id) for fs_id, point in points.items()),
    )
