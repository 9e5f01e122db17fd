"""CloudFormation, CloudWatch and Auto Scaling as AWS speaks them: the Query protocol, signed requests."""
