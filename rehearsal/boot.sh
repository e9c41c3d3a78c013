#!/bin/bash
# One host, from power-on to power-off; a reboot stays in here. Started in a mount namespace of its own,
# inside the host's control group. Arguments: the host's directory, the base, the host's name and network
# namespace, its address, its gateway, and what is bound into it (SOURCE:TARGET ...).
set -euo pipefail
directory=$1 base=$2 name=$3 namespace=$4 address=$5 gateway=$6
shift 6

# systemd wants pure v2 control groups, whatever this machine itself has.
group=$(sed -n 's/^0:://p' /proc/self/cgroup)
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t overlay overlay -o "lowerdir=$base,upperdir=$directory/upper,workdir=$directory/work" "$directory/root"

as_after_power_on() { # a reboot must not find what the last start left in the kernel
  for left in "/sys/fs/cgroup$group"/*/cgroup.kill; do
    [ ! -e "$left" ] || echo 1 > "$left"
  done
  ip netns exec "$namespace" nft flush ruleset
  ip -n "$namespace" address flush dev eth0 scope global
  ip -n "$namespace" address add "$address/24" dev eth0
  ip -n "$namespace" route replace default via "$gateway"
}

while true; do
  as_after_power_on
  code=0
  SYSTEMD_NSPAWN_API_VFS_WRITABLE=network systemd-nspawn --quiet --boot --directory="$directory/root" \
    --machine="$name" --register=no --keep-unit --network-namespace-path="/run/netns/$namespace" \
    --console=read-only --link-journal=no --resolv-conf=off --timezone=off \
    --capability=CAP_NET_ADMIN,CAP_NET_RAW,CAP_BPF,CAP_PERFMON --system-call-filter=bpf \
    "${@/#/--bind=}" || code=$?
  [ "$code" = 133 ] || exit "$code" # 133: it wants to reboot
done
