"""Starts the agent without `runpy` and `site`, from wherever its tree was copied to: `python3 -I -S -OO …/boot.py`."""

# Short, since a script is compiled at every start.
from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from pcloud.agent.anew import main

sys.exit(main())
