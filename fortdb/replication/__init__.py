"""Replication: how an acknowledged write survives. An essay, then the rules.

Every partition is replicated by itself. One replica *leads*: it orders the partition's writes into a
log, sends them to its followers, and answers clients. The followers that have everything are the
*in-sync replicas* (ISR). A write is acknowledged when every member of the ISR has it on disk; so any
of them can lead next, and none of them needs a majority: three replicas with `min_in_sync` 2 survive
one death while taking writes, and two deaths without losing any.

Who leads, and who is in sync, is not decided here. It stands in one *partition record* in the
coordination store and changes only by compare-and-set. This is the division of labour of Kafka
(KIP-497, KIP-966) and of Patroni; consensus is the store's. What the data path needs of the store is
nothing: records come in by watch, changes go out beside the path.

An *epoch* numbers the reigns of leaders. Every message of a leader carries its epoch, a replica
remembers the highest that it has seen, on disk, and refuses lower ones. That, and waiting for the whole
ISR, is what keeps writes safe. The leases that nodes hold in the store only decide *when* to elect; a
deposed leader that does not know it yet cannot get a write acknowledged, because its followers have seen
the next epoch, or because the record with the smaller ISR was refused.

Linearizable *reads* are answered by the leader alone, without asking anybody, and so they do depend on
time. A leader serves them only while two things hold: its own lease in the store, and *promises* of
every member of the maximal ISR not to serve as another epoch's leader for a lease's length, counted from
the moment before the heartbeat was sent. A new leader waits out the promise that it gave itself, unless
the record says that no leader of an earlier epoch can serve any more: the former one had waited out its own,
and handed over or has ended. So reads stay right also when etcd revokes a lease
that was alive, or extends one that was not, as it may (Jepsen on etcd, and rule 11); it takes a clock
that runs a tenth faster than another to break them.

*Logs meet* at the start of an epoch. A follower tells the outline of its log, the offsets at which
epochs begin; the leader finds the last entry that both have (`epochs.common_offset`, KIP-101 and
KIP-279) and the follower drops what comes after it. One's own commit offset is never used for that: it
may be too low, and an acknowledged entry would go. If the leader no longer has the entries that the
follower lacks, it streams a snapshot of the data, while serving, and entries from there on.

A request's *effects* are logged, not the request: a counter is incremented by the leader, and the log
says what it became. TTLs are turned into moments by the leader, and what is past its moment is deleted by
an entry in the log, so replicas never disagree about what there is. The reply and the request's id are
logged along with the effects: a router that asks again, of whichever leader, is told the same reply, and
nothing is done twice.

A node that was away comes back under a new *incarnation*, a disk id and
a count of starts, and the ISR names incarnations, not nodes. So a node that was restarted, or came back
with an empty disk, is not in sync, whatever it says, until a leader lets it in again.

The rules, with what each is from. `tests/unit/test_replication_rules.py` has a script for each that
belongs to this room (1 and 11 are tested in `tests/coordination`, 12 to 14 also in `tests/integration`,
15 with the ring), and `tests/unit/replication_simulation.py` runs random faults against all of them.

1.  One record a partition, changed only by compare-and-set (KIP-497): `model.PartitionRecord`, `isr.py`.
2.  A lease elects, it does not protect; every append carries the epoch (Jepsen on etcd locks):
    `Replica._heard_from`.
3.  Acknowledge when the maximal ISR, current and proposed, has it on disk, and the current one has
    `min_in_sync` members (KIP-966): `Leader.commit_with`, `Leader.take_answers`.
4.  Who leaves the ISR is waited for until the store has accepted that (Kafka, Patroni): `InSync`.
5.  Join only with everything committed and this epoch's first entry, in this epoch and this life of the
    process (Kafka): `Leader._may_join`.
6.  Elect from the ISR only; else an operator's word (KIP-966): `election.py`.
7.  Truncate by epochs, never by one's own commit offset (KIP-101, KIP-279): `epochs.py`.
8.  A new leader appends an entry of its own epoch and serves nothing before it is committed (Raft,
    section 8): `Leader.__init__`, `Leader.serves_at`.
9.  An unclean stop or an empty disk is out of every ISR until caught up (KIP-966): incarnations.
10. On disk before acknowledged, one fsync for all that waits (Redpanda): `Replica.synced`.
11. A lease counts from when its renewal was sent, and ends early: `coordination/registration.py`.
12. Writes need no lease; reads do: `Leader.serves_at`.
13. Without the store nobody is elected and nothing is lost: `node/control.py`.
14. A process that was paused serves nothing stale when it wakes: `node/requests.py`.
15. Add, catch up, then remove; never below `min_in_sync` (Kafka): `ring/moves.py`.
16. No answer means unknown; request ids make a retry safe (Jepsen on jetcd): `dedupe.py`,
    `router/channels.py`.

This room is values in, values out: it knows no socket, no clock, no thread and no disk.
"""
