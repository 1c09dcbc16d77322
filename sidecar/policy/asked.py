"""What is left of a call for the decision: its names, and which conditions of the policy it fulfils."""

from sidecar.policy.match import MCP, is_conversation
from sidecar.policy.model import Policy, Service
from sidecar.policy.operation import HttpCall, McpCall, Operation


def operation_of(call: HttpCall | McpCall, service: Service, policy: Policy) -> Operation:
    """The operation that ``call`` is. Asks only the conditions of rules that could be about it."""
    operation = Operation(call.method, call.path if isinstance(call, HttpCall) else call.name)
    if isinstance(call, McpCall) is not (service.protocol == MCP) or is_conversation(
        service.protocol, operation
    ):
        return operation
    special = service.special(operation)
    segment = (special.segment if special else service.segment).name
    granting, denying = (
        rules.conditions(service.name, segment, service.protocol, operation)
        for rules in (policy.grants, policy.denies)
    )
    held = frozenset(one.name for one in granting if one.holds(call) and not one.is_disguised(call))
    held |= frozenset(one.name for one in denying if one.holds(call) or one.is_disguised(call))
    return Operation(operation.method, operation.name, held) if held else operation
