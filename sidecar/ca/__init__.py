"""The CA's daemon: the one place that composes signing code (pki.authority) with policy and gossip."""
