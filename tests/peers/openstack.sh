#!/bin/bash
# A real OpenStack on this machine for the tests, loopback only, without systemd: Keystone, Placement, Glance, Neutron (with one
# mechanism driver of the tests that binds every port) and Nova with its FakeDriver: servers become ACTIVE, nothing runs inside.
#
#   openstack.sh install        packages (by apt rabbitmq-server and mariadb-server; OpenStack from openstack.lock into PEER_DIR/venv)
#   openstack.sh installed      exit status 0 when there is nothing to install
#   openstack.sh start          from empty to ready in about a minute, ending first what another run left; credentials in PEER_DIR/openrc
#   openstack.sh stop           ends all of it
#   openstack.sh api-stop       ends nova-api alone;  openstack.sh api-start  starts it again
#   openstack.sh zones-start    a second host, and each in an availability zone of its own, no server in them
#   openstack.sh zones-stop     takes them away with all servers, also what a zones-start that was killed made of them
#   openstack.sh lock           writes openstack.lock anew from what is installed
#
# PEER_DIR is where everything is kept (default /var/cache/pcloud-test/openstack).
set -euo pipefail
peer=${PEER_DIR:-/var/cache/pcloud-test/openstack}
mkdir -p "$peer"
peer=$(cd "$peer" && pwd)
ip=127.0.0.1
keystone_port=15000 nova_port=18774 placement_port=18778 glance_port=19292 neutron_port=19696 mariadb_port=3309 rabbit_port=5674 epmd_port=14369
keystone_url=http://$ip:$keystone_port/v3
rabbit_url=rabbit://guest:guest@$ip:$rabbit_port/
venv=$peer/venv etc=$peer/etc databases=$peer/db logs=$peer/log run=$peer/run

. "$(dirname "$(readlink -f "$0")")/ending.sh"

say() { echo "$(date +%T) $*"; }

wanted=(rabbitmq-server mariadb-server python3-venv python3-dev gcc curl)
lock=$(dirname "$(readlink -f "$0")")/openstack.lock

absent() { # the Debian packages that are not installed
  local name
  for name in "${wanted[@]}"; do
    dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null | grep -qx installed || echo "$name"
  done
}

installed() { [ -z "$(absent)" ] && [ "$(cat "$venv/.complete" 2>/dev/null)" = "$(sha256sum < "$lock")" ]; }

install_all() {
  local -a packages
  mapfile -t packages < <(absent)
  if ((${#packages[@]})); then
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    # Debian starts what it installs; the peer has daemons of its own, and this machine need not have others.
    local policy=/usr/sbin/policy-rc.d own=
    [ -e $policy ] || { own=1; printf '#!/bin/sh\nexit 101\n' > $policy; chmod 755 $policy; }
    apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${packages[@]}" > /dev/null || { [ -z "$own" ] || rm -f $policy; return 1; }
    [ -z "$own" ] || rm -f $policy
  fi
  installed && return
  rm -rf "$venv"
  # Debian's own Python: uwsgi links with its libpython, another interpreter's modules would not fit
  /usr/bin/python3 -m venv "$venv"
  local uv
  uv=$(dirname "$lock")/../../.tools/bin/uv
  if [ -x "$uv" ]; then
    "$uv" pip install -q --python "$venv/bin/python" --compile-bytecode -r "$lock"
  else
    "$venv/bin/pip" install -q -r "$lock"
  fi
  sha256sum < "$lock" > "$venv/.complete"
}

write_lock() {
  {
    head -n 1 "$lock"
    "$venv/bin/pip" freeze | grep -v '^pcloud-peer'
  } > "$lock.new"
  mv "$lock.new" "$lock"
}

stop_all() { end_peer "$run"/*.pid "$peer/rabbit/pid" "$peer/mysql/pid"; }

start_rabbit() {
  mkdir -p "$peer/rabbit/mnesia" "$peer/rabbit/log"
  chmod o+x "$peer"
  chown -R rabbitmq "$peer/rabbit"
  runuser -u rabbitmq -- env HOME="$peer/rabbit" RABBITMQ_NODENAME=novapeer@localhost RABBITMQ_NODE_IP_ADDRESS=$ip \
    RABBITMQ_NODE_PORT=$rabbit_port RABBITMQ_DIST_PORT=25674 RABBITMQ_MNESIA_BASE="$peer/rabbit/mnesia" \
    RABBITMQ_LOG_BASE="$peer/rabbit/log" RABBITMQ_PID_FILE="$peer/rabbit/pid" ERL_EPMD_ADDRESS=$ip ERL_EPMD_PORT=$epmd_port \
    rabbitmq-server -detached
}

start_mariadb() {
  local data=$peer/mysql socket=$peer/mysql/s.sock
  mkdir -p "$data"
  chown mysql "$data"
  if [ ! -e "$data/.whole" ]; then # half of it, of a start that was killed, is no use
    rm -rf "${data:?}"/*
    mariadb-install-db --no-defaults --user=mysql --datadir="$data" --auth-root-authentication-method=normal > /dev/null
    touch "$data/.whole"
  fi
  setsid mariadbd --no-defaults --user=mysql --datadir="$data" --socket="$socket" --port=$mariadb_port --bind-address=$ip \
    --pid-file="$data/pid" --innodb-flush-log-at-trx-commit=0 > "$logs/mariadb.log" 2>&1 < /dev/null &
  local daemon=$!
  # what a killed one left is mended first, and a slow disk takes its time
  for _ in $(seq 3000); do
    mariadb -S "$socket" -uroot -e 'select 1' > /dev/null 2>&1 && break
    kill -0 $daemon 2> /dev/null || { tail -n 20 "$logs/mariadb.log"; return 1; }
    sleep 0.1
  done
  # what many write at once is in MariaDB: SQLite answers them with "database is locked"
  local name
  for name in neutron nova nova_api nova_cell0 placement; do
    mariadb -S "$socket" -uroot -e "drop database if exists $name; create database $name character set utf8mb4"
  done
  mariadb -S "$socket" -uroot <<X
create or replace user n@'$ip' identified by 'n';
grant all on *.* to n@'$ip';
create or replace user n@localhost identified by 'n';
grant all on *.* to n@localhost;
X
}

database() { echo "mysql+pymysql://n:n@$ip:$mariadb_port/$1?charset=utf8mb4"; }

auth() { # the keystone section of a service's configuration
  cat <<X
[$1]
www_authenticate_uri=$keystone_url
auth_url=$keystone_url
auth_type=password
project_domain_name=Default
user_domain_name=Default
project_name=admin
username=admin
password=secret
region_name=RegionOne
service_token_roles_required=false
X
}

# Neutron without agents binds no port; this mechanism driver binds every one, so that servers get addresses.
write_mechanism() {
  local site
  site=$("$venv/bin/python" -c 'import site; print(site.getsitepackages()[0])')
  cat > "$site/pcloud_peer_mechanism.py" <<'X'
from neutron_lib.api.definitions import portbindings
from neutron_lib.plugins.ml2 import api


class BindAll(api.MechanismDriver):
    def initialize(self):
        pass

    def bind_port(self, context):
        for segment in context.segments_to_bind:
            context.set_binding(segment[api.ID], portbindings.VIF_TYPE_OTHER, {}, status="ACTIVE")
            return
X
  mkdir -p "$site/pcloud_peer-1.dist-info"
  printf 'Metadata-Version: 2.1\nName: pcloud-peer\nVersion: 1\n' > "$site/pcloud_peer-1.dist-info/METADATA"
  printf '[neutron.ml2.mechanism_drivers]\npcloud_peer = pcloud_peer_mechanism:BindAll\n' > "$site/pcloud_peer-1.dist-info/entry_points.txt"
}

write_configuration() {
  mkdir -p "$etc"/{keystone,placement,glance,nova,neutron}
  cat > "$etc/keystone/keystone.conf" <<X
[DEFAULT]
log_file=$logs/keystone.log
[database]
connection=sqlite:///$databases/keystone.db
[token]
provider=fernet
expiration=${TOKEN_SECONDS:-3600}
allow_expired_window=0
[fernet_tokens]
key_repository=$etc/keystone/fernet
[credential]
key_repository=$etc/keystone/cred
[fernet_receipts]
key_repository=$etc/keystone/fernet
X
  {
    printf '[DEFAULT]\nlog_file=%s/placement.log\n[api]\nauth_strategy=keystone\n' "$logs"
    printf '[placement_database]\nconnection=%s\nsync_on_startup=true\n' "$(database placement)"
    auth keystone_authtoken
  } > "$etc/placement/placement.conf"
  {
    cat <<X
[DEFAULT]
log_file=$logs/glance.log
enabled_backends=fs:file
[glance_store]
default_backend=fs
[fs]
filesystem_store_datadir=$peer/images
[os_glance_staging_store]
filesystem_store_datadir=$peer/state
[os_glance_tasks_store]
filesystem_store_datadir=$peer/state
[database]
connection=sqlite:///$databases/glance.db
[paste_deploy]
flavor=keystone
config_file=$venv/etc/glance/glance-api-paste.ini
X
    auth keystone_authtoken
  } > "$etc/glance/glance-api.conf"
  cp "$venv/etc/neutron/api-paste.ini" "$etc/neutron/"
  {
    cat <<X
[DEFAULT]
log_file=$logs/neutron.log
core_plugin=ml2
service_plugins=router,port_forwarding
auth_strategy=keystone
api_paste_config=$etc/neutron/api-paste.ini
transport_url=$rabbit_url
state_path=$peer/state
notify_nova_on_port_status_changes=false
notify_nova_on_port_data_changes=false
[oslo_concurrency]
lock_path=$run
[database]
connection=$(database neutron)
[ml2]
type_drivers=local
tenant_network_types=local
mechanism_drivers=pcloud_peer
extension_drivers=
X
    auth keystone_authtoken
  } > "$etc/neutron/neutron.conf"
  cp "$venv/etc/nova/api-paste.ini" "$etc/nova/"
  {
    cat <<X
[DEFAULT]
transport_url=$rabbit_url
compute_driver=fake.FakeDriver
host=fake1
my_ip=$ip
state_path=$peer/state
vif_plugging_is_fatal=false
vif_plugging_timeout=0
[api_database]
connection=$(database nova_api)
[database]
connection=$(database nova)
[oslo_concurrency]
lock_path=$run
[glance]
api_servers=http://$ip:$glance_port
[conductor]
workers=1
[scheduler]
workers=1
[vnc]
enabled=false
[quota]
instances=${QUOTA_INSTANCES:-60}
cores=400
ram=4000000
server_groups=50
server_group_members=100
[neutron]
X
    auth neutron | tail -n +2
    auth service_user
    echo send_service_user_token=true
    auth placement
    auth keystone_authtoken
  } > "$etc/nova/nova.conf"
}

serve() { # NAME MODULE PORT
  setsid uwsgi --master --die-on-term --virtualenv "$venv" --pythonpath "$peer" --http-socket $ip:"$3" --module "$2:application" \
    --processes 1 --threads 8 --enable-threads --lazy-apps --buffer-size 65535 --add-header 'Connection: close' \
    --http-chunked-input > "$logs/uwsgi-$1.log" 2>&1 < /dev/null &
  echo $! > "$run/$1.pid"
}

wait_port() {
  for _ in $(seq 1500); do curl -s -o /dev/null -m 5 "http://$ip:$1/" && return; sleep 0.2; done
  say "port $1 does not answer"
  return 1
}

environment() {
  export PATH=$venv/bin:$PATH
  export OS_NEUTRON_CONFIG_DIR=$etc/neutron OS_NEUTRON_CONFIG_FILES=neutron.conf OS_KEYSTONE_CONFIG_DIR=$etc/keystone
  export OS_PLACEMENT_CONFIG_DIR=$etc/placement OS_GLANCE_CONFIG_DIR=$etc/glance OS_NOVA_CONFIG_DIR=$etc/nova
}

await_host() { # NAME: until Nova's scheduler knows of a host
  python - "--config-file $etc/nova/nova.conf" "$1" <<X
import subprocess, sys, time

import openstack

cloud = openstack.connect()
for _ in range(600):
    if any(found.name == sys.argv[2] for found in cloud.compute.hypervisors()):
        break
    subprocess.run(f"nova-manage {sys.argv[1]} cell_v2 discover_hosts", shell=True, capture_output=True)
    time.sleep(0.5)
else:
    sys.exit(f"nova-compute of {sys.argv[2]} did not come")
X
}

start_all() {
  environment
  stop_all
  rm -rf "$databases" "$etc" "$logs" "$peer/images" "$run/zones"
  mkdir -p "$databases" "$logs" "$peer/images" "$peer/state" "$run"
  write_configuration
  write_mechanism
  start_rabbit
  start_mariadb
  say keystone
  local keystone_conf="--config-file $etc/keystone/keystone.conf" nova_conf="--config-file $etc/nova/nova.conf"
  mkdir -p "$etc/keystone/fernet" "$etc/keystone/cred"
  # the slowest first, beside the others: an empty database takes each of them seconds
  neutron-db-manage --config-file "$etc/neutron/neutron.conf" upgrade heads > "$logs/neutron-db.log" 2>&1 &
  local neutron_db=$!
  glance-manage --config-file "$etc/glance/glance-api.conf" db_sync > "$logs/glance-db.log" 2>&1 &
  local glance_db=$!
  keystone-manage $keystone_conf db_sync
  keystone-manage $keystone_conf fernet_setup --keystone-user root --keystone-group root
  keystone-manage $keystone_conf credential_setup --keystone-user root --keystone-group root
  keystone-manage $keystone_conf bootstrap --bootstrap-password secret --bootstrap-admin-url "$keystone_url" \
    --bootstrap-public-url "$keystone_url" --bootstrap-internal-url "$keystone_url" --bootstrap-region-id RegionOne
  serve keystone keystone.wsgi.api $keystone_port
  say databases
  nova-manage $nova_conf api_db sync
  nova-manage $nova_conf cell_v2 map_cell0 --database_connection "$(database nova_cell0)"
  nova-manage $nova_conf db sync
  nova-manage $nova_conf cell_v2 create_cell --name cell1 --database_connection "$(database nova)" --transport-url "$rabbit_url" > /dev/null
  wait $neutron_db
  wait $glance_db
  wait_port $keystone_port
  cat > "$peer/openrc" <<X
export OS_AUTH_URL=$keystone_url OS_USERNAME=admin OS_PASSWORD=secret OS_PROJECT_NAME=admin OS_USER_DOMAIN_NAME=Default OS_PROJECT_DOMAIN_NAME=Default OS_REGION_NAME=RegionOne OS_IDENTITY_API_VERSION=3
X
  chmod 600 "$peer/openrc"
  . "$peer/openrc"
  printf 'from neutron.wsgi.api import application\nimport neutron.db.migration.models.head\nfrom sqlalchemy.orm import configure_mappers\nconfigure_mappers()\n' > "$peer/neutron_app.py"
  say catalog
  python - <<X
import openstack

cloud = openstack.connect()
urls = {
    ("nova", "compute"): "http://$ip:$nova_port/v2.1",
    ("placement", "placement"): "http://$ip:$placement_port",
    ("neutron", "network"): "http://$ip:$neutron_port",
    ("glance", "image"): "http://$ip:$glance_port",
}
for (name, kind), url in urls.items():
    service = cloud.identity.create_service(name=name, type=kind)
    for interface in ("public", "internal", "admin"):
        cloud.identity.create_endpoint(service_id=service.id, interface=interface, url=url, region_id="RegionOne")
role = cloud.identity.find_role("service") or cloud.identity.create_role(name="service")
project, user = cloud.identity.find_project("admin"), cloud.identity.find_user("admin")
cloud.identity.assign_project_role_to_user(project, user, role)
X
  serve placement placement.wsgi.api $placement_port
  serve glance glance.wsgi.api $glance_port
  serve neutron neutron_app $neutron_port
  wait_port $placement_port
  wait_port $glance_port
  wait_port $neutron_port
  say nova
  for daemon in conductor scheduler compute; do
    setsid nova-$daemon $nova_conf --log-file "$logs/nova-$daemon.log" > "$logs/nova-$daemon.out" 2>&1 < /dev/null &
    echo $! > "$run/nova-$daemon.pid"
  done
  serve nova-api nova.wsgi.osapi_compute $nova_port
  wait_port $nova_port
  await_host fake1
  python - <<X
import openstack

cloud = openstack.connect()
network = cloud.network.create_network(name="pcloud", shared=True)
cloud.network.create_subnet(name="pcloud", network_id=network.id, ip_version=4, cidr="10.200.0.0/24", enable_dhcp=False)
cloud.compute.create_flavor(name="tiny", ram=256, disk=1, vcpus=1)
cloud.compute.create_flavor(name="small", ram=1024, disk=8, vcpus=2)
X
  say ready
}

# Nova's FakeDriver has one host a daemon. Its state is its own: a daemon keeps in it which host it is.
start_zones() {
  stop_zones
  environment
  . "$peer/openrc"
  touch "$run/zones"
  rm -rf "$peer/state2"
  mkdir -p "$peer/state2"
  printf '[DEFAULT]\nhost=fake2\nstate_path=%s\n' "$peer/state2" > "$etc/nova/second.conf"
  # it writes its process id itself: whoever ends it finds it, even if this script is killed meanwhile
  setsid bash -c 'echo $$ > "$0"; exec "$@"' "$run/nova-compute2.pid" nova-compute --config-file "$etc/nova/nova.conf" \
    --config-file "$etc/nova/second.conf" --log-file "$logs/nova-compute2.log" > "$logs/nova-compute2.out" 2>&1 < /dev/null &
  delete_servers # of tests that failed: no host with one on it changes its zone
  await_host fake2
  python - <<X
import openstack

cloud = openstack.connect()
for zone, host in (("first", "fake1"), ("second", "fake2")):
    aggregate = cloud.compute.create_aggregate(name=zone, availability_zone=zone)
    cloud.compute.add_host_to_aggregate(aggregate, host)
X
}

stop_zones() {
  [ -e "$run/zones" ] || return 0
  environment
  . "$peer/openrc"
  # it has nothing to end in order, which takes it a quarter of a minute
  local pid
  pid=$(cat "$run/nova-compute2.pid" 2> /dev/null || true)
  if [ -n "$pid" ] && ours "$pid"; then kill -9 -- "-$pid" 2> /dev/null || true; fi
  rm -f "$run/nova-compute2.pid"
  delete_servers fake2
  python - <<X
import openstack

cloud = openstack.connect()
for aggregate in cloud.compute.aggregates():
    for host in aggregate.hosts:
        cloud.compute.remove_host_from_aggregate(aggregate, host)
    cloud.compute.delete_aggregate(aggregate)
for service in list(cloud.compute.services(host="fake2")):
    cloud.compute.delete_service(service)
X
  rm -f "$run/zones"
}

delete_servers() { # [HOST]: all of them; HOST has no daemon any more
  python - "$@" <<X
import sys, time

import openstack

cloud = openstack.connect()
for host in sys.argv[1:]:
    for service in list(cloud.compute.services(host=host)):
        cloud.compute.update_service_forced_down(service, host, service.binary, True)
for _ in range(600):
    servers = list(cloud.compute.servers(all_projects=True))
    if not servers:
        break
    for server in servers:
        cloud.compute.delete_server(server)
    time.sleep(0.5)
else:
    sys.exit(f"servers that can not be deleted: {', '.join(server.name for server in servers)}")
X
}

case "${1:-}" in
zones-start) start_zones ;;
zones-stop) stop_zones ;;
install) install_all ;;
installed) installed ;;
lock) write_lock ;;
start) start_all ;;
stop) stop_all ;;
api-stop)
  kill "$(cat "$run/nova-api.pid")"
  while kill -0 "$(cat "$run/nova-api.pid")" 2>/dev/null; do sleep 0.1; done
  ;;
api-start)
  environment
  serve nova-api nova.wsgi.osapi_compute $nova_port
  wait_port $nova_port
  ;;
*)
  sed -n 2,14p "$0"
  exit 2
  ;;
esac
