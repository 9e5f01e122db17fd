"""What a change of the deployable does to the state: who is new, who leaves, what is forgotten."""

from __future__ import annotations

from msgspec.structs import replace

from pcloud.model.deployable import Assembly, Resource
from pcloud.policy import service_limits
from pcloud.policy.observation import Configured, Resizing
from pcloud.policy.state import Health, Power, State


def configure(state: State, wish: Configured) -> State:
    """Return the state with the user's newest wishes; what is no longer part of them becomes leaving."""
    new = wish.deployable
    state = service_limits.intend(state, new)
    names = {assembly.name for assembly in new.assemblies}
    leaving = tuple(a for a in state.assemblies() if a.name not in names)
    known = names | {assembly.name for assembly in leaving}
    leaving += tuple(
        Assembly(name=name, resources=_started(state, name)) for name in state.memory.assemblies if name not in known
    )
    leaving_resources: dict[str, tuple[Resource, ...]] = {}
    for assembly in new.assemblies:
        before = next((a for a in state.assemblies() if a.name == assembly.name), None)
        if before is not None and (gone := _gone(state, before, assembly)):
            leaving_resources[assembly.name] = gone
    for assembly in leaving:
        if assembly.name in state.leaving_resources:
            leaving_resources[assembly.name] = state.leaving_resources[assembly.name]
    unrecoverable = state.memory.unrecoverable
    if new != state.deployable or any(state.images.get(name, digest) != digest for name, digest in wish.images.items()):
        # A changed definition is a reason to try again what could not be helped before.
        unrecoverable = {}
    return replace(
        state,
        deployable=new,
        target=wish.target,
        paused=wish.paused,
        revision=wish.revision,
        leaving=leaving,
        leaving_resources=leaving_resources,
        hostnames=wish.hostnames,
        images={**state.images, **wish.images},
        places=wish.places or state.places,
        live_limits=wish.resizing is Resizing.LIVE,
        memory=replace(
            state.memory,
            unrecoverable=unrecoverable,
            assemblies=tuple(sorted(names | {a.name for a in leaving})),
        ),
        blocked="" if new != state.deployable else state.blocked,
    )


def _gone(state: State, before: Assembly, after: Assembly) -> tuple[Resource, ...]:
    """Return the resources to be stopped for good: whatever is not known to be stopped, also of a former engine's time."""
    names = {resource.name for resource in after.resources}
    former = {resource.name: resource for resource in (*_started(state, before.name), *state.resources(before))}
    return tuple(
        resource
        for name, resource in former.items()
        if name not in names and state.service(f"{before.name}/{name}").health is not Health.STOPPED
    )


def _started(state: State, assembly: str) -> tuple[Resource, ...]:
    """Return the definitions with which resources of an assembly were started, as far as they survived."""
    return tuple(
        definition
        for subject, (_, definition) in state.memory.started.items()
        if definition is not None and subject.partition("/")[0] == assembly and not subject.endswith("!configure")
    )


def outlived(state: State, subject: str, digest: str, definition: Resource) -> State:
    """Return the state with a resource that was started after it had been removed: what of it runs is asked, and stopped."""
    assembly, _, name = subject.partition("/")
    if name.endswith("!configure") or all(assembly != known.name for known in state.deployable.assemblies):
        return state
    leaving = (*state.leaving_resources.get(assembly, ()), definition)
    return replace(
        state,
        leaving_resources={**state.leaving_resources, assembly: leaving},
        services={key: value for key, value in state.services.items() if key != subject},
        memory=replace(state.memory, started={**state.memory.started, subject: (digest, definition)}),
    )


def stopped(state: State, subject: str) -> State:
    """Return the state after a service stopped: a leaving resource is gone with it."""
    assembly, _, name = subject.partition("/")
    if name.endswith("!configure") or not state.is_leaving(assembly, name) or assembly not in state.leaving_resources:
        return state
    remaining = tuple(r for r in state.leaving_resources[assembly] if r.name != name)
    leaving = {**state.leaving_resources, assembly: remaining}
    if not remaining:
        del leaving[assembly]
    services = {key: value for key, value in state.services.items() if key.removesuffix("!configure") != subject}
    started = {key: value for key, value in state.memory.started.items() if key.removesuffix("!configure") != subject}
    return replace(state, leaving_resources=leaving, services=services, memory=replace(state.memory, started=started))


def departed(state: State, name: str) -> State:
    """Return the state without an assembly whose guest was removed."""
    keep = {key: value for key, value in state.services.items() if key.partition("/")[0] != name}
    memory = state.memory
    return replace(
        state,
        leaving=tuple(a for a in state.leaving if a.name != name),
        leaving_resources={k: v for k, v in state.leaving_resources.items() if k != name},
        guests={k: v for k, v in state.guests.items() if k != name},
        services=keep,
        images={k: v for k, v in state.images.items() if k != name},
        memory=replace(
            memory,
            failures={k: v for k, v in memory.failures.items() if k.partition("/")[0] != name},
            backoff={k: v for k, v in memory.backoff.items() if k.partition("/")[0] != name},
            started={k: v for k, v in memory.started.items() if k.partition("/")[0] != name},
            faults={k: v for k, v in memory.faults.items() if k != name},
            excluded={k: v for k, v in memory.excluded.items() if k != name},
            excluded_at={k: v for k, v in memory.excluded_at.items() if k != name},
            assemblies=tuple(other for other in memory.assemblies if other != name),
            limited=tuple(one for one in memory.limited if one.partition("/")[0] != name),
        ),
    )


def removable(state: State) -> tuple[str, ...]:
    """Return the leaving assemblies whose guests are off, so that everything of them may be removed."""
    return tuple(
        a.name for a in state.leaving if state.guest(a.name).probed and state.guest(a.name).power is not Power.ON
    )
