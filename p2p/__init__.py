"""The swarm: identity, wire, gossip, ledger, fold and transport. Knows nothing of torch."""
