"""Sinks: events on their way out to other software. Each module is one kind; `runner` delivers in order, at least once."""
