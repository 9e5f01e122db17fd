"""What newer clients of CloudWatch speak instead of the Query protocol: Smithy's RPC v2 with CBOR, and JSON 1.0, both driven
by botocore's service model. Pure: bytes in, bytes out.

https://smithy.io/2.0/additional-specs/protocols/smithy-rpc-v2.html and …/aws/protocols/aws-json-1_0-protocol.html
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from enum import Enum
from typing import Any

import botocore.model
import botocore.validate
import cbor2

from pcloud.api.aws.query import QueryError

TARGETS = {"GraniteServiceVersion20100801": "cloudwatch"}
"""The service that a target's prefix means."""
MAX_BODY = 1024 * 1024
"""Bytes of a request, unpacked; what CloudWatch itself takes."""
_MAX_DEPTH = 20
_EPOCH_TAG = 1


def _refuse(*_: Any) -> Any:
    raise ValueError("a tag that no client sends")


# Only times are sent with a tag; what the others stand for (references, huge or broken numbers) is not wanted.
_TAGS = dict.fromkeys((0, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 100, 256, 258, 260, 261, 1004, 43000), _refuse)


class Form(Enum):
    """How a body is written."""

    CBOR = "application/cbor"
    JSON = "application/x-amz-json-1.0"


def read(model: botocore.model.OperationModel, body: bytes, form: Form) -> dict[str, Any]:
    """Return the input of an operation, in the shape's types; QueryError when it does not fit."""
    try:
        if not body:
            given: Any = {}
        elif form is Form.CBOR:
            given = cbor2.loads(body, max_depth=_MAX_DEPTH, semantic_decoders=_TAGS)
        else:
            given = json.loads(body)
    except (cbor2.CBORError, ValueError, RecursionError):
        raise QueryError("SerializationException", f"the body is not {form.name}") from None
    shape = model.input_shape
    if shape is None:
        return {}
    value: dict[str, Any] = _taken(shape, given, "the request")
    report = botocore.validate.ParamValidator().validate(value, shape)
    if report.has_errors():
        raise QueryError("ValidationError", report.generate_report())
    return value


def _taken(shape: Any, given: Any, where: str) -> Any:
    """Return a value as its shape has it; members that the shape does not know are left out."""
    wrong = QueryError("SerializationException", f"{where} must be of type {shape.type_name}")
    match shape.type_name:
        case "structure":
            if not isinstance(given, Mapping):
                raise wrong
            return {
                name: _taken(member, given[name], name)
                for name, member in shape.members.items()
                if given.get(name) is not None
            }
        case "list":
            if not isinstance(given, list):
                raise wrong
            return [_taken(shape.member, item, where) for item in given]
        case "boolean":
            if isinstance(given, bool):
                return given
        case "integer" | "long":
            if isinstance(given, int | float) and not isinstance(given, bool) and given == given // 1:
                return int(given)
        case "float" | "double":
            if isinstance(given, int | float) and not isinstance(given, bool) and abs(given) < 2**1023:
                return float(given)
        case "timestamp":
            return _moment(given, wrong)
        case "string":
            if isinstance(given, str):
                return given
    raise wrong


def _moment(given: Any, wrong: QueryError) -> datetime.datetime:
    if isinstance(given, datetime.datetime):
        return given
    try:
        if isinstance(given, str):
            return datetime.datetime.fromisoformat(given)
        if isinstance(given, int | float) and not isinstance(given, bool):
            return datetime.datetime.fromtimestamp(given, datetime.UTC)
    except (ValueError, OverflowError, OSError):
        raise wrong from None
    raise wrong


def answer(model: botocore.model.OperationModel, output: Mapping[str, Any], form: Form) -> bytes:
    """Return the body of an operation's answer."""
    shape = model.output_shape
    return _written(_given(shape, output, form) if shape is not None else {}, form)


def error(problem: QueryError, form: Form) -> bytes:
    """Return the body of an error."""
    return _written({"__type": problem.code, "message": str(problem)}, form)


def _written(value: Any, form: Form) -> bytes:
    return cbor2.dumps(value) if form is Form.CBOR else json.dumps(value).encode()


def _given(shape: Any, value: Any, form: Form) -> Any:
    match shape.type_name:
        case "structure":
            return {
                name: _given(member, value[name], form)
                for name, member in shape.members.items()
                if value.get(name) is not None
            }
        case "list":
            return [_given(shape.member, item, form) for item in value]
        case "timestamp":
            seconds = value.timestamp() if isinstance(value, datetime.datetime) else float(value)
            return cbor2.CBORTag(_EPOCH_TAG, seconds) if form is Form.CBOR else seconds
        case "float" | "double":
            return float(value)
    return value
