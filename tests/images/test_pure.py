"""Definitions, apt's sources, identities, specs, progress: everything of images that needs no root."""

from __future__ import annotations

from pathlib import Path

import asyncssh
import msgspec
import pytest

from pcloud.images import apt
from pcloud.images.assembly import AssemblyImageSpec, ImageFile, check
from pcloud.images.definitions import JeosDefinition, definition, definitions
from pcloud.images.identity import make_identity
from pcloud.images.jeos import BuildProgress
from pcloud.images.store import ImageStore, Manifest
from pcloud.model.errors import Conflict, InvalidDocument, NotFound

ONE_LINE = """
# deb http://commented.example/debian bookworm main
deb [signed-by=/k.gpg arch=amd64] http://mirror.example/debian/ bookworm main contrib
deb-src http://mirror.example/debian bookworm main
deb http://sec.example/debian-security bookworm-security main # why
"""
DEB822 = """
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm
 bookworm-updates
Components: main
# comment
Signed-By: /k.gpg

Enabled: no
Types: deb
URIs: http://off.example/
Suites: bookworm

Types: deb
URIs: http://ubuntu.example/ubuntu
Suites: noble
Components: main universe
"""


def test_definitions_are_complete() -> None:
    assert set(definitions()) >= {"bookworm", "trixie", "jammy", "noble"}
    for each in definitions().values():
        assert "openssh-server" in each.packages
        assert each.digest("x86_64") != each.digest("aarch64")


def test_unknown_names_are_told() -> None:
    with pytest.raises(NotFound, match="UNKNOWN_JEOS"):
        definition("F14", "x86_64")
    with pytest.raises(NotFound, match="UNKNOWN_ARCH"):
        definition("bookworm", "vax")


def test_sources_are_read_in_both_forms(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text(ONE_LINE)
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "x.sources").write_text(DEB822)
    (tmp_path / "sources.list.d" / "x.sources.bak").write_text("Types: deb\nURIs: http://bad.example\nSuites: x\n")
    found = [(s.uri, s.suite) for s in apt.read_sources(tmp_path)]
    assert found == [
        ("http://mirror.example/debian", "bookworm"),
        ("http://sec.example/debian-security", "bookworm-security"),
        ("http://mirror.example/debian", "bookworm"),
        ("http://mirror.example/debian", "bookworm-updates"),
        ("http://ubuntu.example/ubuntu", "noble"),
    ]


def test_mirrors_are_derived_from_the_hosts(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text(ONE_LINE)
    sources = apt.read_sources(tmp_path)
    host = ("debian", "bookworm")
    trixie, noble = definitions()["trixie"], definitions()["noble"]
    assert apt.candidates(trixie, "trixie", sources, host) == ["http://mirror.example/debian"]
    assert apt.candidates(trixie, "trixie-security", sources, host) == ["http://sec.example/debian-security"]
    assert apt.candidates(noble, "noble", sources, host) == [noble.mirror]


def test_identities_open_with_their_own_keys_only() -> None:
    one, two = make_identity("web"), make_identity("web")
    assert len(one.identity.agent_key) == 256
    assert one.identity != two.identity
    private = asyncssh.import_private_key(one.private_key)
    assert private.export_public_key("openssh").split()[1] == one.identity.authorized_key.split()[1].encode()
    host = asyncssh.import_private_key(one.identity.host_private_key)
    assert host.export_public_key("openssh").split()[1] == one.host_key.split()[1].encode()
    assert one.private_key not in repr(one)


def test_digest_changes_with_every_part() -> None:
    base = AssemblyImageSpec(jeos="bookworm", agent="")
    changed = [
        msgspec.structs.replace(base, **change)
        for change in (
            {"jeos": "trixie"},
            {"packages": ("redis",)},
            {"files": (ImageFile(path="/a", content="x"),)},
            {"files": (ImageFile(path="/a", content="x", mode=0o600),)},
            {"commands": (("true",),)},
            {"agent": "pacemaker"},
            {"disable_units": ("x.service",)},
            {"transport": "ssh"},
        )
    ]
    assert len({spec.digest for spec in (base, *changed)}) == len(changed) + 1
    assert base.digest == AssemblyImageSpec(jeos="bookworm", agent="").digest


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"agent": "matahari"}, "UNKNOWN_AGENT"),
        ({"packages": ("--option",)}, "INVALID_PACKAGE"),
        ({"packages": ("a b",)}, "INVALID_PACKAGE"),
        ({"packages": ("x-",)}, "INVALID_PACKAGE"),
        ({"packages": ("g++", "libc6:amd64", "a1=1:2.3-4~b")}, None),
        ({"packages": ("../x.deb",)}, "INVALID_PACKAGE"),
        ({"disable_units": ("a b",)}, "INVALID_UNIT"),
        ({"disable_units": ("--root=/",)}, "INVALID_UNIT"),
        ({"files": (ImageFile(path="../etc/x", content=""),)}, "INVALID_PATH"),
        ({"files": (ImageFile(path="/a/../../x", content=""),)}, "INVALID_PATH"),
        ({"files": (ImageFile(path="/a/", content=""),)}, "INVALID_PATH"),
        ({"files": (ImageFile(path="/a\0", content=""),)}, "INVALID_PATH"),
        ({"files": (ImageFile(path="/a", content="", owner="root"),)}, "INVALID_OWNER"),
        ({"commands": ((),)}, "INVALID_COMMAND"),
        ({"commands": (("a\0",),)}, "INVALID_COMMAND"),
    ],
)
def test_bad_specs_are_refused(change: dict[str, object], code: str | None) -> None:
    spec = msgspec.structs.replace(AssemblyImageSpec(jeos="bookworm", agent=""), **change)
    if code is None:
        check(spec)
    else:
        with pytest.raises(InvalidDocument) as caught:
            check(spec)
        assert caught.value.code == code


def test_progress_never_falls_and_ends_high() -> None:
    seen: list[float] = []
    progress = BuildProgress(lambda fraction, _: seen.append(fraction))
    for line in [
        "I: running apt-get update...",
        "I: downloading packages with apt...",
        "0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.",
        *[f"Get:{i} http://x y" for i in range(9)],
        "I: extracting archives...",
        "I: installing essential packages...",
        *["Unpacking a (1) ...", "Setting up a (1) ..."] * 4,
        "I: installing remaining packages inside the chroot...",
        "0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.",
        *["Unpacking a (1) ...", "Setting up a (1) ..."] * 4,
        "I: cleaning package lists and apt cache...",
    ]:
        progress.line(line)
    assert seen == sorted(seen)
    assert seen[-1] == 0.95


async def test_store_lists_only_whole_images_and_guards_the_jeos_below(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    assert store.list_jeos() == []
    digest = definition("bookworm", "x86_64").digest("x86_64")
    jeos = tmp_path / "jeos" / f"bookworm-x86_64-{digest}"
    (jeos / "rootfs").mkdir(parents=True)
    (tmp_path / "jeos" / ".new-bookworm-x86_64-0").mkdir()
    assert store.list_jeos() == []
    assert store.find_jeos("bookworm", "x86_64") is None
    manifest = Manifest(name="bookworm", kind="jeos", arch="x86_64", digest=digest)
    (jeos / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    assert store.list_jeos() == [manifest]
    layer = tmp_path / "assemblies" / "d1"
    layer.mkdir(parents=True)
    above = Manifest(name="bookworm", kind="assembly", arch="x86_64", digest="d1", jeos=jeos.name)
    (layer / "manifest.json").write_bytes(msgspec.json.encode(above))
    with pytest.raises(Conflict):
        await store.delete_jeos("bookworm", "x86_64")
    assert await store.delete_assembly_images({"d1"}) == []
    assert await store.delete_assembly_images(set()) == ["d1"]
    await store.delete_jeos("bookworm", "x86_64")
    assert store.list_jeos() == []
    assert not jeos.exists()
    with pytest.raises(NotFound):
        await store.delete_jeos("bookworm", "x86_64")


def test_bad_definition_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"name": "x", "packages": "y"}, JeosDefinition)


def test_doctor_says_how_to_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pcloud.images.checks import checks

    monkeypatch.setattr("shutil.which", lambda program, path: None if program == "mmdebstrap" else f"/bin/{program}")
    by_name = {each.check: each for each in checks(tmp_path / "not" / "yet")}
    assert by_name["images: mmdebstrap"].state == "missing"
    assert by_name["images: mmdebstrap"].hint == "apt-get install mmdebstrap"
    assert by_name["images: unshare"].state == "ok"
