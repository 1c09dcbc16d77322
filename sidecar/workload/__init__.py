"""The SPIFFE Workload API: X.509-SVIDs and bundles for programs that already speak SPIFFE."""
