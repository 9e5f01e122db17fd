"""The intrinsic functions of both template languages: `evaluation` walks a value, `cfn` and `hot` hold the functions."""
