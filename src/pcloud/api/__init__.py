"""HTTP: the native REST API, CloudFormation, Heat, events as a stream, metrics."""
