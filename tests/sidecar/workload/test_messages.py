from hypothesis import given
from hypothesis import strategies as st
from spiffe._proto import workload_pb2

from sidecar.workload.messages import X509Svid, x509_bundles_response, x509_svid_response

SVIDS = st.builds(
    X509Svid, st.text(), st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=300)
)


@given(st.lists(SVIDS, max_size=3))
def test_the_code_generated_from_the_specification_reads_our_identities(svids: list[X509Svid]) -> None:
    """Field for field, in their order: the first is the default identity."""
    read = workload_pb2.X509SVIDResponse.FromString(x509_svid_response(svids))
    assert [X509Svid(s.spiffe_id, s.x509_svid, s.x509_svid_key, s.bundle) for s in read.svids] == svids


@given(st.dictionaries(st.text(), st.binary(max_size=20_000), max_size=3))
def test_the_code_generated_from_the_specification_reads_our_bundles(bundles: dict[str, bytes]) -> None:
    """Of any size: lengths take as many bytes as they need."""
    assert workload_pb2.X509BundlesResponse.FromString(x509_bundles_response(bundles)).bundles == bundles
