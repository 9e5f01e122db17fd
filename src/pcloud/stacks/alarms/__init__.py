"""Alarms: measured values over time (`metrics`), what an alarm concludes from them (`rule`), and who watches (`watcher`)."""
