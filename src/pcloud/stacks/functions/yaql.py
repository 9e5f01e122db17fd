"""Heat's `yaql` function on the yaql library, with bounds on time-consuming expressions.

The library is optional (extra `stacks`); without it the function is refused with a sentence.
"""

from __future__ import annotations

import functools
from typing import Any

from pcloud.stacks.documents import Path
from pcloud.stacks.functions.evaluation import FunctionError, Scope, unknown_in

MAX_EXPRESSION = 16 * 1024
_LIMIT_ITERATORS = 200
_MEMORY_QUOTA = 10_000


@functools.cache
def _engine() -> tuple[Any, Any]:
    # The library forgets to import collections.abc itself.
    import collections.abc  # noqa: F401

    import yaql as library

    engine = library.YaqlFactory().create(
        options={
            "yaql.limitIterators": _LIMIT_ITERATORS,
            "yaql.memoryQuota": _MEMORY_QUOTA,
            "yaql.convertInputData": True,
            "yaql.convertOutputData": True,
        }
    )
    return engine, library.create_context()


def yaql(scope: Scope, argument: Any, path: Path) -> Any:
    """yaql: `expression` evaluated over `data`."""
    if not isinstance(argument, dict) or set(argument) != {"expression", "data"}:
        raise FunctionError("yaql takes 'expression' and 'data'")
    expression = scope.evaluate(argument["expression"], (*path, "expression"))
    data = scope.evaluate(argument["data"], (*path, "data"))
    if not isinstance(expression, str) or len(expression) > MAX_EXPRESSION:
        raise FunctionError("the expression of yaql is text of a bounded length")
    try:
        engine, context = _engine()
    except ImportError:
        raise FunctionError("yaql is not installed", "REFUSED", "install the extra 'stacks'") from None
    from yaql.language.exceptions import YaqlException

    try:
        statement = engine(expression)
    except (YaqlException, ValueError) as problem:
        raise FunctionError(f"yaql does not understand the expression: {str(problem)[:200]}") from None
    unknown = unknown_in(data)
    if unknown is not None:
        return unknown
    child = context.create_child_context()
    child["$"] = {"data": data}
    try:
        return statement.evaluate(context=child)
    except (YaqlException, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as problem:
        raise FunctionError(f"yaql failed: {type(problem).__name__}: {str(problem)[:200]}") from None
