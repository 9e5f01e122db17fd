"""The real daemon over stand-in images and engine processes, as a process of its own. Prints its URL when ready."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from pcloud.cpe.home import Home
from pcloud.cpe.main import Daemon, real_documents, serve, with_options
from pcloud.cpe.settings import load
from tests.cpe.fakes import FolderImages


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    home = Home(Path(sys.argv[1]))
    engine = str(Path(__file__).with_name("fake_engine.py"))
    daemon = Daemon(
        home,
        lambda: with_options(load(home.settings), listen="127.0.0.1:0"),
        documents=real_documents,
        images=lambda home, settings: FolderImages(home.path / "images"),
        command=(sys.executable, engine),
    )
    sys.exit(serve(daemon, ready=lambda url: print(url, flush=True)))


if __name__ == "__main__":
    main()
