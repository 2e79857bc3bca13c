"""A swarm in one process and in virtual time: real members, simulated network, disks, faults and hostile members.

plan        what a seed draws: the swarm, its members, which faults
pace        the limits of the protocol, made small enough that minutes fit into a moment
world       the event loop: virtual time, devices, the two phases of a run
network     links with latency, and what may go wrong on them
device      a device: a disk, a member that runs on it or not, a trainer
newcomer    how a device joins with a ticket
disk        a disk that can fail in the middle of a step
faults      crashes, partitions, restored backups, copied homes, members that leave
hostile     members with valid certificates that do not play by the rules
evidence    everything that was ever signed or sent, by anyone
oracle      weights and folds, written a second time
books       conservation: where everything is that a trainer was promised to be kept
invariants  what must hold after every event
dissemination, averaging    two questions asked of the same core in other settings
"""
