#!/bin/bash
# A machine: its own namespaces, an overlay of this host's file system, and sshd as process 1.
#
#   machine.sh outside    in the host's namespaces, as a child of the supervisor; becomes...
#   machine.sh inside     process 1 of the machine, which becomes sshd
#
# From the supervisor's environment:
#   SUPERVISOR   its process id
#   MODE         root, or user: the caller is root of a user namespace only
#   FOLDER       the machine's folder: tree/ lies over the host's files; mounts and visible
#                hold "source<TAB>target" lines (writable, read-only); root/ is a mount point
#   CGROUPS      control groups to join
#   MACHINE IP PREFIX GATEWAY USER_ID SHM_BYTES DISK_BYTES
set -eu

outside() {
    # setpriv has set the death signal by now: a supervisor that died before that is noticed here.
    [ "$PPID" = "$SUPERVISOR" ] || exit 1
    for group in $CGROUPS; do echo $$ > "$group/cgroup.procs"; done
    exec unshare --net --mount --uts --ipc --cgroup --pid --fork --kill-child=SIGKILL \
        --propagation private -- /bin/bash "$0" inside
}

# One overlay with / as its lower layer, without the other mounts below /.
root_files() {
    mkdir "$1/upper" "$1/work" "$1/root"
    cp -a "$FOLDER/tree/." "$1/upper/"
    mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
}

# Without root the kernel refuses an overlay of / and of what has mounts below: one layer for
# each directory of / that has none, and the others as they are.
user_files() {
    local mounted entry name
    mkdir "$1/work" "$1/root"
    cp -a "$FOLDER/tree" "$1/upper"
    mount --bind "$1/root" "$1/root"
    mounted=$(awk '{print $5}' /proc/self/mountinfo)
    for entry in /*; do
        name=${entry#/}
        case $name in proc | sys | dev | tmp | run | lost+found) mkdir -p "$1/root/$name"; continue ;; esac
        if [ -L "$entry" ]; then
            ln -s "$(readlink "$entry")" "$1/root/$name"
        elif [ ! -d "$entry" ]; then
            : > "$1/root/$name"
            mount --bind "$entry" "$1/root/$name"
        elif [ ! -r "$entry" ]; then
            mkdir "$1/root/$name"
        elif grep -q "^$entry/" <<< "$mounted"; then
            mkdir "$1/root/$name"
            mount --rbind "$entry" "$1/root/$name"
        else
            mkdir -p "$1/root/$name" "$1/upper/$name" "$1/work/$name"
            mount -t overlay -o "userxattr,lowerdir=$entry,upperdir=$1/upper/$name,workdir=$1/work/$name" \
                overlay "$1/root/$name"
        fi
    done
    mkdir -p "$1/root/lambda"
}

kernel_files() {
    local device terminals=newinstance,ptmxmode=0666,mode=620
    [ "$MODE" = user ] || terminals+=,gid=5
    mount -t proc proc "$1/proc"
    mount -t sysfs -o ro sysfs "$1/sys" 2> /dev/null || mount --rbind /sys "$1/sys"
    mount -t tmpfs -o mode=755,size=1m tmpfs "$1/dev"
    for device in null zero full random urandom tty; do
        : > "$1/dev/$device"
        mount --bind "/dev/$device" "$1/dev/$device"
    done
    mkdir "$1/dev/pts" "$1/dev/shm"
    mount -t devpts -o "$terminals" devpts "$1/dev/pts"
    ln -s pts/ptmx "$1/dev/ptmx"
    ln -s /proc/self/fd "$1/dev/fd"
    for device in 0:stdin 1:stdout 2:stderr; do
        ln -s "/proc/self/fd/${device%:*}" "$1/dev/${device#*:}"
    done
    mount -t tmpfs -o "mode=1777,size=$SHM_BYTES" tmpfs "$1/dev/shm"
    mount -t tmpfs -o "mode=1777,size=$DISK_BYTES" tmpfs "$1/tmp"
    mount -t tmpfs -o mode=755,size=64m tmpfs "$1/run"
}

# An own disk, which hides a home directory of this name on the host.
home() {
    mount -t tmpfs -o "mode=755,size=$DISK_BYTES" tmpfs "$1/home/ubuntu"
    cp -a "$FOLDER/tree/home/ubuntu/." "$1/home/ubuntu/"
    [ "$MODE" = user ] || chown -R "$USER_ID:$USER_ID" "$1/home/ubuntu"
}

# The machine's own control group appears as the root one, so that programs find its limit.
control_groups() {
    [ -n "$CGROUPS" ] || return 0
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        mount -t cgroup2 -o ro cgroup2 "$1/sys/fs/cgroup"
    else
        mount -t tmpfs -o mode=755,size=1m tmpfs "$1/sys/fs/cgroup"
        mkdir "$1/sys/fs/cgroup/memory"
        mount -t cgroup -o ro,memory cgroup "$1/sys/fs/cgroup/memory"
    fi
}

bind_all() {
    local source target
    while IFS=$'\t' read -r source target; do
        mkdir -p "$1$target"
        mount --bind "$source" "$1$target"
        [ "$2" = rw ] || mount -o remount,bind,ro "$1$target"
    done < "$FOLDER/$3"
}

network() {
    ip link set lo up
    for _ in $(seq 500); do
        ip link show eth0 > /dev/null 2>&1 && break
        sleep 0.02
    done
    # Made of the address, so that neighbours find a restarted machine at once.
    ip link set eth0 address "$(printf '02:00:%02x:%02x:%02x:%02x' ${IP//./ })"
    ip addr add "$IP/$PREFIX" dev eth0
    ip link set eth0 up
    # Programs learn their own address from the route to some far address.
    ip route add default via "$GATEWAY"
}

inside() {
    local base=$FOLDER/root root=$FOLDER/root/root
    mount -t tmpfs -o "size=$DISK_BYTES,mode=755" tmpfs "$base"
    "${MODE}_files" "$base"
    kernel_files "$root"
    home "$root"
    control_groups "$root"
    bind_all "$root" ro visible
    bind_all "$root" rw mounts
    hostname "$MACHINE"
    network
    mkdir -p "$root/run/sshd"
    ssh-keygen -q -t ed25519 -N '' -f "$root/run/host_key"
    become=()
    if [ "$MODE" = user ]; then
        # An sshd that is not root needs no rights to change users, but must bind port 22.
        echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start
        become=(unshare --user "--map-user=$USER_ID" "--map-group=$USER_ID" --)
    fi
    ulimit -n 1048576 2> /dev/null || true
    mkdir "$root/.outside"
    cd "$root"
    pivot_root . .outside
    exec chroot . /bin/bash -c 'umount -l /.outside; cd /; exec "$@"' - \
        "${become[@]}" /usr/sbin/sshd -D -e -f /etc/ssh/sshd_machine.conf < /dev/null
}

"$1"
