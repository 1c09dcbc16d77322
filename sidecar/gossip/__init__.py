"""How members share statements: the store, its spread from peer to peer, and how fresh a node is."""
