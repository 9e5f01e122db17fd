"""Deployables drawn at random that use everything a document can say."""

from __future__ import annotations

from hypothesis import strategies as st

from pcloud.model.deployable import (
    Assembly,
    Dependency,
    Deployable,
    Escalation,
    FileAttributes,
    Parameter,
    Reference,
    Resource,
    ServiceDependency,
)

_CONTROL = [chr(number) for number in range(32) if number not in (9, 10, 13)]
_text = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters=[*_CONTROL, "\ufffe", "\uffff"]), max_size=40
)
_name = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,6}[a-z0-9])?", fullmatch=True).filter(lambda name: name != "localhost")
_word = st.from_regex(r"[A-Za-z0-9_-]{1,10}", fullmatch=True)
_seconds = st.one_of(st.integers(1, 86400).map(float), st.floats(1.0, 86400.0))
_escalation = st.builds(Escalation, failures=st.integers(1, 10000), period=_seconds)
_argv = st.lists(_text, min_size=1, max_size=3).map(tuple)
_TEMPLATES = [
    ("httpd", "systemd", "", "apache2"),
    ("dummy", "ocf", "pcloud", "dummy"),
    ("", "lsb", "", "thing"),
    ("postgres", "ocf", "heartbeat", "pgsql"),
]


@st.composite
def _assemblies(draw: st.DrawFn) -> tuple[Assembly, ...]:
    names = draw(st.lists(_name, max_size=3, unique=True))
    made = []
    for index, name in enumerate(names):
        resources: list[Resource] = []
        for resource in draw(st.lists(_word, max_size=3, unique=True)):
            template, resource_class, provider, kind = draw(st.sampled_from(_TEMPLATES))
            value = st.one_of(
                _text,
                st.builds(
                    Reference, assembly=st.sampled_from(names), attribute=st.sampled_from(["ipaddress", "hostname"])
                ),
            )
            keys = draw(st.lists(st.from_regex(r"p_[a-z0-9]{1,4}", fullmatch=True), max_size=3, unique=True))
            resources.append(
                Resource(
                    name=resource,
                    template=template,
                    resource_class=resource_class,
                    provider=provider,
                    type=kind,
                    monitor_interval=draw(_seconds),
                    monitor_timeout=draw(_seconds),
                    monitor_start_delay=draw(st.one_of(st.just(0.0), _seconds.filter(lambda value: value <= 3600))),
                    start_timeout=draw(_seconds),
                    stop_timeout=draw(_seconds),
                    parameters=tuple(Parameter(name=k, value=draw(value), secret=draw(st.booleans())) for k in keys),
                    configure=draw(st.one_of(st.just(()), st.just(("/bin/x",)), _argv.filter(lambda a: a[0] != ""))),
                    escalation=draw(_escalation),
                    processes=draw(st.sampled_from([(), ("a",), ("a", "b:c")])),
                    after=tuple(one.name for one in resources if draw(st.booleans())),
                )
            )
        files = draw(st.dictionaries(st.from_regex(r"/[a-z.]{0,3}[a-z]", fullmatch=True), _text, max_size=3))
        special = [path for path in files if draw(st.booleans())]
        made.append(
            Assembly(
                name=name,
                image=draw(st.sampled_from(["bookworm", "noble"])),
                uuid=draw(st.sampled_from(["", "1", "0e5"])),
                packages=draw(st.sampled_from([(), ("a", "libc6:amd64=2.36~1")])),
                files=tuple(files.items()),
                file_attributes=tuple(
                    FileAttributes(path=p, mode=draw(st.integers(0, 0o643)), owner="www-data:adm")
                    for p in files
                    if p in special
                ),
                commands=tuple(draw(st.lists(_argv, max_size=2))),
                resources=tuple(resources),
                after=tuple(Dependency(assembly=o, restart=draw(st.booleans())) for o in names[:index]),
                escalation=draw(_escalation),
                agent=draw(st.sampled_from(["pcloud", "pacemaker"])),
                transport=draw(st.sampled_from(["remote", "ssh"])),
                memory=draw(st.sampled_from([0, 16, 1536])),
                saved_state=draw(st.booleans()),
                cpus=draw(st.sampled_from([0.0, 0.5, 2.0])),
                apart=draw(st.sampled_from(["", "replicas"])),
                start_timeout=draw(_seconds),
                stop_timeout=draw(_seconds),
            )
        )
    return tuple(made)


@st.composite
def deployables(draw: st.DrawFn) -> Deployable:
    """Deployables that pass validation; resources are ordered from the first assembly to the last."""
    assemblies = draw(_assemblies())
    members = [f"{a.name}.{r.name}" for a in assemblies[:1] for r in a.resources[:1]]
    last = [f"{a.name}.{r.name}" for a in assemblies[1:2] for r in a.resources[:1]]
    constraints = [
        ServiceDependency(
            id=draw(st.sampled_from(["x", f"{a}-then-{b}".replace(".", "-")])),
            first=a,
            then=b,
            restart=draw(st.booleans()),
        )
        for a, b in zip(members, last, strict=False)
    ]
    return Deployable(
        name=draw(_name),
        uuid=draw(st.sampled_from(["", "0001"])),
        username=draw(st.sampled_from(["", "true", "me"])),
        monitor=draw(st.sampled_from(["am", "pm"])),
        assemblies=assemblies,
        constraints=tuple(constraints),
        escalation=draw(_escalation),
        priority=draw(st.integers(-1000, 1000)),
        isolation=draw(st.sampled_from(["shared", "process"])),
    )
