"""The swarm: identity, records, gossip, ledger, fold and transport. Knows nothing of torch.

    errors, limits                  what can go wrong, and how much of anything is too much
    encoding, records, wire         canonical bytes: signed records, and the messages of a link
    identity, tickets               keys of a node, and how a newcomer is let in
    grid, codec, fold               integers: deltas, their payloads, and the state that all members share
    pending                         what this device has learned and not yet signed
    roster, replica, seals          pure: who is a member, which deltas are in the set, what is sealed
    gossip                          pure: messages and ticks in, actions out
    ledger, blobs                   what survives a power cut
    addresses, lan                  where nodes are
    transport, control, node        sockets, and the loop that drives the rest

docs/protocol.md is normative.
"""
