"""The transport's requests and results as messages of the protocol, both ways. Pure."""

from __future__ import annotations

import time

import msgspec

from pcloud.environment.transport import Operation, OperationResult, OperationStatus
from pcloud.wire import messages as m

FEATURE_SET = "3.16.2"
"""The CRM feature set told to agents, some of which compare it: that of Pacemaker 2.1.5."""

POKE = m.command(m.OP_POKE).set("lrmd_remote_msg_id", 0).set("lrmd_remote_msg_type", "request").to_bytes()
"""A health check; its reply has message id 0."""

_STATUSES = frozenset(int(status) for status in OperationStatus)


def registration(operation: Operation) -> m.Element:
    """Return the request that makes the operation's resource known."""
    data = m.resource(operation.resource)
    data.set("lrmd_class", operation.resource_class)
    if operation.provider:
        data.set("lrmd_provider", operation.provider)
    data.set("lrmd_type", operation.type)
    return m.command(m.OP_RSC_REG, data)


def execution(operation: Operation, interval: int, token: str) -> m.Element:
    """Return the request to run an operation; `interval` in milliseconds, `token` comes back with its results."""
    timeout = max(1, round(operation.timeout * 1000))
    parameters = {
        "crm_feature_set": FEATURE_SET,
        "CRM_meta_name": operation.action,
        "CRM_meta_interval": str(interval),
        "CRM_meta_timeout": str(timeout),
        **operation.parameters,
    }
    if operation.processes:
        parameters["CRM_meta_pcloud_processes"] = ",".join(operation.processes)
    if operation.action == "limit":
        given = msgspec.structs.asdict(operation.limits).items()
        parameters["CRM_meta_pcloud_limits"] = " ".join(f"{name}={value}" for name, value in given if value)
    data = m.resource(
        operation.resource,
        rsc_action=operation.action,
        rsc_userdata_str=token,
        rsc_interval=interval,
        timeout=timeout,
        rsc_start_delay=round(operation.start_delay * 1000),
    )
    data.children.append(m.attributes_element(parameters))
    return m.command(
        m.OP_EXEC, data, options=m.OPT_CHANGES_ONLY if interval else m.OPT_NOTIFY_ORIGINATOR, timeout=timeout
    )


def result_of(notice: m.Element) -> OperationResult:
    """Return the result that a notification tells."""
    status = notice.number("lrmd_exec_op_status", OperationStatus.ERROR)
    return OperationResult(
        resource=notice.get("lrmd_rsc_id"),
        action=notice.get("lrmd_rsc_action"),
        interval=notice.number("lrmd_rsc_interval") / 1000,
        rc=notice.number("lrmd_exec_rc", 1),
        status=OperationStatus(status) if status in _STATUSES else OperationStatus.ERROR,
        call_id=notice.number("lrmd_callid"),
        exit_reason=notice.get("lrmd_rsc_exit_reason"),
        output=notice.get("lrmd_rsc_output"),
        started=time.time() - max(0, notice.number("lrmd_exec_time")) / 1000,
        exec_seconds=max(0, notice.number("lrmd_exec_time")) / 1000,
        queue_seconds=max(0, notice.number("lrmd_queue_time")) / 1000,
        signal=notice.get(m.SIGNAL) or ("interval" if notice.number("lrmd_rsc_interval") else "request"),
    )


def as_first(result: OperationResult) -> OperationResult:
    """Return the first result of a recurring operation: it was asked for, not due."""
    return msgspec.structs.replace(result, signal="request") if result.signal == "interval" else result


def without_answer(
    operation: Operation, status: OperationStatus, rc: int, *, started: float = 0.0, call_id: int = 0
) -> OperationResult:
    """Return the result of an operation that the guest did not (or not yet) tell."""
    return OperationResult(
        resource=operation.resource,
        action=operation.action,
        interval=operation.interval,
        rc=rc,
        status=status,
        call_id=call_id,
        started=started or time.time(),
        exit_reason="no result came in time" if status is OperationStatus.TIMEOUT else "",
        signal="request",
    )
