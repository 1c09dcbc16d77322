"""Identity: what it takes to be someone in a Lockgate mesh, and to check who someone is."""
