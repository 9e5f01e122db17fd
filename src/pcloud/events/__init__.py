"""Events: what happened, to whom, why; the log, the CloudEvents form and the sinks."""
