"""AWS's Query protocol on the server's side, driven by botocore's service model. Pure: form in, text out."""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape

import botocore.loaders
import botocore.model
import botocore.validate

VERSIONS = {"cloudformation": "2010-05-15", "cloudwatch": "2010-08-01", "autoscaling": "2011-01-01"}
MAX_FIELDS = 20_000


class QueryError(Exception):
    """An error that the client sees: code and sentence as the protocol has them."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


@functools.cache
def service(name: str = "cloudformation") -> botocore.model.ServiceModel:
    """Return the model of a service."""
    data = botocore.loaders.Loader().load_service_model(name, "service-2", VERSIONS[name])
    return botocore.model.ServiceModel(data, name)


def operation(name: str, of: str = "cloudformation") -> botocore.model.OperationModel:
    """Return an operation of a service's model; QueryError when it has no such one."""
    if name not in service(of).operation_names:
        raise QueryError("InvalidAction", f"Could not find operation {name} for version {VERSIONS[of]}")
    return service(of).operation_model(name)


def parse(model: botocore.model.OperationModel, form: Mapping[str, str]) -> dict[str, Any]:
    """Return the input of an operation, in the shape's types; QueryError ValidationError when it does not fit."""
    if len(form) > MAX_FIELDS:
        raise QueryError("ValidationError", "too many fields")
    shape = model.input_shape
    if shape is None:
        return {}
    tree = _tree({key: value for key, value in form.items() if key not in ("Action", "Version", "ContentType")})
    value = _value(shape, tree, "") if tree else {}
    report = botocore.validate.ParamValidator().validate(value, shape)
    if report.has_errors():
        raise QueryError("ValidationError", report.generate_report())
    return value if isinstance(value, dict) else {}


def _tree(form: Mapping[str, str]) -> Any:
    root: dict[str, Any] = {}
    for key, value in form.items():
        parts = key.split(".")
        if len(parts) > 20:
            raise QueryError("ValidationError", f"the field {key[:80]} is nested too deeply")
        node = root
        for part in parts[:-1]:
            child = node.setdefault(part, {})
            if not isinstance(child, dict):
                raise QueryError("ValidationError", f"the field {key[:80]} is both a value and a structure")
            node = child
        if isinstance(node.get(parts[-1]), dict):
            raise QueryError("ValidationError", f"the field {key[:80]} is both a value and a structure")
        node[parts[-1]] = value
    return root


def _value(shape: Any, tree: Any, where: str) -> Any:
    kind = shape.type_name
    if kind == "structure":
        if not isinstance(tree, dict):
            raise QueryError("ValidationError", f"{where or 'the request'} must be a structure")
        result = {}
        for name, member in shape.members.items():
            key = member.serialization.get("name", name)
            if key in tree:
                result[name] = _value(member, tree[key], f"{where}.{name}" if where else name)
        return result
    if kind in ("list", "map"):
        if tree == "":
            return [] if kind == "list" else {}
        if not isinstance(tree, dict):
            raise QueryError("ValidationError", f"{where} must be a list")
        items = next((tree[key] for key in ("member", "entry") if isinstance(tree.get(key), dict)), tree)
        try:
            ordered = [items[key] for key in sorted(items, key=int)]
        except ValueError:
            raise QueryError("ValidationError", f"{where} must be a numbered list") from None
        if kind == "list":
            return [_value(shape.member, item, f"{where}[{index}]") for index, item in enumerate(ordered)]
        return {
            str(item["key"]): _value(shape.value, item["value"], where) for item in ordered if isinstance(item, dict)
        }
    if isinstance(tree, dict):
        raise QueryError("ValidationError", f"{where} must be a simple value")
    try:
        return _scalar(kind, tree)
    except ValueError:
        raise QueryError("ValidationError", f"{where}: '{tree[:80]}' is not of type {kind}") from None


def _scalar(kind: str, text: str) -> Any:
    match kind:
        case "boolean":
            if text.lower() not in ("true", "false", "0", "1"):
                raise ValueError(text)
            return text.lower() in ("true", "1")
        case "integer" | "long":
            if len(text) > 20:
                raise ValueError(text)
            return int(text)
        case "float" | "double":
            return float(text)
        case "timestamp":
            return datetime.datetime.fromisoformat(text)
    return text


def timestamp(seconds: float) -> str:
    """Return a time as the protocol writes it."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def response_xml(model: botocore.model.OperationModel, output: Mapping[str, Any], request: str) -> str:
    """Return the XML answer of an operation."""
    parts = [f'<{model.name}Response xmlns="{model.service_model.metadata["xmlNamespace"]}">']
    shape = model.output_shape
    if shape is not None:
        wrapper = shape.serialization.get("resultWrapper", f"{model.name}Result")
        parts.append(f"<{wrapper}>")
        _xml_members(shape, output, parts)
        parts.append(f"</{wrapper}>")
    parts.append(f"<ResponseMetadata><RequestId>{request}</RequestId></ResponseMetadata></{model.name}Response>")
    return "".join(parts)


def _xml_members(shape: Any, value: Mapping[str, Any], parts: list[str]) -> None:
    for name, member in shape.members.items():
        if value.get(name) is not None:
            _xml(member, value[name], member.serialization.get("name", name), parts)


def _xml(shape: Any, value: Any, tag: str, parts: list[str]) -> None:
    parts.append(f"<{tag}>")
    match shape.type_name:
        case "structure":
            _xml_members(shape, value, parts)
        case "list":
            for item in value:
                _xml(shape.member, item, shape.member.serialization.get("name", "member"), parts)
        case "map":
            for key, item in value.items():
                parts.append("<entry>")
                _xml(shape.key, key, "key", parts)
                _xml(shape.value, item, "value", parts)
                parts.append("</entry>")
        case _:
            parts.append(_clean(_scalar_text(shape, value)))
    parts.append(f"</{tag}>")


def _scalar_text(shape: Any, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if shape.type_name == "timestamp" and isinstance(value, int | float):
        return timestamp(value)
    return str(value)


def _clean(text: str) -> str:
    """Escape text, without the control characters that XML can not hold; `\\r` is kept as a reference."""
    kept = "".join(
        char
        for char in text
        if char in "\t\n\r" or (char >= " " and not "\ud800" <= char <= "\udfff" and char not in "\ufffe\uffff")
    )
    return escape(kept, {"\r": "&#13;"})


def response_json(model: botocore.model.OperationModel, output: Mapping[str, Any], request: str) -> str:
    """Return the answer as JSON, wrapped as Heat's CFN API does."""
    shape = model.output_shape
    body: dict[str, Any] = {"ResponseMetadata": {"RequestId": request}}
    if shape is not None:
        wrapper = shape.serialization.get("resultWrapper", f"{model.name}Result")
        body[wrapper] = _plain(shape, output)
    return json.dumps({f"{model.name}Response": body})


def _plain(shape: Any, value: Any) -> Any:
    match shape.type_name:
        case "structure":
            return {
                name: _plain(member, value[name])
                for name, member in shape.members.items()
                if value.get(name) is not None
            }
        case "list":
            return [_plain(shape.member, item) for item in value]
        case "map":
            return {str(key): _plain(shape.value, item) for key, item in value.items()}
        case "timestamp":
            return timestamp(value) if isinstance(value, int | float) else str(value)
    return value


def error_text(problem: QueryError, request: str, *, as_json: bool) -> str:
    """Return an error as the protocol writes it."""
    kind = "Sender" if problem.status < 500 else "Receiver"
    if as_json:
        error = {"Type": kind, "Code": problem.code, "Message": str(problem)}
        return json.dumps({"ErrorResponse": {"Error": error, "RequestId": request}})
    return (
        f'<ErrorResponse xmlns="{service().metadata["xmlNamespace"]}"><Error><Type>{kind}</Type>'
        f"<Code>{_clean(problem.code)}</Code><Message>{_clean(str(problem))}</Message></Error>"
        f"<RequestId>{request}</RequestId></ErrorResponse>"
    )
