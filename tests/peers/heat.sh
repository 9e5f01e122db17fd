#!/bin/bash
# A real Heat on this machine from Debian's packages, loopback only, without systemd or Keystone, with MariaDB (durable, as it
# comes) and RabbitMQ: what our stacks are measured against.
#
#   heat.sh install        packages
#   heat.sh start          from empty to ready; CONVERGENCE=true for that engine instead of the legacy one
#   heat.sh stop           ends all of it
#   heat.sh url            prints the endpoint
#
# PEER_DIR is where everything is kept (default /var/cache/pcloud-test/heat), WORKERS the number of engine workers (2).
set -euo pipefail
peer=${PEER_DIR:-/var/cache/pcloud-test/heat}
mkdir -p "$peer"
peer=$(cd "$peer" && pwd)
ip=127.0.0.1
api_port=18004 mariadb_port=3311 rabbit_port=5676 epmd_port=4376
logs=$peer/log configuration=$peer/heat.conf
packages=(heat-api heat-engine rabbitmq-server mariadb-server curl)

. "$(dirname "$(readlink -f "$0")")/ending.sh"

install_all() {
  local name absent=()
  for name in "${packages[@]}"; do
    dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null | grep -qx installed || absent+=("$name")
  done
  ((${#absent[@]})) || return 0
  export DEBIAN_FRONTEND=noninteractive
  apt-get -qq update
  # Debian starts what it installs; the peer has daemons of its own, and this machine need not have others.
  local policy=/usr/sbin/policy-rc.d own=
  [ -e $policy ] || { own=1; printf '#!/bin/sh\nexit 101\n' > $policy; chmod 755 $policy; }
  echo 'heat-common heat/configure_db boolean false' | debconf-set-selections
  local failed=
  apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${absent[@]}" > /dev/null || failed=1
  [ -z "$own" ] || rm -f $policy
  [ -z "$failed" ]
}

stop_all() { end_peer "$peer/heat-api.pid" "$peer/heat-engine.pid" "$peer/rabbit/pid" "$peer/mysql/pid"; }

wait_port() { # PORT
  for _ in $(seq 300); do
    (exec 3<> "/dev/tcp/$ip/$1") 2>/dev/null && return
    sleep 0.2
  done
  echo "nothing listens on port $1; logs are in $logs" >&2
  return 1
}

start_rabbit() {
  mkdir -p "$peer/rabbit/mnesia" "$peer/rabbit/log"
  echo '[].' > "$peer/rabbit/plugins"
  chmod o+x "$peer"
  chown -R rabbitmq "$peer/rabbit"
  runuser -u rabbitmq -- env HOME="$peer/rabbit" RABBITMQ_NODENAME=pcloudheat@localhost RABBITMQ_NODE_IP_ADDRESS=$ip \
    RABBITMQ_NODE_PORT=$rabbit_port RABBITMQ_DIST_PORT=25676 RABBITMQ_MNESIA_BASE="$peer/rabbit/mnesia" \
    RABBITMQ_LOG_BASE="$peer/rabbit/log" RABBITMQ_PID_FILE="$peer/rabbit/pid" RABBITMQ_ENABLED_PLUGINS_FILE="$peer/rabbit/plugins" \
    ERL_EPMD_ADDRESS=$ip ERL_EPMD_PORT=$epmd_port rabbitmq-server -detached
}

start_mariadb() {
  local data=$peer/mysql socket=$peer/mysql/s.sock
  mkdir -p "$data"
  chown mysql "$data"
  [ -d "$data/mysql" ] || mariadb-install-db --no-defaults --user=mysql --datadir="$data" --auth-root-authentication-method=normal > "$logs/mariadb-install.log"
  setsid mariadbd --no-defaults --user=mysql --datadir="$data" --socket="$socket" --port=$mariadb_port --bind-address=$ip \
    --pid-file="$data/pid" --max-connections=500 > "$logs/mariadb.log" 2>&1 < /dev/null &
  for _ in $(seq 200); do mariadb -S "$socket" -uroot -e 'select 1' > /dev/null 2>&1 && break; sleep 0.1; done
  mariadb -S "$socket" -uroot <<X
drop database if exists heat;
create database heat character set utf8;
create or replace user heat@'$ip' identified by 'heat';
grant all on heat.* to heat@'$ip';
create or replace user heat@localhost identified by 'heat';
grant all on heat.* to heat@localhost;
X
}

start_all() {
  stop_all
  mkdir -p "$logs"
  start_rabbit
  start_mariadb
  cat > "$configuration" <<X
[DEFAULT]
transport_url = rabbit://guest:guest@$ip:$rabbit_port/
keystone_backend = heat.engine.clients.os.keystone.fake_keystoneclient.FakeKeystoneClient
deferred_auth_method = password
auth_encryption_key = 0123456789abcdef0123456789abcdef
convergence_engine = ${CONVERGENCE:-false}
num_engine_workers = ${WORKERS:-2}
max_resources_per_stack = -1
max_stacks_per_tenant = 100000
max_json_body_size = 16777216
max_template_size = 16777216
stack_domain_admin = x
heat_metadata_server_url = http://$ip:18000
heat_waitcondition_server_url = http://$ip:18000/v1/waitcondition
rpc_response_timeout = 600
log_dir = $logs
server_keystone_endpoint_type = public
[database]
connection = mysql+pymysql://heat:heat@$ip:$mariadb_port/heat?charset=utf8
max_pool_size = 20
max_overflow = 50
[paste_deploy]
flavor = noauth
[heat_api]
bind_host = $ip
bind_port = $api_port
workers = 1
[oslo_policy]
policy_dirs = /etc/heat/policy.d
X
  heat-manage --config-file "$configuration" db_sync > "$logs/db_sync.log" 2>&1
  wait_port $rabbit_port
  local name
  for name in heat-engine heat-api; do
    setsid $name --config-file "$configuration" > "$logs/$name.out" 2>&1 < /dev/null &
    echo $! > "$peer/$name.pid"
  done
  wait_port $api_port
  # The API answers before the engine listens, and a request sent too early waits for the whole RPC time-out: ask until one is answered.
  for _ in $(seq 60); do
    curl -sf -m 3 --noproxy '*' -H 'X-Auth-Token: x' "http://$ip:$api_port/v1/admin/stacks" > /dev/null && return
  done
  echo "the engine does not answer; logs are in $logs" >&2
  return 1
}

case "${1:-}" in
install) install_all ;;
start) start_all ;;
stop) stop_all ;;
url) echo "http://$ip:$api_port/v1/admin" ;;
*)
  sed -n 2,10p "$0"
  exit 2
  ;;
esac
