"""HTTP: the native REST interface `/v1`, server-sent events, metrics. The only room that knows HTTP on our side."""
