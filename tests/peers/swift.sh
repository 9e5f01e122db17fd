#!/bin/bash
# A real OpenStack Swift on this machine from Debian's packages, loopback only, without systemd or Keystone: proxy, account, container and
# object server, one replica in a folder; S3 (s3api) and Swift's own API (tempauth, v1) over one account.
#
#   swift.sh install        packages
#   swift.sh installed      exit status 0 when there is nothing to install
#   swift.sh start          from empty to ready in a few seconds, ending first what another run left; the endpoint in PEER_DIR/url
#   swift.sh stop           ends all of it
#
# PEER_DIR is where everything is kept (default /var/cache/pcloud-test/swift); its filesystem must have extended attributes.
# With KEYSTONE_URL it is that Keystone's users who have projects' accounts (no S3 then); swift's own user there is its administrator.
# Otherwise the user is pcloud:test, who has the whole account; S3's access key is `pcloud:test`, key and secret are in PEER_DIR/secret.
set -euo pipefail
peer=${PEER_DIR:-/var/cache/pcloud-test/swift}
mkdir -p "$peer"
peer=$(cd "$peer" && pwd)
ip=127.0.0.1
proxy_port=18080 object_port=18081 container_port=18082 account_port=18083 memcached_port=18084
etc=$peer/etc logs=$peer/log run=$peer/run devices=$peer/devices
packages=(python3-swift python3-keystonemiddleware memcached python3-setuptools curl)

. "$(dirname "$(readlink -f "$0")")/ending.sh"

absent() {
  local name
  for name in "${packages[@]}"; do
    dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null | grep -qx installed || echo "$name"
  done
}

install_all() {
  local -a wanted
  mapfile -t wanted < <(absent)
  ((${#wanted[@]})) || return 0
  export DEBIAN_FRONTEND=noninteractive
  apt-get -qq update
  # Debian starts what it installs; the peer has daemons of its own, and this machine need not have others.
  local policy=/usr/sbin/policy-rc.d own= failed=
  [ -e $policy ] || { own=1; printf '#!/bin/sh\nexit 101\n' > $policy; chmod 755 $policy; }
  apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${wanted[@]}" > /dev/null || failed=1
  [ -z "$own" ] || rm -f $policy
  [ -z "$failed" ]
}

ring() { # NAME PORT: one device, one replica
  local builder=$etc/$1.builder
  /usr/bin/python3 - "$builder" "$2" "$ip" <<'X'
import sys

from swift.common.ring import RingBuilder

path, port, ip = sys.argv[1:]
builder = RingBuilder(6, 1, 0)
builder.add_dev({"id": 0, "region": 1, "zone": 1, "weight": 1, "ip": ip, "port": int(port), "device": "d1",
                 "replication_ip": ip, "replication_port": int(port), "meta": ""})
builder.rebalance()
builder.get_ring().save(path.replace(".builder", ".ring.gz"))
X
}

# What one daemon of another waits for. By default a listing is told of an object or a container within a second or half a one, or
# later, and what is cached is looked for at a busy cache no longer: tests that compare what was said would meet what was so before.
patience='conn_timeout = 60
node_timeout = 120
recoverable_node_timeout = 120
container_update_timeout = 120
client_timeout = 300'

server() { # KIND PORT: one of the three that keep things
  cat > "$etc/$1-server.conf" <<X
[DEFAULT]
bind_ip = $ip
bind_port = $2
workers = 0
user = root
swift_dir = $etc
devices = $devices
mount_check = false
fallocate_reserve = 0
log_address = $run/no-syslog
recon_cache_path = $run
$patience
[pipeline:main]
pipeline = $1-server
[app:$1-server]
use = egg:swift#$1
X
}

authentication() { # what stands in the pipeline for it
  if [ -z "${KEYSTONE_URL:-}" ]; then echo s3api tempauth; else echo authtoken keystoneauth; fi
}

write_configuration() {
  printf '[swift-hash]\nswift_hash_path_prefix = pcloud\nswift_hash_path_suffix = pcloud\n[storage-policy:0]\nname = one\ndefault = yes\n' > "$etc/swift.conf"
  ring account $account_port
  ring container $container_port
  ring object $object_port
  server account $account_port
  server container $container_port
  server object $object_port
  cat > "$etc/proxy-server.conf" <<X
[DEFAULT]
bind_ip = $ip
bind_port = $proxy_port
workers = 0
user = root
swift_dir = $etc
log_address = $run/no-syslog
$patience
[pipeline:main]
pipeline = catch_errors gatekeeper cache listing_formats bulk $(authentication) staticweb copy dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:cache]
use = egg:swift#memcache
memcache_servers = $ip:$memcached_port
connect_timeout = 60
pool_timeout = 60
io_timeout = 120
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:s3api]
use = egg:swift#s3api
location = local
cors_preflight_allow_origin =
check_bucket_owner = true
[filter:tempauth]
use = egg:swift#tempauth
user_pcloud_test = $(cat "$peer/secret") .admin
storage_url_scheme = http
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
www_authenticate_uri = ${KEYSTONE_URL:-}
auth_url = ${KEYSTONE_URL:-}
auth_type = password
project_domain_name = Default
user_domain_name = Default
project_name = admin
username = admin
password = secret
delay_auth_decision = true
service_token_roles_required = false
[filter:keystoneauth]
use = egg:swift#keystoneauth
operator_roles = admin
[filter:staticweb]
use = egg:swift#staticweb
[filter:copy]
use = egg:swift#copy
[filter:dlo]
use = egg:swift#dlo
X
  chmod 600 "$etc/proxy-server.conf"
}

wait_port() { # PORT
  for _ in $(seq 3000); do
    (exec 3<> "/dev/tcp/$ip/$1") 2>/dev/null && return
    sleep 0.1
  done
  echo "nothing listens on port $1; logs are in $logs" >&2
  return 1
}

start_all() {
  end_pids "$run"/*.pid
  rm -rf "$etc" "$logs" "$devices" "$run"
  mkdir -p "$etc" "$logs" "$devices/d1" "$run"
  (umask 077; head -c 18 /dev/urandom | base64 | tr -dc a-zA-Z0-9 > "$peer/secret")
  write_configuration
  PEER="$peer/" setsid memcached -u root -l $ip -p $memcached_port -U 0 -m 16 > "$logs/memcached.log" 2>&1 < /dev/null &
  echo $! > "$run/memcached.pid"
  local kind
  for kind in account container object proxy; do
    setsid /usr/bin/python3 -c '
import sys
from swift.common import utils
from swift.common.wsgi import run_wsgi
utils.set_swift_dir(sys.argv[1])
sys.exit(run_wsgi(f"{sys.argv[1]}/{sys.argv[2]}-server.conf", f"{sys.argv[2]}-server"))
' "$etc" $kind > "$logs/$kind.log" 2>&1 < /dev/null &
    echo $! > "$run/$kind.pid"
  done
  local port
  for port in $memcached_port $account_port $container_port $object_port $proxy_port; do wait_port $port; done
  echo "http://$ip:$proxy_port" > "$peer/url"
}

case "${1:-}" in
install) install_all ;;
installed) [ -z "$(absent)" ] ;;
start) start_all ;;
stop) end_pids "$run"/*.pid ;;
*)
  sed -n 2,12p "$0"
  exit 2
  ;;
esac
