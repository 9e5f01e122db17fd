"""Texts for the cluster of `cluster`: what prepares its namespaces, its configuration, and the agents that it runs."""

from pcloud.images.store import DEFAULT_ROOT

SHARED = "/srv/state"
"""Where `Cluster.state` is in the cluster, on the remote host and in the guest."""

ENTER = """
mkdir -p "$1/root"; mount -t tmpfs tmpfs "$1/root"; cd "$1/root"; mkdir u w m
mount -t overlay overlay -o "lowerdir=$3,upperdir=u,workdir=w" m
for d in dev sys proc; do mount --rbind /$d m/$d; done
for d in "$1" @IMAGES@; do mkdir -p "$d" "m$d"; mount --rbind "$d" "m$d"; done
cd m; mkdir before; pivot_root . before; umount -l /before; rmdir /before
exec bash -c "$4" hold "$1" "$2"
""".replace("@IMAGES@", str(DEFAULT_ROOT))
"""What changes into another distribution's root: arguments are the folder, who, the root, and what goes on there. The root
of the mounts themselves changes: with `chroot` LXC 6 would run there, on this machine, what is to run in a guest."""

HOLD = """
ip link set lo up
for d in /var/lib/pacemaker /var/log/pacemaker /etc/pacemaker /etc/corosync /var/lib/corosync /var/log/corosync \\
  /var/lib/lxc /dev/shm /run; do mkdir -p $d; mount -t tmpfs tmpfs $d; done
chmod 1777 /dev/shm; mkdir -p /run/crm /run/resource-agents /run/lock /var/log/pacemaker/bundles
for s in cib pengine blackbox cores; do mkdir -p /var/lib/pacemaker/$s; done
chown -R hacluster:haclient /var/lib/pacemaker /run/crm /var/log/pacemaker; chmod 770 /var/log/pacemaker
cp "$1/authkey" /etc/pacemaker/authkey; chown root:haclient /etc/pacemaker/authkey; chmod 640 /etc/pacemaker/authkey
cp "$1/corosync.conf" /etc/corosync/
mkdir -p @SHARED@; mount --bind "$1/state" @SHARED@
# LXC looks for a bridge below /sys, which shows the devices of the network that it was mounted in.
mkdir /run/groups; mount --rbind /sys/fs/cgroup /run/groups
mount -t sysfs sysfs /sys; mount --rbind /run/groups /sys/fs/cgroup; umount -l /run/groups
mkdir -p /run/layers/u1 /run/layers/w1 /run/layers/u2 /run/layers/w2
lay() { mount -t overlay overlay -o lowerdir=$1,upperdir=/run/layers/u$2,workdir=/run/layers/w$2 $1; }
lay /usr/lib/ocf/resource.d 1; lay /usr/sbin 2
cp -r "$1/agents/." /usr/lib/ocf/resource.d/; cp "$1/fence_test" /usr/sbin/
touch "$1/$2.ready"; exec sleep infinity
""".replace("@SHARED@", SHARED)

COROSYNC = """totem {{
  version: 2
  cluster_name: pcloud-test
  transport: knet
  crypto_cipher: none
  crypto_hash: none
}}
nodelist {{
  node {{
    ring0_addr: {address}
    name: node1
    nodeid: 1
  }}
}}
quorum {{
  provider: corosync_votequorum
}}
logging {{
  to_logfile: yes
  logfile: /var/log/corosync/corosync.log
  to_syslog: no
}}
"""

FENCE = r"""#!/bin/sh
# Asks the test, through files, to fence a node; answers when the test says that it is done.
dir=@DIR@
while read -r line; do case "$line" in action=*) action=${line#action=} ;; nodename=*) node=${line#nodename=} ;;
  port=*|plug=*) [ -n "$node" ] || node=${line#*=} ;; esac; done
case "${1#--action=}" in metadata|meta-data) action=metadata ;; esac
[ "$1" = -o ] && action=$2
case "$action" in
metadata) cat <<'X'
<?xml version="1.0"?>
<resource-agent name="fence_test" shortdesc="for tests"><longdesc>for tests</longdesc><parameters>
<parameter name="action" unique="0" required="1"><content type="string" default="reboot"/></parameter>
<parameter name="port" unique="0" required="0"><content type="string"/></parameter></parameters>
<actions><action name="on" automatic="0"/><action name="off"/><action name="reboot"/><action name="status"/>
<action name="list"/><action name="monitor"/><action name="metadata"/></actions></resource-agent>
X
exit 0 ;;
monitor|status|list|on) exit 0 ;;
off|reboot)
  echo "$action $node" >> $dir/fence.asked
  for _ in $(seq 550); do
    [ "$(wc -l < $dir/fence.asked)" = "$(cat $dir/fence.done 2>/dev/null | wc -l)" ] && exit 0; sleep 0.1; done
  exit 1 ;;
esac
exit 1
"""

CONTAINER = r"""#!/bin/sh
# An LXC guest. Parameters: folder and name (lxc-start's -P and -n), address (the host's, of their link; none on a bridge).
lxc() { command=$1; shift; "lxc-$command" -P "$OCF_RESKEY_folder" -n "$OCF_RESKEY_name" "$@"; }
running() { [ "$(lxc info -s -H 2>/dev/null)" = RUNNING ]; }
case "$1" in
start) running && exit 0
  lxc start -d -o "$OCF_RESKEY_folder/log" </dev/null >/dev/null 2>&1 || exit 1
  [ -n "$OCF_RESKEY_address" ] || exit 0
  ip addr add "$OCF_RESKEY_address/30" dev "$OCF_RESKEY_name" && ip link set "$OCF_RESKEY_name" up ;;
stop) running && lxc stop -k; running && exit 1; exit 0 ;;
monitor) running && exit 0; exit 7 ;;
meta-data) @META@ ;;
esac
"""

ATTRIBUTES = r"""#!/bin/sh
# A resource agent for tests that tells the cluster, through node attributes, that it runs. Parameter: dir.
case "$1" in
start) crm_node -n > "$OCF_RESKEY_dir/name" || exit 1
  attrd_updater -n "test-$OCF_RESOURCE_INSTANCE" -U started || exit 1; touch "$OCF_RESKEY_dir/runs" ;;
stop) rm -f "$OCF_RESKEY_dir/runs"; attrd_updater -n "test-$OCF_RESOURCE_INSTANCE" -D ;;
monitor) [ -e "$OCF_RESKEY_dir/runs" ] || exit 7 ;;
meta-data) @META@ ;;
esac
"""

META = """cat <<'X'
<?xml version="1.0"?>
<resource-agent name="service" version="1.0"><version>1.1</version><longdesc lang="en">for tests</longdesc>
<shortdesc lang="en">for tests</shortdesc><parameters>
<parameter name="dir"><longdesc lang="en">x</longdesc><shortdesc lang="en">x</shortdesc><content type="string"/></parameter>
</parameters><actions><action name="start" timeout="20s"/><action name="stop" timeout="20s"/>
<action name="monitor" timeout="20s" interval="10s"/><action name="meta-data" timeout="5s"/></actions></resource-agent>
X
exit 0"""
