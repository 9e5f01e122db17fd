"""The commands of `pcloudsh`: the table, and what each does. Names and arguments are those of the original shell."""

from __future__ import annotations

from pcloud.model.deployable import ResourceState
from pcloud.shell import listing, wait
from pcloud.shell.output import done
from pcloud.shell.verbs import Argument, Call, Verb

BUILD_TIMEOUT = 2 * 3600.0
"""Seconds; an image of a large distribution from a slow mirror."""
STATE_TIMEOUT = 1800.0
IMAGES, ASSEMBLIES, DEPLOYABLES, ESCALATION = "Images (JEOS)", "Assemblies", "Deployables", "Escalation"


def _job(call: Call, job: str, requested: str, finished: str) -> None:
    """Wait for a job, if there is one and the user wants to."""
    if job and not call.wait:
        done(requested)
        return
    if job:
        with call.view() as show:
            wait.for_job(call.client, job, timeout=BUILD_TIMEOUT, show=show)
    done(finished)


def _state(call: Call, action: str, goal: ResourceState) -> None:
    """Ask for an action and wait for the state it leads to."""
    name = call["DEPLOYABLE"]
    before = call.client.status(name)
    call.client.command(name, action)
    if not call.wait:
        done(f"{name}: {action} requested")
        return
    stale = before if before.state != goal or action == "reload" else None
    with call.view() as show:
        wait.for_state(call.client, name, goal, timeout=STATE_TIMEOUT, show=show, before=stale)
    done(f"{name}: {goal}")


def jeos_create(call: Call) -> None:
    """Build an image."""
    name, arch = call["NAME"], call["ARCH"]
    job = call.client.create_jeos(name, arch)
    _job(call, job, f"{name} {arch}: build requested", f"{name} {arch}: ready")


def jeos_list(call: Call) -> None:
    """List images."""
    listing.images(call.client.jeos())


def jeos_delete(call: Call) -> None:
    """Delete an image."""
    call.client.delete_jeos(call["NAME"], call["ARCH"])
    done(f"{call['NAME']} {call['ARCH']}: deleted")


def assembly_create(call: Call) -> None:
    """Make an assembly."""
    job = call.client.create_assembly(call["NAME"], call["JEOS"], call["ARCH"])
    _job(call, job, f"{call['NAME']}: creation requested", f"{call['NAME']}: created")


def assembly_clone(call: Call) -> None:
    """Clone an assembly."""
    job = call.client.clone_assembly(call["FROM"], call["TO"])
    _job(call, job, f"{call['TO']}: creation requested", f"{call['TO']}: created from {call['FROM']}")


def assembly_delete(call: Call) -> None:
    """Delete an assembly."""
    call.client.delete_assembly(call["NAME"])
    done(f"{call['NAME']}: deleted")


def assembly_list(call: Call) -> None:
    """List the library."""
    listing.assemblies(call.client.assemblies())


def assembly_resource_add(call: Call) -> None:
    """Add a resource to an assembly."""
    name, template, assembly = call["RESOURCE"], call["TEMPLATE"], call["ASSEMBLY"]
    job = call.client.add_resource(assembly, name, template)
    _job(call, job, f"{assembly}: {name} requested", f"{assembly}: {name} added")


def assembly_resource_list(call: Call) -> None:
    """List the resources of an assembly."""
    listing.resources(call.client.assembly_resources(call["ASSEMBLY"]))


def assembly_resource_remove(call: Call) -> None:
    """Remove a resource from an assembly."""
    call.client.remove_resource(call["ASSEMBLY"], call["RESOURCE"])
    done(f"{call['ASSEMBLY']}: {call['RESOURCE']} removed")


def deployable_create(call: Call) -> None:
    """Make an empty deployable."""
    call.client.create_empty(
        call["NAME"], infrastructure=call["INFRASTRUCTURE"], username=call["USER"], monitor=call["MONITOR"]
    )
    done(f"{call['NAME']}: created")


def deployable_delete(call: Call) -> None:
    """Delete a deployable."""
    name = call["DEPLOYABLE"]
    _job(call, call.client.delete(name), f"{name}: deletion requested", f"{name}: deleted")


def deployable_list(call: Call) -> None:
    """List deployables."""
    listing.deployables(call.client.deployables())


def deployable_start(call: Call) -> None:
    """Start a deployable."""
    _state(call, "start", ResourceState.RUNNING)


def deployable_stop(call: Call) -> None:
    """Stop a deployable."""
    _state(call, "stop", ResourceState.STOPPED)


def deployable_reload(call: Call) -> None:
    """Apply a deployable's definition again."""
    name = call["DEPLOYABLE"]
    if call.client.status(name).target == "stopped":
        call.client.command(name, "reload")
        done(f"{name}: reloaded; it stays stopped")
        return
    _state(call, "reload", ResourceState.RUNNING)


def deployable_status(call: Call) -> None:
    """Show a deployable."""
    listing.status(call.client.status(call["DEPLOYABLE"]))


def deployable_assembly_add(call: Call) -> None:
    """Put an assembly into a deployable."""
    call.client.add_assembly(call["DEPLOYABLE"], call["ASSEMBLY"])
    done(f"{call['DEPLOYABLE']}: {call['ASSEMBLY']} added")


def deployable_assembly_remove(call: Call) -> None:
    """Take an assembly out of a deployable."""
    call.client.remove_assembly(call["DEPLOYABLE"], call["ASSEMBLY"])
    done(f"{call['DEPLOYABLE']}: {call['ASSEMBLY']} removed")


def deployable_assembly_list(call: Call) -> None:
    """List the assemblies of a deployable."""
    listing.members(call.client.deployable_assemblies(call["DEPLOYABLE"]))


def escalation_resource_set(call: Call) -> None:
    """Set a resource's escalation."""
    failures, period = int(call["FAILURES"]), float(call["PERIOD"])
    call.client.set_escalation(call["ASSEMBLY"], call["RESOURCE"], failures=failures, period=period)
    done(f"{call['ASSEMBLY']}/{call['RESOURCE']}: escalates at failure {failures} within {period:g} s")


def escalation_assembly_set(call: Call) -> None:
    """Set an assembly's escalation."""
    failures, period = int(call["FAILURES"]), float(call["PERIOD"])
    call.client.set_escalation(call["ASSEMBLY"], None, failures=failures, period=period)
    done(f"{call['ASSEMBLY']}: escalates at failure {failures} within {period:g} s")


_JEOS = Argument("JEOS", "jeos", "an image, as jeos_list names it")
_ARCH = Argument("ARCH", "arch", "its architecture, such as x86_64")
_ASSEMBLY = Argument("ASSEMBLY", "assembly", "an assembly of the library")
_DEPLOYABLE = Argument("DEPLOYABLE", "deployable", "a deployable")
_RESOURCE = Argument("RESOURCE", "resource", "a resource of the assembly")
_FAILURES = Argument("FAILURES", "number", "the failure that escalates; those before it restart the thing itself")
_PERIOD = Argument("PERIOD", "seconds", "seconds within which failures are counted together")

TABLE: tuple[Verb, ...] = (
    Verb(
        section=IMAGES,
        name="jeos_create",
        arguments=(Argument("NAME", "jeos", "the image's name, such as bookworm"), _ARCH),
        help="Build a just-enough-OS image. Shows progress and returns when the image is ready; Ctrl-C ends the wait, not "
        "the build.",
        example="jeos_create bookworm x86_64",
        run=jeos_create,
        waits=True,
    ),
    Verb(
        section=IMAGES,
        name="jeos_list",
        help="List the images that are built or can be.",
        example="jeos_list",
        run=jeos_list,
    ),
    Verb(
        section=IMAGES,
        name="jeos_delete",
        arguments=(Argument("NAME", "jeos", "the image's name"), _ARCH),
        help="Delete an image that no assembly uses.",
        example="jeos_delete bookworm x86_64",
        run=jeos_delete,
    ),
    Verb(
        section=ASSEMBLIES,
        name="assembly_create",
        arguments=(Argument("NAME", "new", "the new assembly's name"), _JEOS, _ARCH),
        help="Make an assembly from an image.",
        example="assembly_create assy1 bookworm x86_64",
        run=assembly_create,
        waits=True,
    ),
    Verb(
        section=ASSEMBLIES,
        name="assembly_clone",
        arguments=(
            Argument("FROM", "assembly", "the assembly to copy"),
            Argument("TO", "new", "the new assembly's name"),
        ),
        help="Make another assembly like one, with an identity of its own (name, address, machine id, host keys).",
        example="assembly_clone assy1 assy2",
        run=assembly_clone,
        waits=True,
    ),
    Verb(
        section=ASSEMBLIES,
        name="assembly_delete",
        arguments=(Argument("NAME", "assembly", "an assembly of the library"),),
        help="Delete an assembly that is in no deployable.",
        example="assembly_delete assy2",
        run=assembly_delete,
    ),
    Verb(
        section=ASSEMBLIES,
        name="assembly_list",
        help="List the assemblies of the library.",
        example="assembly_list",
        run=assembly_list,
    ),
    Verb(
        section=ASSEMBLIES,
        name="assembly_resource_add",
        arguments=(
            Argument("RESOURCE", "template", "the new resource's name"),
            Argument("TEMPLATE", "template", "the service it is, such as httpd"),
            _ASSEMBLY,
        ),
        help="Add a resource (a service) to an assembly. The packages that its template names come into the image.",
        example="assembly_resource_add httpd httpd assy1",
        run=assembly_resource_add,
        waits=True,
    ),
    Verb(
        section=ASSEMBLIES,
        name="assembly_resource_list",
        arguments=(_ASSEMBLY,),
        help="List the resources of an assembly.",
        example="assembly_resource_list assy1",
        run=assembly_resource_list,
    ),
    Verb(
        section=ASSEMBLIES,
        name="assembly_resource_remove",
        arguments=(_RESOURCE, _ASSEMBLY),
        help="Remove a resource from an assembly.",
        example="assembly_resource_remove httpd assy1",
        run=assembly_resource_remove,
    ),
    Verb(
        section=DEPLOYABLES,
        name="deployable_create",
        arguments=(
            Argument("NAME", "new", "the new deployable's name"),
            Argument("INFRASTRUCTURE", "infrastructure", "where its guests run; lxc unless given", True, "lxc"),
            Argument(
                "USER", "new", "the user in whose name guests are made, where an infrastructure knows users", True
            ),
            Argument(
                "MONITOR",
                "monitor",
                "am: an agent in the guest; pm: plain sshd; none: the infrastructure alone",
                True,
                "am",
            ),
        ),
        help="Make a deployable without assemblies.",
        example="deployable_create dep1",
        run=deployable_create,
    ),
    Verb(
        section=DEPLOYABLES,
        name="deployable_delete",
        arguments=(_DEPLOYABLE,),
        help="Stop a deployable in order and remove all of it. Its assemblies stay in the library.",
        example="deployable_delete dep1",
        run=deployable_delete,
        waits=True,
    ),
    Verb(
        section=DEPLOYABLES,
        name="deployable_list",
        help="List the deployables.",
        example="deployable_list",
        run=deployable_list,
    ),
    Verb(
        section=DEPLOYABLES,
        name="deployable_start",
        arguments=(_DEPLOYABLE,),
        help="Start a deployable. Returns when all of it runs, or with the reason why it can not.",
        example="deployable_start dep1",
        run=deployable_start,
        waits=True,
    ),
    Verb(
        section=DEPLOYABLES,
        name="deployable_stop",
        arguments=(_DEPLOYABLE,),
        help="Stop a deployable, in reverse order.",
        example="deployable_stop dep1",
        run=deployable_stop,
        waits=True,
    ),
    Verb(
        section=DEPLOYABLES,
        name="deployable_reload",
        arguments=(_DEPLOYABLE,),
        help="Apply a deployable's definition again. What is as it shall be is not restarted.",
        example="deployable_reload dep1",
        run=deployable_reload,
        waits=True,
    ),
    Verb(
        section=DEPLOYABLES,
        name="deployable_status",
        arguments=(_DEPLOYABLE,),
        help="Show a deployable with its assemblies and resources.",
        example="deployable_status dep1",
        run=deployable_status,
    ),
    Verb(
        section=DEPLOYABLES,
        name="deployable_assembly_add",
        arguments=(_DEPLOYABLE, _ASSEMBLY),
        help="Put an assembly into a deployable. At once when the deployable runs.",
        example="deployable_assembly_add dep1 assy1",
        run=deployable_assembly_add,
    ),
    Verb(
        section=DEPLOYABLES,
        name="deployable_assembly_remove",
        arguments=(_DEPLOYABLE, Argument("ASSEMBLY", "member", "an assembly of the deployable")),
        help="Take an assembly out of a deployable. Its guest is stopped and removed.",
        example="deployable_assembly_remove dep1 assy3",
        run=deployable_assembly_remove,
    ),
    Verb(
        section=DEPLOYABLES,
        name="deployable_assembly_list",
        arguments=(_DEPLOYABLE,),
        help="List the assemblies of a deployable.",
        example="deployable_assembly_list dep1",
        run=deployable_assembly_list,
    ),
    Verb(
        section=ESCALATION,
        name="escalation_resource_set",
        arguments=(_RESOURCE, _ASSEMBLY, _FAILURES, _PERIOD),
        help="Set when failures of a resource escalate to its assembly.",
        example="escalation_resource_set httpd assy1 3 60",
        run=escalation_resource_set,
    ),
    Verb(
        section=ESCALATION,
        name="escalation_assembly_set",
        arguments=(_ASSEMBLY, _FAILURES, _PERIOD),
        help="Set when failures of an assembly escalate to its deployable.",
        example="escalation_assembly_set assy1 3 600",
        run=escalation_assembly_set,
    ),
)

VERBS: dict[str, Verb] = {verb.name: verb for verb in TABLE}
