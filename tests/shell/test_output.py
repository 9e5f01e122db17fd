"""What fits into a terminal of 80 columns, and what becomes of the rest: no column vanishes, no word is cut."""

from __future__ import annotations

import io

import pytest

from pcloud.shell.output import hung, kept_whole, line, table


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def narrow(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make standard output a terminal of 80 columns. Called in the test: pytest lays its own streams before each phase."""
    stream = Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    return stream


DETAIL = "can do: addresses, console, execute, firewall, firewall-groups, fixed-addresses, limits, network, networks"
HINT = "the daemon writes one to /var/lib/pcloud/token at its first start; or set $PCLOUD_TOKEN"


def test_no_column_of_a_wide_table_vanishes(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = narrow(monkeypatch)
    rows = [("infrastructure lxc", "ok", DETAIL, ""), ("token", "warning", "none was found", HINT)]
    table(("CHECK", "STATE", "DETAIL", "HOW TO MEND IT"), rows, empty="")
    lines = terminal.getvalue().splitlines()
    assert all(len(text) <= 80 for text in lines)
    assert lines[0].split() == ["CHECK", "STATE", "DETAIL", "HOW", "TO", "MEND", "IT"]
    words = set(terminal.getvalue().split())
    assert {"infrastructure", "lxc", "warning"} <= words
    assert set(DETAIL.split()) <= words
    assert set(HINT.split()) <= words


def test_the_last_column_is_kept_where_an_earlier_one_is_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = narrow(monkeypatch)
    row = ("bookworm-cfntools", "x86_64", "ready", "Debian 12 with cloud-init and heat-cfntools", "312.4 MiB")
    table(("NAME", "ARCH", "STATE", "DISTRIBUTION", "SIZE"), [row], empty="")
    lines = terminal.getvalue().splitlines()
    assert all(len(text) <= 80 for text in lines)
    assert "312.4 MiB" in lines[1]
    assert "heat-cfntools" in lines[2]


@pytest.mark.parametrize("width", [20, 40, 80, 120, 10_000])
def test_what_is_kept_whole_leaves_room_for_the_others(width: int) -> None:
    widths = [18, 7, 110, 90]
    whole = kept_whole(widths, width)
    left = width - 2 * len(widths) - sum(widths[number] for number in whole)
    assert left >= 12 * (len(widths) - len(whole)) or whole <= {1}
    assert width < 1000 or whole == {0, 1, 2, 3}


def test_a_long_line_goes_on_beneath_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = narrow(monkeypatch)
    text = "             start db/mysqld  done in 333 ms  (find out what runs before anything is started)"
    assert hung(text, 13, 80).splitlines() == [
        "             start db/mysqld  done in 333 ms  (find out what runs before",
        "             anything is started)",
    ]
    assert hung("short", 13, 80) == "short"
    line(text, hang=13)
    assert all(len(found) <= 80 for found in terminal.getvalue().splitlines())
    assert terminal.getvalue().split() == text.split()


def test_a_line_in_a_pipe_stays_one(capsys: pytest.CaptureFixture[str]) -> None:
    line("word " * 100, hang=13, state="running")
    assert capsys.readouterr().out == "word " * 100 + "\n"
