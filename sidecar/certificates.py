"""The certificate that this node is known by, now and after each renewal."""

from pki.bundle import TrustBundle
from pki.certificate import read
from pki.clock import Wall
from pki.errors import LocalError
from pki.renewal import in_grace
from pki.verify import Identity, verify
from sidecar.address import Address
from sidecar.audit import record
from sidecar.certify import CaAccess
from sidecar.gossip.member import Member
from sidecar.identity import Credential
from sidecar.proxy.carry import Carrier
from sidecar.renewal import Spawn
from sidecar.session.sessions import Session


class Certificates:
    """The node's credential, judged, and what follows from a renewal."""

    def __init__(self, credential: Credential, member: Member, carrier: Carrier, ca: Address) -> None:
        """Raises LocalError when no peer would take the credential."""
        self.credential = credential
        self.identity = _judged(credential, member.bundle, carrier.clock.wall())
        self.ca = ca
        """Where to ask; a reload may change it."""
        self._member = member
        self._carrier = carrier

    @property
    def bundle(self) -> TrustBundle:
        """The trust bundle in force."""
        return self._member.bundle

    def ca_access(self) -> CaAccess:
        return CaAccess(self.ca, self._member.bundle, self.credential, self._carrier.clock)

    def take_up_node(self, credential: Credential, identity: Identity, spawn: Spawn) -> None:
        """The node's next certificate: for connections from now on, and proven on the streams that live."""
        self.credential, self.identity = credential, identity
        self.prove(credential, identity, spawn)

    def prove(self, renewed: Credential | Session, identity: Identity, spawn: Spawn) -> None:
        """Show a next certificate on every live stream that rests on the one before."""
        now = self._carrier.clock.wall()
        one = record.renewal(now, "renewed", str(identity.id), identity.serial, identity.not_after)
        self._carrier.audit.append(one)
        for _, arrival in list(self._carrier.arrivals.values()):
            spawn(arrival.show, renewed)
        self._carrier.refresh()


def _judged(credential: Credential, bundle: TrustBundle, now: Wall) -> Identity:
    """Our certificate as it is on disk. One that ended while we were down may be renewed in grace."""
    ended = read(credential.chain[0]).not_after
    found = verify(credential.chain, bundle, min(now, ended) if in_grace(ended, now) else now)
    if isinstance(found, Identity):
        return found
    raise LocalError(f"own certificate: {found}; join again with a new token: lockgate join")
