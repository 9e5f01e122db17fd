"""The inputs that benchmarks share."""

from __future__ import annotations

import itertools

from pcloud.model.deployable import Assembly, Dependency, Deployable, Resource
from pcloud.policy.state import Guest, Link, Power, State


def three_assemblies() -> bytes:
    """Return the CIB of a deployable of three guests with one monitored resource each, in order, all still to be started."""
    names = ("db", "app", "web")
    nodes = "".join(f'<node id="{n}" uname="{n}"/>' for n in names)
    resources = "".join(
        f'<primitive id="rsc_{n}" class="ocf" provider="pacemaker" type="Dummy"><instance_attributes id="{n}-p">'
        f'<nvpair id="{n}-p-s" name="state" value="/run/{n}.state"/></instance_attributes><operations>'
        f'<op id="{n}-start" name="start" interval="0s" timeout="60s"/><op id="{n}-stop" name="stop" interval="0s" '
        f'timeout="60s"/><op id="{n}-monitor" name="monitor" interval="10s" timeout="20s"/></operations></primitive>'
        for n in names
    )
    places = "".join(f'<rsc_location id="at_{n}" rsc="rsc_{n}" node="{n}" score="INFINITY"/>' for n in names)
    orders = "".join(f'<rsc_order id="{a}_{b}" first="rsc_{a}" then="rsc_{b}"/>' for a, b in itertools.pairwise(names))
    states = "".join(
        f'<node_state id="{n}" uname="{n}" in_ccm="true" crmd="online" join="member" expected="member"/>' for n in names
    )
    options = {"stonith-enabled": "false", "symmetric-cluster": "false", "no-quorum-policy": "ignore"}
    properties = "".join(f'<nvpair id="o-{name}" name="{name}" value="{value}"/>' for name, value in options.items())
    return f"""<cib crm_feature_set="3.16.2" validate-with="pacemaker-3.8" epoch="1" num_updates="0" admin_epoch="0"
have-quorum="1" dc-uuid="db" execution-date="1700000000"><configuration><crm_config><cluster_property_set id="options">
{properties}</cluster_property_set></crm_config><nodes>{nodes}</nodes><resources>{resources}</resources>
<constraints>{places}{orders}</constraints></configuration><status>{states}</status></cib>""".encode()


def three_guests() -> State:
    """Return the state of a deployable of three guests with one monitored resource each, in order, once the guests are
    reached and nothing in them is started."""
    names = ("db", "app", "web")
    assemblies = tuple(
        Assembly(
            name=name,
            resources=(Resource(name="service", resource_class="systemd", type="service"),),
            after=tuple(Dependency(assembly=other) for other in names[:i][-1:]),
        )
        for i, name in enumerate(names)
    )
    guests = {
        name: Guest(power=Power.ON, link=Link.CONNECTED, probed=True, address=f"10.0.0.{i}", place="here")
        for i, name in enumerate(names, 2)
    }
    return State(deployable=Deployable(name="shop", assemblies=assemblies), guests=guests, places=("here",))
