"""Help, completion, generated documents, start-up time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from pcloud.shell import manual
from pcloud.shell.framework import Command
from pcloud.shell.main import cli
from pcloud.shell.pcloudsh import cli as shell_cli
from tests.shell.conftest import BIN, Run
from tests.shell.fakeapi import Running

ROOT = Path(__file__).resolve().parents[2]
ALL = [(" ".join(words), command) for words, command in manual.commands(cli, ("pcloud",))]


@pytest.mark.parametrize(("name", "command"), ALL, ids=[name for name, _ in ALL])
def test_every_command_has_help_and_examples_that_parse(name: str, command: click.Command) -> None:
    assert isinstance(command, Command), name
    assert command.help, name
    assert command.get_short_help_str(limit=70)[-3:] != "...", "the short help is cut"
    assert command.examples, name
    for line, _ in command.examples:
        assert name in line


def test_the_front_page(pcloud: Run) -> None:
    text = pcloud("--help").stdout
    for section in cli.sections:
        assert f"{section}:" in text
    assert "Examples:" in pcloud("apply", "--help").stdout
    assert pcloud("--help").returncode == 0


def test_no_slow_import_for_help() -> None:
    """The budget of 150 ms for --help is held by what is not imported."""
    code = (
        "import sys; from pcloud.shell.main import run, cli; sys.argv = ['pcloud', '--help']; run(cli, 'pcloud');"
        "print([name for name in sys.modules if name.split('.')[0] in {'rich', 'httpx2', 'msgspec', 'yaml', "
        "'prompt_toolkit', 'fastapi', 'pydantic'}])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert ended.stdout.splitlines()[-1] == "[]"


def test_no_server_part_is_ever_imported() -> None:
    code = (
        "import sys, pcloud.shell.pcloudsh, pcloud.shell.interactive;"
        "print([name for name in sys.modules if name.split('.')[0] in {'fastapi', 'starlette', 'sqlalchemy', 'uvicorn', "
        "'pydantic'} or name.startswith(('pcloud.cpe', 'pcloud.api'))])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert ended.stdout.strip() == "[]"


def test_generated_documents_are_current() -> None:
    assert manual.stale(ROOT) == []


@pytest.mark.parametrize("page", ["pcloud.1", "pcloudsh.1"])
def test_man_pages_are_clean_roff(page: str) -> None:
    path = ROOT / "packaging" / "man" / page
    lines = path.read_text().splitlines()
    assert lines[0].startswith(".TH ")
    known = {".TH", ".SH", ".SS", ".PP", ".TP", ".B", ".BR", ".br", ".RS", ".RE", ".nf", ".fi"}
    for line in lines:
        assert not line.startswith("'")
        if line.startswith("."):
            assert line.split()[0] in known, line


def test_roff_escapes() -> None:
    assert manual.roff(".x -y \\") == "\\&.x \\-y \\e"


def complete(environment: dict[str, str], *words: str) -> list[str]:
    line = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1), "_PCLOUD_COMPLETE": "bash_complete"}
    ended = subprocess.run(
        [BIN / "pcloud"], env={**environment, **line}, capture_output=True, text=True, timeout=120, check=True
    )
    assert ended.stderr == ""
    return [found.partition(",")[2] for found in ended.stdout.splitlines() if found]


def test_completion_of_commands_and_names(environment: dict[str, str], api: Running) -> None:
    api.fleet.add("shop", {"web": ["httpd"]})
    api.fleet.add("other", {})
    assert complete(environment, "pcloud", "ex") == ["explain"]
    assert complete(environment, "pcloud", "status", "s") == ["shop"]
    assert complete(environment, "pcloud", "explain", "shop/w") == ["shop/web", "shop/web/httpd"]
    assert complete(environment, "pcloud", "assembly", "exec", "shop/") == ["shop/web"]
    assert complete(environment, "pcloud", "image", "build", "b") == ["bookworm"]


def test_completion_uses_the_options_on_the_line(environment: dict[str, str], api: Running) -> None:
    api.fleet.add("shop", {})
    elsewhere = {**environment, "PCLOUD_URL": "http://127.0.0.1:9"}
    assert complete(elsewhere, "pcloud", "--url", api.url, "status", "s") == ["shop"]


def test_completion_without_a_daemon_is_empty_and_silent(environment: dict[str, str]) -> None:
    environment["PCLOUD_URL"] = "http://127.0.0.1:9"
    assert complete(environment, "pcloud", "status", "") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(pcloud: Run, shell: str) -> None:
    script = pcloud("completion", shell).stdout
    assert "_PCLOUD_COMPLETE" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=60)


def test_pcloudsh_help(pcloudsh: Run) -> None:
    text = pcloudsh("--help").stdout
    assert "one command; its success is the exit code" in text
    assert isinstance(shell_cli, Command)


def test_no_color(environment: dict[str, str], api: Running) -> None:
    import pexpect

    api.fleet.add("shop", {}, state="failed")

    def on_a_terminal(**more: str) -> str:
        out, code = pexpect.run(f"{BIN}/pcloud get", env={**environment, **more}, withexitstatus=True, encoding="utf-8")
        assert code == 0
        assert isinstance(out, str)
        return out

    assert "\x1b[31m" in on_a_terminal()
    assert "\x1b[3" not in on_a_terminal(NO_COLOR="1")


def test_units_are_valid(tmp_path: Path) -> None:
    """systemd's own judgement, with programs that exist in place of those that a package installs."""
    import shutil

    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = (ROOT / "packaging" / "systemd" / "pcloud-cped.service").read_text()
    path = tmp_path / "pcloud-cped.service"
    path.write_text(unit.replace("/usr/bin/pcloud-cped", "/bin/true").replace("Documentation=man:pcloud(1)\n", ""))
    ended = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
    )
    assert "pcloud-cped.service" not in ended.stderr, ended.stderr
