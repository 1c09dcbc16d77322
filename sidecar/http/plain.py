"""The dialect of a service with ``protocol = "http"``: the request's head is the call. Pure."""

from sidecar.http.refusal import json_answer
from sidecar.http.seams import Answer, Asked, Body, Fields, Filter, Head, Refusal


class PlainHttp:
    """Bodies pass unread, both ways."""

    inspects = False

    async def read(self, head: Head, body: Body) -> Asked:  # noqa: ARG002 - the seam's
        return Asked(head.call)

    def refusal(self, refusal: Refusal, asked: Asked | None) -> Answer:  # noqa: ARG002 - the seam's
        return json_answer(refusal)

    def filter(self, asked: Asked, status: int, fields: Fields) -> Filter | None:  # noqa: ARG002 - the seam's
        return None
