"""The table of commands: what each is called, how many arguments it takes, which of them are keys.

FortDB's own names and those of Redis stand for the same (`PUT` is `SET`, `DELETE` is `DEL`, `EXIT` is
`QUIT`). `arity` follows Redis: the command's name counts, negative means "at least".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from fortdb.errors import BadRequest


class CommandKind(Enum):
    """Who executes a command."""

    SESSION = "session"  # the connection itself
    READ = "read"  # a partition's leader, changing nothing (but what has expired)
    WRITE = "write"  # a partition's leader, through its log
    RING = "ring"  # every partition in turn
    ADMIN = "admin"  # a router, for an operator
    FEED = "feed"  # the connection, which gets changes as they are committed


@dataclass(frozen=True, slots=True)
class Command:
    """One command. Keys are arguments `first_key`, `first_key + step` ... to the last one."""

    name: str
    arity: int
    kind: CommandKind
    usage: str
    summary: str
    first_key: int = 0
    many_keys: bool = False
    step: int = 1


_S, _R, _W, _N, _A, _F = (
    CommandKind.SESSION,
    CommandKind.READ,
    CommandKind.WRITE,
    CommandKind.RING,
    CommandKind.ADMIN,
    CommandKind.FEED,
)

_COMMANDS = (
    Command(
        "GET",
        -2,
        _R,
        "GET key [STALE | AT id]",
        "The value of a key, or its newest record; STALE may ask a follower, AT wants a former value",
        1,
    ),
    Command(
        "SET",
        -3,
        _W,
        "SET key value [NX|XX|IFEQ comparison] [GET] [EX s|PX ms|EXAT s|PXAT ms|KEEPTTL] [ACK SYNC|ASYNC] [RECEIPT]",
        "Let a key hold a value",
        1,
    ),
    Command(
        "DEL",
        -2,
        _W,
        "DEL key [key ...]",
        "Delete keys; answers how many there were",
        1,
        True,
    ),
    Command("UNLINK", -2, _W, "UNLINK key [key ...]", "The same as DEL", 1, True),
    Command(
        "EXISTS",
        -2,
        _R,
        "EXISTS key [key ...]",
        "How many of the keys hold a value",
        1,
        True,
    ),
    Command("TOUCH", -2, _R, "TOUCH key [key ...]", "The same as EXISTS", 1, True),
    Command(
        "RANGE",
        -2,
        _R,
        "RANGE prefix [FROM key] [TO key] [COUNT n] [VALUES] [REV]",
        "Keys that begin with a prefix which has a {tag}, in their order; the first of two answers goes on",
        1,
    ),
    Command("MGET", -2, _R, "MGET key [key ...]", "The values of several keys", 1, True),
    Command(
        "MSET",
        -3,
        _W,
        "MSET key value [key value ...]",
        "Set several keys; atomic per partition",
        1,
        True,
        2,
    ),
    Command("SETNX", 3, _W, "SETNX key value", "Set a key that holds nothing yet", 1),
    Command("SETEX", 4, _W, "SETEX key seconds value", "Set a key with a TTL", 1),
    Command("PSETEX", 4, _W, "PSETEX key milliseconds value", "Set a key with a TTL", 1),
    Command("GETSET", 3, _W, "GETSET key value", "Set a key; answers the former value", 1),
    Command("GETDEL", 2, _W, "GETDEL key", "Delete a key; answers the former value", 1),
    Command(
        "GETEX",
        -2,
        _W,
        "GETEX key [EX s|PX ms|EXAT s|PXAT ms|PERSIST]",
        "Read a key, change its TTL",
        1,
    ),
    Command("APPEND", 3, _W, "APPEND key value", "Append to a value; answers its length", 1),
    Command("STRLEN", 2, _R, "STRLEN key", "The length of a value in bytes", 1),
    Command("INCR", 2, _W, "INCR key", "Add one to an integer", 1),
    Command("DECR", 2, _W, "DECR key", "Subtract one from an integer", 1),
    Command("INCRBY", 3, _W, "INCRBY key amount", "Add to an integer", 1),
    Command("DECRBY", 3, _W, "DECRBY key amount", "Subtract from an integer", 1),
    Command(
        "TTL",
        2,
        _R,
        "TTL key",
        "Seconds a key has left; -1 without TTL, -2 without value",
        1,
    ),
    Command("PTTL", 2, _R, "PTTL key", "Milliseconds a key has left", 1),
    Command("EXPIRETIME", 2, _R, "EXPIRETIME key", "When a key ends, Unix seconds", 1),
    Command("PEXPIRETIME", 2, _R, "PEXPIRETIME key", "When a key ends, Unix milliseconds", 1),
    Command("EXPIRE", -3, _W, "EXPIRE key seconds [NX|XX|GT|LT]", "Give a key a TTL", 1),
    Command(
        "PEXPIRE",
        -3,
        _W,
        "PEXPIRE key milliseconds [NX|XX|GT|LT]",
        "Give a key a TTL",
        1,
    ),
    Command(
        "EXPIREAT",
        -3,
        _W,
        "EXPIREAT key unix-seconds [NX|XX|GT|LT]",
        "Let a key end then",
        1,
    ),
    Command(
        "PEXPIREAT",
        -3,
        _W,
        "PEXPIREAT key unix-ms [NX|XX|GT|LT]",
        "Let a key end then",
        1,
    ),
    Command("PERSIST", 2, _W, "PERSIST key", "Take a key's TTL away", 1),
    Command("TYPE", 2, _R, "TYPE key", "string, records, or none", 1),
    Command(
        "ADD",
        -3,
        _W,
        "ADD key value [EX s|PX ms|EXAT s|PXAT ms] [IFLAST id] [RECEIPT]",
        "Add a record to a key; answers its id",
        1,
    ),
    Command("RECORD", 3, _R, "RECORD key id", "One record", 1),
    Command(
        "RECORDS",
        -2,
        _R,
        "RECORDS key [FROM id] [COUNT n] [REV]",
        "Records with their ids, from the oldest or (REV) the newest",
        1,
    ),
    Command("RECORDCOUNT", 2, _R, "RECORDCOUNT key", "How many records a key has", 1),
    Command("REMOVE", -3, _W, "REMOVE key id [IFLAST id] [BYPASS]", "Remove one record", 1),
    Command(
        "HOLD",
        -3,
        _W,
        "HOLD key id|* [name]",
        "Keep one WORM record of a key, or all, until RELEASE, whatever their retention",
        1,
    ),
    Command("RELEASE", -3, _W, "RELEASE key id|* [name]", "End what HOLD began", 1),
    Command(
        "RETAIN",
        -4,
        _W,
        "RETAIN key id unix-ms [BYPASS]",
        "Keep one WORM record until then; answers whether it is there",
        1,
    ),
    Command(
        "RECORDINFO",
        3,
        _R,
        "RECORDINFO key id",
        "What keeps a WORM record, and its place in its partition's chain",
        1,
    ),
    Command(
        "HISTORY",
        -2,
        _R,
        "HISTORY key [FROM id] [COUNT n] [REV]",
        "What a key has held: id, time, value, and when that ends",
        1,
    ),
    Command(
        "PURGE",
        -2,
        _W,
        "PURGE key [key ...]",
        "Delete keys with their history; answers how many had anything",
        1,
        True,
    ),
    Command(
        "SCAN",
        -2,
        _N,
        "SCAN cursor [MATCH pattern] [COUNT n] [TYPE type]",
        "Walk all keys",
    ),
    Command(
        "DBSIZE",
        -1,
        _N,
        "DBSIZE [keyspace]",
        "How many keys there are, or have a value or a history in a keyspace; walks them all",
    ),
    Command(
        "CHAIN",
        -3,
        _N,
        "CHAIN partition-id ordinal [REPLICA node]",
        "Links of a partition's chain of WORM records, and what is wrong with them",
    ),
    Command("PURGEALL", 2, _W, "PURGEALL keyspace", "A step of KEYSPACE DROP name DELETE-KEYS"),
    Command("PING", -1, _S, "PING [message]", "Is anybody there?"),
    Command("HELP", -1, _S, "HELP [command]", "What can be asked, or how one command is used"),
    Command("MULTI", 1, _S, "MULTI", "Begin a transaction: what follows waits for EXEC"),
    Command("EXEC", 1, _S, "EXEC", "Execute all since MULTI at one moment; nil if a watched key was written"),
    Command("DISCARD", 1, _S, "DISCARD", "Forget what was said since MULTI, and what is watched"),
    Command(
        "WATCH",
        -2,
        _S,
        "WATCH key [key ...]",
        "Let EXEC execute nothing if a key is written before it",
        1,
        True,
    ),
    Command("UNWATCH", 1, _S, "UNWATCH", "Watch nothing more"),
    Command("ECHO", 2, _S, "ECHO message", "The message"),
    Command("QUIT", -1, _S, "QUIT", "Close the connection"),
    Command(
        "HELLO", -1, _S, "HELLO [2|3 [AUTH user password] [SETNAME name]]", "Choose the protocol version"
    ),
    Command("SELECT", 2, _S, "SELECT 0", "There is one database"),
    Command("AUTH", -2, _S, "AUTH [user] password", "Log in; refused where no users are configured"),
    Command("RESET", 1, _S, "RESET", "Start the session over"),
    Command(
        "CLIENT",
        -2,
        _S,
        "CLIENT ID|INFO|LIST|GETNAME|SETNAME|SETINFO ...",
        "About this connection",
    ),
    Command("COMMAND", -1, _S, "COMMAND [COUNT|DOCS|INFO|LIST]", "About the commands"),
    Command(
        "CONFIG",
        -2,
        _S,
        "CONFIG GET pattern [pattern ...]",
        "Settings as Redis names them",
    ),
    Command("INFO", -1, _S, "INFO [section ...]", "About this process"),
    Command(
        "FEED",
        -2,
        _F,
        "FEED SUBSCRIBE|POSITION ALL|PARTITION name|KEYSPACE name|PREFIX prefix|KEY key [FROM position] [NOVALUES]"
        " | FEED UNSUBSCRIBE",
        "Changes of keys as they are committed, and from a position on",
    ),
    Command(
        "WATCHKEY",
        -2,
        _F,
        "WATCHKEY key [FROM position] [NOVALUES]",
        "The same as FEED SUBSCRIBE KEY key",
        1,
    ),
    Command("RING", 1, _A, "RING", "The state of the ring, as JSON"),
    Command("WHY", 2, _A, "WHY key", "Where a key lies and what stands in the way of a write, as JSON"),
    Command(
        "LEADER",
        -4,
        _A,
        "LEADER MOVE partition node | LEADER SEIZE partition node ACCEPT-DATA-LOSS",
        "Hand a partition to another node, or force one that is lost to lead",
    ),
    Command(
        "LAYOUT",
        -2,
        _A,
        "LAYOUT SHOW | LAYOUT PLAN [options] | LAYOUT APPLY plan",
        "Look at, plan or change the layout",
    ),
    Command(
        "KEYSPACE",
        -2,
        _A,
        "KEYSPACE LIST|SHOW name|CREATE name [option value ...]|ALTER name option value ...|DROP name",
        "What keys name/... hold: POLICY PLAIN|RECORDS|VERSIONS|WORM, ACK SYNC|ASYNC, RETENTION 30d, KEEP n, "
        "MODE GOVERNANCE|COMPLIANCE",
    ),
)

RECEIPTED = frozenset({"SET", "ADD"})
"""Commands with the option `RECEIPT`."""

ALIASES = {"PUT": "SET", "DELETE": "DEL", "EXIT": "QUIT"}

TABLE: dict[str, Command] = {command.name: command for command in _COMMANDS}
"""By canonical name."""

INTERNAL: dict[str, Command] = {
    "EXEC": Command("EXEC", -2, _W, "EXEC transaction", "A whole transaction, encoded"),
    "WATCH": Command("WATCH", -2, _R, "WATCH key [key ...]", "The versions of keys", 1, True),
    "BEGIN": Command("BEGIN", 1, _R, "BEGIN", "The time that a transaction's home counts from"),
    "PREPARE": Command("PREPARE", -5, _W, "PREPARE id began home transaction", "Execute a part, tell nobody"),
    "COMMIT": Command("COMMIT", -5, _W, "COMMIT id began participants transaction", "Execute a part, decide"),
    "RESOLVE": Command("RESOLVE", 3, _W, "RESOLVE id began", "The decision, which is made now if it was not"),
    "FINISH": Command("FINISH", 3, _W, "FINISH id COMMIT|ABORT", "Do as was decided, unlock"),
    "FORGET": Command("FORGET", 2, _W, "FORGET id", "All parts did as was decided"),
}
"""What a partition's leader is asked for connections' EXEC and WATCH; no client can say these."""

_BY_SPELLING: dict[bytes, Command] = {}
for _name, _command in [
    *TABLE.items(),
    *((alias, TABLE[name]) for alias, name in ALIASES.items()),
]:
    for _spelling in (_name, _name.lower(), _name.capitalize()):
        _BY_SPELLING[_spelling.encode()] = _command


def lookup(name: bytes) -> Command | None:
    """The command of that name, in any case."""
    return _BY_SPELLING.get(name) or _BY_SPELLING.get(name.upper())


def unknown_command(args: list[bytes]) -> BadRequest:
    """The error for a name that is no command, in Redis' words."""
    shown = [argument[:128].decode("utf-8", "backslashreplace") for argument in args[:20]]
    beginning = " ".join(f"'{argument}'" for argument in shown[1:])
    return BadRequest(f"unknown command '{shown[0]}', with args beginning with: {beginning[:128]}")


def check_arity(command: Command, args: list[bytes]) -> BadRequest | None:
    """The error for a wrong number of arguments, in Redis' words."""
    arity = command.arity
    if len(args) == arity or (arity < 0 and len(args) >= -arity and _has_whole_pairs(command, args)):
        return None
    return BadRequest(
        f"wrong number of arguments for '{command.name.lower()}' command; usage: {command.usage}"
    )


def keys_of(command: Command, args: list[bytes]) -> list[bytes]:
    """The arguments that are keys."""
    first = command.first_key
    return args[first :: command.step] if command.many_keys else args[first : first + 1]


def _has_whole_pairs(command: Command, args: list[bytes]) -> bool:
    return command.step == 1 or (len(args) - command.first_key) % command.step == 0
