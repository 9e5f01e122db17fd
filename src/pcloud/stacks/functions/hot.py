"""The functions of Heat's templates, each with the version that brought it. Pure. Lists and maps: `hot_collections`."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from pcloud.stacks.documents import Path
from pcloud.stacks.functions import cfn, cfn_logic, hot_collections
from pcloud.stacks.functions.evaluation import (
    MAX_RESULT,
    Function,
    FunctionError,
    Scope,
    Unknown,
    either,
    list_of,
    text_of,
    unknown_in,
    walk,
)
from pcloud.stacks.functions.yaql import yaql
from pcloud.stacks.template import Template


def get_resource(scope: Scope, argument: Any, path: Path) -> Any:
    """get_resource: the id of a resource."""
    name = scope.evaluate(argument, path)
    if isinstance(name, Unknown):
        return name
    if not isinstance(name, str):
        raise FunctionError("get_resource takes the name of a resource")
    return scope.reference(name)


def get_attr(scope: Scope, argument: Any, path: Path) -> Any:
    """get_attr: [resource, attribute, key …]; [resource] gives all attributes."""
    parts = list_of(argument, "get_attr")
    if not parts or not isinstance(parts[0], str):
        raise FunctionError("get_attr takes [resource, attribute, key …]")
    rest = [scope.evaluate(part, (*path, index + 1)) for index, part in enumerate(parts[1:])]
    unknown = unknown_in(rest)
    if unknown is not None:
        scope.attribute(parts[0], "", [])
        return unknown
    if len(parts) == 1:
        return scope.attribute(parts[0], "show", [])
    return scope.attribute(parts[0], text_of(rest[0], "an attribute's name"), rest[1:])


def get_param(scope: Scope, argument: Any, path: Path) -> Any:
    """get_param: a parameter, or [parameter, key …] of one that holds a list or map."""
    parts = argument if isinstance(argument, list) else [argument]
    values = [scope.evaluate(part, (*path, index)) for index, part in enumerate(parts)]
    if not values or not isinstance(values[0], str):
        raise FunctionError("get_param takes the name of a parameter")
    name = values[0]
    if name in scope.pseudo and name.startswith("OS::"):
        return scope.pseudo[name]
    if name not in scope.template.parameters:
        raise FunctionError(f"there is no parameter '{name}'", "UNKNOWN_REFERENCE")
    if name not in scope.parameters:
        return Unknown(f"a value for parameter {name}")
    unknown = unknown_in(values[1:])
    if unknown is not None:
        return unknown
    if len(values) > 1:
        found = walk(scope.parameters[name], values[1:])
        return "" if found is None else found
    return scope.parameters[name]


def get_file(scope: Scope, argument: Any, path: Path) -> Any:
    """get_file: the content of a file that was sent with the template."""
    name = scope.evaluate(argument, path)
    if isinstance(name, Unknown):
        return name
    if not isinstance(name, str):
        raise FunctionError("get_file takes the name of a file")
    if name not in scope.files:
        if scope.every_branch and not scope.files:
            return Unknown(f"the file {name}")
        raise FunctionError(f"the file '{name}' was not sent with the template", "MISSING_FILE")
    return scope.files[name]


def _pairs(scope: Scope, argument: Any, path: Path, what: str) -> tuple[Any, dict[str, Any]]:
    if not isinstance(argument, dict) or set(argument) != {"template", "params"}:
        raise FunctionError(f"{what} takes 'template' and 'params'")
    params = scope.evaluate(argument["params"], (*path, "params"))
    template = scope.evaluate(argument["template"], (*path, "template"))
    if isinstance(params, Unknown):
        return params, {}
    if not isinstance(params, dict):
        raise FunctionError(f"the params of {what} are a map")
    return template, params


def _replace_all(scope: Scope, argument: Any, path: Path, what: str, strict: bool, values: bool) -> Any:
    template, params = _pairs(scope, argument, path, what)
    unknown = unknown_in([template, params])
    if unknown is not None:
        return unknown
    text = text_of(template, f"the template of {what}")
    texts: dict[str, str] = {}
    for key, value in params.items():
        if not key:
            raise FunctionError(f"{what}: a name to replace must not be empty")
        if values and value in ("", None):
            raise FunctionError(f"{what}: '{key}' has no value", "MISSING_VALUE")
        texts[key] = json.dumps(value) if isinstance(value, dict | list) else text_of(value, f"'{key}'")
    if strict:
        missing = [key for key in texts if key not in text]
        if missing:
            raise FunctionError(f"{what}: the template does not hold {', '.join(missing)}", "MISSING_VALUE")
    # Longest names first, each place replaced once: a value never becomes a name again.
    pieces: list[tuple[bool, str]] = [(False, text)]
    for key in sorted(texts, key=len, reverse=True):
        after: list[tuple[bool, str]] = []
        for done, piece in pieces:
            if done or key not in piece:
                after.append((done, piece))
                continue
            first = True
            for part in piece.split(key):
                if not first:
                    after.append((True, texts[key]))
                first = False
                after.append((False, part))
        pieces = after
        if sum(len(piece) for _, piece in pieces) > MAX_RESULT:
            raise FunctionError(f"{what} gives more than {MAX_RESULT} characters", "TOO_LARGE")
    return "".join(piece for _, piece in pieces)


def str_replace(scope: Scope, argument: Any, path: Path) -> Any:
    """str_replace: every name of `params` in `template` is replaced."""
    return _replace_all(scope, argument, path, "str_replace", strict=False, values=False)


def str_replace_strict(scope: Scope, argument: Any, path: Path) -> Any:
    """str_replace_strict: as str_replace, and every name must occur."""
    return _replace_all(scope, argument, path, "str_replace_strict", strict=True, values=False)


def str_replace_vstrict(scope: Scope, argument: Any, path: Path) -> Any:
    """str_replace_vstrict: as str_replace_strict, and no value may be empty."""
    return _replace_all(scope, argument, path, "str_replace_vstrict", strict=True, values=True)


def list_join(scope: Scope, argument: Any, path: Path) -> Any:
    """list_join: [delimiter, list …]; maps among the values become JSON since 2015-10-15."""
    parts = list_of(scope.evaluate(argument, path), "list_join")
    if len(parts) < 2:
        raise FunctionError("list_join takes [delimiter, list …]")
    if len(parts) > 2 and scope.template.version < "2015-10-15":
        raise FunctionError("list_join takes several lists since 2015-10-15", "TOO_OLD")
    unknown = unknown_in(parts)
    if unknown is not None:
        return unknown
    items = itertools.chain.from_iterable(list_of(part, "list_join") for part in parts[1:] if part is not None)
    texts = [
        json.dumps(item) if isinstance(item, dict | list) else text_of(item, "each value of list_join")
        for item in items
    ]
    return text_of(parts[0], "the delimiter of list_join").join(texts)


def str_split(scope: Scope, argument: Any, path: Path) -> Any:
    """str_split: [delimiter, text] or [delimiter, text, index]."""
    parts = list_of(scope.evaluate(argument, path), "str_split")
    if len(parts) not in (2, 3):
        raise FunctionError("str_split takes [delimiter, text] or [delimiter, text, index]")
    unknown = unknown_in(parts)
    if unknown is not None:
        return unknown
    delimiter = text_of(parts[0], "the delimiter of str_split")
    if not delimiter:
        raise FunctionError("the delimiter of str_split must not be empty")
    found = text_of(parts[1], "str_split").split(delimiter)
    if len(parts) == 2:
        return found
    try:
        return found[int(parts[2])]
    except (TypeError, ValueError, IndexError):
        raise FunctionError(f"str_split has no part {parts[2]}") from None


_DIGESTS = frozenset({"md5", "sha1", "sha224", "sha256", "sha384", "sha512"})


def digest(scope: Scope, argument: Any, path: Path) -> Any:
    """digest: [algorithm, text]."""
    algorithm, value = list_of(scope.evaluate(argument, path), "digest", 2)
    unknown = unknown_in([algorithm, value])
    if unknown is not None:
        return unknown
    if algorithm not in _DIGESTS:
        raise FunctionError(f"the digest '{algorithm}' is not known; known are {', '.join(sorted(_DIGESTS))}")
    return hashlib.new(algorithm, text_of(value, "digest").encode(), usedforsecurity=False).hexdigest()


def if_(scope: Scope, argument: Any, path: Path) -> Any:
    """if: [condition, value when true, value when false]."""
    parts = list_of(argument, "if")
    if len(parts) == 2 and scope.template.version >= "2021-04-16":
        from pcloud.stacks.functions.evaluation import NO_VALUE

        chosen = scope.truth(parts[0], (*path, 0))
        if chosen is True or scope.every_branch:
            return scope.evaluate(parts[1], (*path, 1))
        return chosen if isinstance(chosen, Unknown) else NO_VALUE
    name, yes, no = list_of(argument, "if", 3)
    return either(scope, scope.truth(name, (*path, 0)), yes, no, path)


def and_(scope: Scope, argument: Any, path: Path) -> Any:
    """and: of two or more conditions."""
    return cfn_logic.and_(scope, argument, path)


_URL_PARTS = frozenset({"scheme", "username", "password", "host", "port", "path", "query", "fragment"})


def make_url(scope: Scope, argument: Any, path: Path) -> Any:
    """make_url: scheme, username, password, host, port, path, query, fragment."""
    value = scope.evaluate(argument, path)
    unknown = unknown_in(value)
    if unknown is not None:
        return unknown
    if not isinstance(value, dict) or set(value) - _URL_PARTS:
        raise FunctionError(f"make_url takes a map of {', '.join(sorted(_URL_PARTS))}")
    given = {key: part for key, part in value.items() if part not in (None, "")}
    host = text_of(given.get("host", ""), "host")
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    user = quote(text_of(given.get("username", ""), "username"), safe="")
    if "password" in given:
        user += ":" + quote(text_of(given["password"], "password"), safe="")
    port = ""
    if "port" in given:
        try:
            number = int(given["port"])
        except (TypeError, ValueError):
            raise FunctionError("make_url: the port is a number") from None
        if not 0 < number < 65536:
            raise FunctionError("make_url: the port is out of range")
        port = f":{number}"
    authority = f"{user}@{host}{port}" if user else f"{host}{port}"
    where = quote(text_of(given.get("path", ""), "path"), safe="/:@!$&'()*+,;=~%")
    if where and not where.startswith("/") and authority:
        where = "/" + where
    url = (f"{given['scheme']}:" if "scheme" in given else "") + (f"//{authority}" if authority else "") + where
    query = given.get("query")
    if isinstance(query, dict):
        url += "?" + urlencode({key: text_of(part, "query") for key, part in query.items()})
    elif query:
        url += "?" + text_of(query, "query")
    if "fragment" in given:
        url += "#" + quote(text_of(given["fragment"], "fragment"), safe="")
    return url


def resource_facade(scope: Scope, argument: Any, path: Path) -> Any:
    """resource_facade: a section of the parent resource that this template stands for."""
    if argument not in ("metadata", "deletion_policy", "update_policy"):
        raise FunctionError("resource_facade takes metadata, deletion_policy or update_policy")
    return scope.facade(argument.replace("_", "")) if scope.facade is not None else Unknown("the parent stack")


# name: (function, first version, first version that has it no more)
_TABLE: Mapping[str, tuple[Function, str, str]] = {
    "get_resource": (get_resource, "2013-05-23", ""),
    "get_attr": (get_attr, "2013-05-23", ""),
    "get_param": (get_param, "2013-05-23", ""),
    "get_file": (get_file, "2013-05-23", ""),
    "str_replace": (str_replace, "2013-05-23", ""),
    "list_join": (list_join, "2013-05-23", ""),
    "resource_facade": (resource_facade, "2013-05-23", ""),
    "repeat": (hot_collections.repeat, "2015-04-30", ""),
    "digest": (digest, "2015-04-30", ""),
    "str_split": (str_split, "2015-10-15", ""),
    "map_merge": (hot_collections.map_merge, "2016-04-08", ""),
    "map_replace": (hot_collections.map_replace, "2016-10-14", ""),
    "yaql": (yaql, "2016-10-14", ""),
    "if": (if_, "2016-10-14", ""),
    "equals": (cfn_logic.equals, "2016-10-14", ""),
    "not": (cfn_logic.not_, "2016-10-14", ""),
    "and": (and_, "2016-10-14", ""),
    "or": (cfn_logic.or_, "2016-10-14", ""),
    "filter": (hot_collections.filter_, "2017-02-24", ""),
    "str_replace_strict": (str_replace_strict, "2017-02-24", ""),
    "make_url": (make_url, "2017-09-01", ""),
    "list_concat": (hot_collections.list_concat, "2017-09-01", ""),
    "list_concat_unique": (hot_collections.list_concat_unique, "2017-09-01", ""),
    "str_replace_vstrict": (str_replace_vstrict, "2017-09-01", ""),
    "contains": (hot_collections.contains, "2017-09-01", ""),
    "Ref": (cfn.reference, "2013-05-23", "2014-10-16"),
    "Fn::Select": (cfn.select, "2013-05-23", "2015-10-15"),
    "Fn::Join": (cfn.join, "2013-05-23", "2014-10-16"),
    "Fn::Split": (cfn.split, "2013-05-23", "2014-10-16"),
    "Fn::Replace": (cfn.replace, "2013-05-23", "2014-10-16"),
    "Fn::Base64": (cfn.base64_of, "2013-05-23", "2014-10-16"),
    "Fn::GetAZs": (cfn.zones, "2013-05-23", "2014-10-16"),
    "Fn::MemberListToMap": (cfn.member_list_to_map, "2013-05-23", "2014-10-16"),
    "Fn::ResourceFacade": (cfn.resource_facade, "2013-05-23", "2014-10-16"),
}


def _too_old(name: str, since: str) -> Function:
    def refuse(scope: Scope, argument: Any, path: Path) -> Any:
        raise FunctionError(
            f"the function '{name}' came with heat_template_version {since}",
            "TOO_OLD",
            f"this template says {scope.template.version}",
        )

    return refuse


def functions_of_hot(template: Template) -> Mapping[str, Function]:
    """Return the functions a HOT template of its version may use. Newer ones answer with a clear refusal.

    `if`, `not`, `and`, `or` and so on are common words: in templates older than the function they stay plain keys.
    """
    functions: dict[str, Function] = {}
    for name, (function, since, until) in _TABLE.items():
        if until and template.version >= until:
            continue
        if template.version >= since:
            functions[name] = function
        elif "_" in name or name in ("yaql", "repeat", "digest"):
            functions[name] = _too_old(name, since)
    return functions


def names_of_hot(version: str) -> dict[str, str | None]:
    """Return the functions of a version by name, each with what it is."""
    return {
        name: function.__doc__
        for name, (function, since, until) in sorted(_TABLE.items())
        if since <= version and not (until and version >= until)
    }
