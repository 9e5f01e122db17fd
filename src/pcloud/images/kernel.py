"""The kernel of machines and the small initrd that our own disk images boot with.

Owns a cache folder per kernel package: `image`, `initrd`, and `modules/` (a folder tree to lay under a root file
system). The kernel comes from the machine's own package mirror and is never installed on the host. Concurrency:
`fetch_kernel` may be called by many at once; who comes second finds the first's result, and half a result never has the
final name.
"""

from __future__ import annotations

import asyncio
import gzip
import lzma
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import msgspec

from pcloud.model.errors import PcloudError, Problem, Unavailable

_META_PACKAGE = "linux-image-cloud-amd64"
_WANTED = (
    "virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "virtio_net", "virtio_console", "virtio_rng", "virtio_balloon",
    "crc32c_generic", "crc32c_intel", "ext4", "isofs", "nls_iso8859-1", "nls_utf8", "sr_mod", "ata_piix", "ahci",
    "pvpanic-pci", "button", "evdev", "autofs4",
)  # fmt: skip
"""Modules that the initrd loads, where the kernel has them; it finds what they need by itself."""
_APPLETS = ("sh", "mount", "umount", "mkdir", "cat", "insmod", "sleep", "tar", "ip", "switch_root", "dd", "gunzip")
_VERSION = 6
"""Raised when what is made from a kernel package changes."""

INIT = """\
#!/bin/busybox sh
# Starts a machine made by pacemaker-cloud: root file system, identity from the seed, address from the command line.
/bin/busybox mkdir -p /proc /sys /dev /root /seed
for applet in @APPLETS@; do /bin/busybox ln -sf busybox /bin/$applet; done
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod /modules/$module 2>/dev/null; done < /modules/order
root=/dev/vda address= gateway=
for word in $(cat /proc/cmdline); do
  case $word in
  root=*) root=${word#root=} ;;
  pcloud.address=*) address=${word#*=} ;;
  pcloud.gateway=*) gateway=${word#*=} ;;
  esac
done
find_device() { # LABEL=x or a path; labels are read from where ext4 and ISO 9660 have them
  case $1 in
  LABEL=*)
    for entry in /sys/class/block/*; do
      for offset in 1144 32808; do
        label=$(dd if="/dev/${entry##*/}" bs=1 skip=$offset count=16 2>/dev/null)
        [ "${label%% *}" != "${1#LABEL=}" ] || { echo "/dev/${entry##*/}"; return; }
      done
    done ;;
  *) [ -b "$1" ] && echo "$1" ;;
  esac
}
n=0 device=
while device=$(find_device "$root"); [ -z "$device" ] && [ $n -lt 300 ]; do sleep 0.1; n=$((n+1)); done
mount -t ext4 -o rw "$device" /root || { echo "pcloud: no root file system on $root"; sleep 3600; }
# The seed: a tar archive on a disk of ours, or the user data of a cloud's configuration drive.
if [ -b /dev/vdb ] && tar -t -f /dev/vdb >/dev/null 2>&1; then
  tar -x -f /dev/vdb -C /root
else
  drive=$(find_device LABEL=config-2)
  if [ -n "$drive" ] && mount -t iso9660 -o ro "$drive" /seed; then
    gunzip -c < /seed/openstack/latest/user_data 2>/dev/null | tar -x -C /root
    umount /seed
  fi
fi
if [ -n "$address" ]; then
  ip link set lo up
  ip link set eth0 up
  ip addr add "$address" dev eth0
  [ -z "$gateway" ] || ip route add default via "$gateway"
fi
mount --move /dev /root/dev
mount --move /proc /root/proc
mount --move /sys /root/sys
exec switch_root /root /sbin/init
""".replace("@APPLETS@", " ".join(_APPLETS))


class Kernel(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel and what belongs to it."""

    version: str
    image: Path
    initrd: Path
    modules: Path
    """A folder with `usr/lib/modules/VERSION`."""


async def fetch_kernel(cache: Path) -> Kernel:
    """Return the distribution's newest kernel for virtual machines, from the cache where it is there.

    Unavailable `KERNEL_UNAVAILABLE` when the package mirror does not give it, `PROGRAM_MISSING` without busybox.
    """
    package = await _newest_package()
    version = package.removeprefix("linux-image-")
    final = cache / f"{version}-{_VERSION}"
    if not _exists(final):
        _make_folder(cache)
        with tempfile.TemporaryDirectory(prefix=".kernel-", dir=cache) as folder:
            work = Path(folder)
            await _unpack(package, work)
            made = work / "made"
            await asyncio.to_thread(_arrange, work / "tree", made, version)
            if shutil.which("depmod"):  # without its index, modules in the guest are not found by name
                await _output("depmod", "-b", str(made / "modules/usr"), version)
            await make_initrd(made / "modules/usr/lib/modules" / version, made / "initrd")
            try:
                made.rename(final)
            except OSError:
                if not _exists(final):  # another build was first: use its result
                    raise
    return Kernel(version=version, image=final / "image", initrd=final / "initrd", modules=final / "modules")


async def make_initrd(modules: Path, target: Path) -> None:
    """Write an initrd with the modules that a virtual machine needs, from a kernel's module folder."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise Unavailable(
            Problem(code="PROGRAM_MISSING", message="busybox is not installed", hint="apt-get install busybox-static")
        )
    if await asyncio.to_thread(_is_dynamic, busybox):
        raise Unavailable(
            Problem(code="PROGRAM_MISSING", message="busybox is not static", hint="apt-get install busybox-static")
        )
    lacking = set(_APPLETS) - set((await _output(busybox, "--list")).split())
    if lacking:
        raise Unavailable(
            Problem(
                code="PROGRAM_MISSING", message=f"busybox has no {', '.join(sorted(lacking))}",
                hint="apt-get install busybox-static",
            )
        )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "root")
        names = await asyncio.to_thread(_fill_initrd, root, modules, busybox)
        process = await asyncio.create_subprocess_exec(
            busybox, "cpio", "-o", "-H", "newc", "-R", "0:0",
            cwd=root,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        archive, error = await process.communicate("\n".join(names).encode())
        if process.returncode:
            raise PcloudError.of("BUILD_FAILED", f"cpio failed: {error.decode('utf-8', 'replace').strip()[-300:]}")
        await asyncio.to_thread(lambda: target.write_bytes(gzip.compress(archive, 6)))


def _is_dynamic(program: str) -> bool:
    with Path(program).open("rb") as file:
        return b"/ld-" in file.read(4096)


def _fill_initrd(root: Path, modules: Path, busybox: str) -> list[str]:
    """Put the initrd's files into a folder and return their names."""
    for name in ("bin", "modules", "dev", "proc", "sys", "root", "seed"):
        (root / name).mkdir(parents=True)
    shutil.copy(busybox, root / "bin/busybox")
    (root / "init").write_text(INIT)
    (root / "init").chmod(0o755)
    order = load_order(modules, _WANTED)
    for path in order:
        (root / "modules" / f"{module_name(path)}.ko").write_bytes(_module(path))
    (root / "modules/order").write_text("".join(f"{module_name(path)}.ko\n" for path in order))
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def load_order(folder: Path, wanted: Iterable[str]) -> list[Path]:
    """Return the modules to load, each after those it needs. Modules that do not exist are built in, or not needed."""
    found = {module_name(path): path for path in folder.rglob("*.ko*")}
    order: list[Path] = []
    done: set[str] = set()

    def add(name: str) -> None:
        name = name.replace("-", "_")
        if name in done or name not in found:
            return
        done.add(name)
        match = re.search(rb"(?:^|\0)depends=([^\0]*)", _module(found[name]))
        for needed in match[1].decode().split(",") if match else ():
            add(needed)
        order.append(found[name])

    for name in wanted:
        add(name)
    return order


def module_name(path: Path) -> str:
    """Return a module's name as the kernel knows it."""
    return path.name.partition(".ko")[0].replace("-", "_")


def _exists(path: Path) -> bool:
    return path.exists()


def _make_folder(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)


def _first(folder: Path, pattern: str) -> Path | None:
    return next(folder.glob(pattern), None)


def _module(path: Path) -> bytes:
    data = path.read_bytes()
    match path.suffix:
        case ".xz":
            return lzma.decompress(data)
        case ".gz":
            return gzip.decompress(data)
        case _:
            return data


def _arrange(tree: Path, made: Path, version: str) -> None:
    (made / "modules/usr/lib/modules").mkdir(parents=True)
    shutil.move(tree / f"boot/vmlinuz-{version}", made / "image")
    source = next(path for path in (tree / "lib/modules", tree / "usr/lib/modules") if path.is_dir()) / version
    shutil.move(source, made / "modules/usr/lib/modules" / version)


async def _newest_package() -> str:
    out = await _output("apt-cache", "depends", "--no-recommends", "--no-suggests", _META_PACKAGE)
    match = re.search(r"Depends: (linux-image-[0-9][\w.+~-]*)", out)
    if match is None:
        raise _unavailable(f"{_META_PACKAGE} is not in the package lists; run apt-get update")
    return match[1]


async def _unpack(package: str, work: Path) -> None:
    await _output("apt-get", "-q", "download", package, cwd=work)
    deb = _first(work, "*.deb")
    if deb is None:
        raise _unavailable(f"apt-get download {package} left no package")
    await _output("dpkg-deb", "-x", str(deb), str(work / "tree"))


async def _output(*argv: str, cwd: Path | None = None) -> str:
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd=cwd,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError:
        raise _unavailable(f"{argv[0]} is not on this machine") from None
    out, error = await process.communicate()
    if process.returncode:
        raise _unavailable(f"{' '.join(argv[:3])} failed: {error.decode('utf-8', 'replace').strip()[-300:]}")
    return out.decode("utf-8", "replace")


def _unavailable(message: str) -> Unavailable:
    return Unavailable(Problem(code="KERNEL_UNAVAILABLE", message=message, hint="Give a kernel and initrd of your own"))
