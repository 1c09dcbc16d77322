"""A root from outside, of a company's own PKI, as the root of a mesh. Refused whole where our verifier could not honour it."""

from pki import keys, svid
from pki.authority.keystore import ONLINE_LIFETIME, Birth
from pki.bundle import TrustBundle
from pki.certificate import read
from pki.chain import from_pem
from pki.clock import DAY, HOUR
from pki.errors import LocalError, RemoteError
from pki.profile import check_root
from pki.spiffe import SpiffeId
from pki.spki import Key, spki
from pki.svid import LeafPlan, Signer, serial_of
from pki.verify import Rejected, verify

LEAST_LEFT = 365 * DAY
"""A root that ends sooner is no root to begin with."""


def outside_root(pem: bytes, key: Key, birth: Birth) -> Signer:
    """The root in ``pem``, whose key this is; raises LocalError with all that speaks against it."""
    try:
        chain = from_pem(pem)
        held = read(chain[0])
    except RemoteError as error:
        raise LocalError(f"outside root: {error}") from None
    wrong = [str(one) for one in check_root(held)]
    if len(chain) != 1:
        wrong.append(f"{len(chain)} certificates: a root stands alone")
    if held.key is None or spki(held.key) != spki(key.public_key()):
        wrong.append("the key is not that of the certificate")
    if not held.not_before <= birth.at or held.not_after < birth.at + LEAST_LEFT:
        wrong.append("not valid now, or for less than a year from now")
    root = Signer(chain[0], key)
    wrong = wrong or _on_trial(root, birth)
    if wrong:
        raise LocalError(f"outside root: {'; '.join(wrong)}")
    return root


def _on_trial(root: Signer, birth: Birth) -> list[str]:
    """What the verifier says of a member below it: the judgement that counts, before anybody depends on it."""
    domain, key = birth.ca.trust_domain, keys.generate()
    issuer = Signer(svid.issuer(birth.authority(ONLINE_LIFETIME), key.public_key(), root), key)
    plan = LeafPlan(
        SpiffeId.for_node(domain, "trial"), key.public_key(), serial_of(birth.entropy(20)), birth.at, HOUR
    )
    bundle = TrustBundle(domain, 1, 1, (root.certificate,), (issuer.certificate,), (), "")
    result = verify((svid.leaf(plan, issuer), issuer.certificate), bundle, birth.at)
    return [str(result)] if isinstance(result, Rejected) else []
