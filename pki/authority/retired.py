"""Keys that a rollover has retired, and that may still prove who slept through it. Blocking: it asks the register."""

from collections.abc import Iterable
from dataclasses import replace

from pki.authority.issuer import Issuer
from pki.bundle import TrustBundle
from pki.statement import Bundle, parse


def with_retired(issuer: Issuer) -> TrustBundle:
    """The trust bundle with all roots and issuers that this epoch ever had. Nothing but grace renewal asks it.

    A retired private key is deleted, and a tainted one is of an epoch that is over.
    """
    bundle = issuer.authority.bundle
    past = [parse(raw) for raw in issuer.register.bundles(bundle.epoch, 0)]
    bodies = [one.body for one in past if isinstance(one.body, Bundle) and one.payload.epoch == bundle.epoch]
    return replace(
        bundle,
        roots=_each(bundle.roots, (body.roots for body in bodies)),
        issuers=_each(bundle.issuers, (body.issuers for body in bodies)),
    )


def _each(first: Iterable[bytes], more: Iterable[Iterable[bytes]]) -> tuple[bytes, ...]:
    return tuple(dict.fromkeys([*first, *(one for some in more for one in some)]))
