"""What a torture found, for a terminal and as one HTML file that needs nothing beside it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from fortdb.torture.findings import Findings
from fortdb.torture.history import FaultEvent, Kind, Operation, Outcome
from fortdb.torture.judge import SILENCE_NS_MIN, Judgement, Silence
from fortdb.torture.linear import Verdict
from fortdb.torture.sorts import Sort
from fortdb.torture.timeline import Band, bands, timeline

WITNESSES_MAX = 5
OUTAGES_MAX = 15  # in the table of the longest ones
_PLURALS = {
    Sort.LOST: "lost writes",
    Sort.BACK: "resurrected writes",
    Sort.STALE: "stale reads",
    Sort.TWICE: "writes applied twice",
    Sort.REFUSED: "refused writes that took effect",
    Sort.PROTECTED: "protected records changed or gone",
    Sort.ORDER: "otherwise",
}
_BUCKETS = 120
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 1080.0, 240.0, 56.0, 24.0


@dataclass(frozen=True, slots=True)
class Report:
    """A torture with its judgement."""

    findings: Findings
    judgement: Judgement
    operations: Sequence[Operation]
    faults: Sequence[FaultEvent]

    @property
    def verdict(self) -> Verdict:
        """The worst of what the clients were told, and of what the runner saw by itself."""
        if self.findings.violations or self.judgement.violations:
            return Verdict.VIOLATED
        if self.findings.unjudged or self.judgement.verdict is not Verdict.LINEARIZABLE:
            return Verdict.UNDECIDED
        return Verdict.LINEARIZABLE

    @property
    def headline(self) -> str:
        """The verdict in one line."""
        words = {
            Verdict.LINEARIZABLE: "PASSED",
            Verdict.VIOLATED: "VIOLATED",
            Verdict.UNDECIDED: "NOT JUDGED",
        }
        return f"{words[self.verdict]}: {self._checked}"

    @property
    def _checked(self) -> str:
        calls = self.judgement
        return (
            f"{len(self.operations)} calls ({calls.count(Outcome.OK)} ok, {calls.count(Outcome.FAILED)} failed, "
            f"{calls.count(Outcome.UNKNOWN)} unknown) on {calls.keys} keys, through {self.findings.faults} faults"
        )

    @property
    def problems(self) -> list[str]:
        """Everything that is wrong, or could not be told, in sentences."""
        undecided = self.judgement.undecided
        return [
            *(
                f"violated: {violation.sort.value}: {violation.sentence}"
                for violation in self.judgement.violations
            ),
            *(f"violated: {violation}" for violation in self.findings.violations),
            *(f"not judged: {reason}" for reason in self.findings.unjudged),
            *(
                [f"not judged: {len(undecided)} keys, too much at once: {', '.join(undecided[:5])}"]
                if undecided
                else []
            ),
            *self._nothing_to_judge,
        ]

    @property
    def checks(self) -> list[str]:
        """Each check with what it looked at and what it found."""
        counts = Counter(violation.sort for violation in self.judgement.violations)
        looked_at = ", ".join(f"{count:,} {what}" for what, count in sorted(self.judgement.keys_of.items()))
        found = ", ".join(f"{counts[sort]:,} {_PLURALS[sort]}" for sort in Sort if sort is not Sort.ORDER)
        lines = [
            f"each key by itself: {looked_at}; {counts.total():,} not linearizable",
            f"found: {found}",
        ]
        if self.findings.transactions:
            lines.append(f"transactions on several keys, all together: {self.findings.transactions:,}")
        if self.findings.changes:
            losses = self.findings.feed_losses
            since = f", since it was lost, and begun anew, {losses} times" if losses else ""
            lines.append(
                f"the change feed, beside what was written{since}: {self.findings.changes:,} changes"
            )
        if self.findings.chains:
            lines.append(
                f"chains of WORM records followed to their end, and compared: {self.findings.chains:,} on all "
                f"replicas, {self.findings.links:,} links"
            )
        if self.findings.receipts:
            lines.append(f"receipts of WORM records verified: {self.findings.receipts:,}")
        if self.findings.keys_compared:
            lines.append(f"replicas compared byte for byte: {self.findings.keys_compared:,} keys")
        return lines

    @property
    def remains(self) -> list[str]:
        """Which keys there were on a ring of somebody else's, and what is still there."""
        findings = self.findings
        if not findings.keys_named:
            return []
        removed = "" if findings.left_behind else "; all were removed"
        return [
            f"keys and keyspaces of the torture: {findings.keys_named}...{removed}",
            *(f"still there: {what}" for what in findings.left_behind),
        ]

    @property
    def _nothing_to_judge(self) -> list[str]:
        if not self.judgement.count(Outcome.OK):
            return ["not judged: no call succeeded"]
        if not self.judgement.calls.get((Kind.READ, Outcome.OK)):
            return ["not judged: nothing was read"]
        return []

    @property
    def replay(self) -> str:
        """The command that plays the same schedule again."""
        findings = self.findings
        return " ".join(
            [f"fortdb torture --seed {findings.seed} --seconds {findings.seconds:g}", *findings.options]
        )


def fault_rows(report: Report) -> list[tuple[str, int, float]]:
    """Name, how often, seconds in all, of every fault; the longest first."""
    count: Counter[str] = Counter(event.name for event in report.faults if event.phase == "begin")
    seconds: defaultdict[str, float] = defaultdict(float)
    name_of = {event.detail: event.name for event in report.faults}
    for band in bands(report.faults, _last_ns(report)):
        seconds[name_of[band.label]] += (band.ended_ns - band.started_ns) / 1e9
    return sorted(((name, count[name], seconds[name]) for name in count), key=lambda row: -row[2])


def silence_text(judgement: Judgement) -> str:
    """Outages of everything in one sentence."""
    return _outages("without a successful call of any client", judgement.silences)


def place_silence_text(judgement: Judgement) -> str:
    """Outages of one partition's keys in one sentence."""
    return _outages("without a successful call on the keys of one tag", judgement.place_silences)


def _outages(what: str, silences: Sequence[Silence]) -> str:
    lengths = sorted(silence.seconds for silence in silences)
    least = SILENCE_NS_MIN / 1e9
    if not lengths:
        return f"never longer than {least:g} s {what}"
    p99 = lengths[min(len(lengths) - 1, int(len(lengths) * 0.99))]
    return (
        f"{len(lengths)} times longer than {least:g} s {what}: "
        f"{sum(lengths):.1f} s in all, the longest {lengths[-1]:.1f} s, p99 {p99:.1f} s"
    )


def text_lines(report: Report) -> Iterator[str]:
    """For a terminal."""
    yield report.headline
    yield f"again: {report.replay}"
    yield from report.problems
    yield from report.checks
    yield silence_text(report.judgement)
    yield place_silence_text(report.judgement)
    rows = fault_rows(report)
    if rows:
        yield "faults: " + ", ".join(f"{count} {name} ({seconds:.0f} s)" for name, count, seconds in rows)
    for name, reason in report.findings.left_out.items():
        yield f"left out: {name} ({reason})"
    yield from report.remains


def html(report: Report) -> str:
    """One document."""
    return "\n".join(_html(report))


def _html(report: Report) -> Iterator[str]:
    yield '<!doctype html><html lang="en"><meta charset="utf-8"><title>fortdb torture</title>'
    yield (
        "<style>:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:1120px;"
        "margin:2rem auto;padding:0 1rem}table{border-collapse:collapse}td,th{padding:.15rem .8rem .15rem 0;"
        "text-align:right}td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}"
        ".verdict{font-size:1.3rem;font-weight:700}.PASSED{color:#2b8a3e}.VIOLATED{color:#d6336c}"
        ".NOT{color:#c98a1b}code{background:#8882;padding:.1rem .3rem;border-radius:3px}</style>"
    )
    mark = report.headline.split(":")[0].split()[0]
    yield f'<p class="verdict {mark}">{escape(report.headline)}</p>'
    yield f"<p>Again: <code>{escape(report.replay)}</code></p>"
    if report.problems:
        yield "<ul>" + "".join(f"<li>{escape(problem)}</li>" for problem in report.problems) + "</ul>"
    yield "<h2>Checks</h2><ul>" + "".join(f"<li>{escape(check)}</li>" for check in report.checks) + "</ul>"
    for violation in report.judgement.violations[:WITNESSES_MAX]:
        if violation.witness is not None:
            yield f"<h2>{escape(violation.sort.value)}: {escape(violation.sentence)}</h2>"
            yield timeline(violation.witness, report.faults)
    yield f"<h2>Calls over time</h2><p>{escape(silence_text(report.judgement))}</p>"
    yield throughput(report)
    yield f"<h2>Unavailability</h2><p>{escape(place_silence_text(report.judgement))}</p>"
    yield _table(("where", "began", "lasted", "in force then"), _outage_rows(report))
    yield "<h2>Calls</h2>" + _table(
        ("call", *(outcome.value for outcome in Outcome)),
        [
            (kind.value, *(str(report.judgement.calls.get((kind, outcome), 0)) for outcome in Outcome))
            for kind in Kind
        ],
    )
    yield "<h2>Faults</h2>" + _table(
        ("fault", "times", "seconds"),
        [(name, str(count), f"{seconds:.1f}") for name, count, seconds in fault_rows(report)],
    )
    left_out, notes = report.findings.left_out, report.findings.notes
    if left_out:
        lines = "".join(f"<li>{escape(name)}: {escape(why)}</li>" for name, why in left_out.items())
        yield f"<h2>Left out</h2><ul>{lines}</ul>"
    if report.remains:
        yield "<h2>Keys</h2><ul>" + "".join(f"<li>{escape(line)}</li>" for line in report.remains) + "</ul>"
    if notes:
        yield "<h2>Notes</h2><ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>"
    yield "</html>"


def _outage_rows(report: Report) -> list[tuple[str, str, str, str]]:
    """The longest stretches without a successful call, with what was broken meanwhile."""
    judgement = report.judgement
    longest = sorted(
        [*judgement.silences, *judgement.place_silences], key=lambda silence: silence.seconds, reverse=True
    )
    first_ns = min((operation.started_ns for operation in report.operations), default=0)
    in_force = bands(report.faults, _last_ns(report))
    return [
        (
            f"keys of {{{silence.place}}}" if silence.place else "all keys",
            f"{(silence.started_ns - first_ns) / 1e9:.1f} s",
            f"{silence.seconds:.1f} s",
            "; ".join(
                band.label
                for band in in_force
                if band.started_ns <= silence.ended_ns and band.ended_ns >= silence.started_ns
            ),
        )
        for silence in longest[:OUTAGES_MAX]
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{body}</table>"


def _last_ns(report: Report) -> int:
    return max((operation.ended_ns for operation in report.operations), default=0)


def throughput(report: Report) -> str:
    """Successful and other calls a second over the run, faults behind them."""
    return "\n".join(_throughput(report))


def _throughput(report: Report) -> Iterator[str]:
    if not report.operations:
        return
    first, last = min(o.started_ns for o in report.operations), _last_ns(report)
    span = max(1, last - first)
    ok, other = [0] * _BUCKETS, [0] * _BUCKETS
    for operation in report.operations:
        bucket = min(_BUCKETS - 1, (operation.ended_ns - first) * _BUCKETS // span)
        (ok if operation.outcome is Outcome.OK else other)[bucket] += 1
    per_s = _BUCKETS / (span / 1e9)
    most = max(map(sum, zip(ok, other, strict=True))) or 1
    plot, bar = _HEIGHT - _BOTTOM - 12, (_WIDTH - _LEFT) / _BUCKETS
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" font-size="11">'
    yield (
        "<style>.q{fill:#6b7280}.b{fill:#f3c969;opacity:.18}@media(prefers-color-scheme:dark)"
        "{.q{fill:#9aa3b2}}</style>"
    )
    for band in bands(report.faults, last):
        yield _band(band, first, span)
    for index in range(_BUCKETS):
        x, base = _LEFT + index * bar, _HEIGHT - _BOTTOM
        for count, color in ((ok[index], "#3a7bd5"), (other[index], "#d6336c")):
            high = plot * count / most
            base -= high
            if count:
                yield (
                    f'<rect x="{x:.1f}" y="{base:.1f}" width="{bar - 1:.1f}" height="{high:.1f}" fill="{color}"/>'
                )
    yield f'<text class="q" x="4" y="20">{most * per_s:.0f}/s</text>'
    for part in range(5):
        x = _LEFT + (_WIDTH - _LEFT - 30) * part / 4
        yield f'<text class="q" x="{x:.1f}" y="{_HEIGHT - 8:g}">{span * part / 4 / 1e9:.0f} s</text>'
    yield f'<text class="q" x="{_LEFT:g}" y="10">blue: ok, red: failed or unknown; bands: faults in force</text>'
    yield "</svg>"


def _band(band: Band, first: int, span: int) -> str:
    left = _LEFT + max(0.0, (band.started_ns - first) / span) * (_WIDTH - _LEFT)
    right = _LEFT + min(1.0, (band.ended_ns - first) / span) * (_WIDTH - _LEFT)
    return (
        f'<rect class="b" x="{left:.1f}" y="14" width="{max(1.0, right - left):.1f}" '
        f'height="{_HEIGHT - _BOTTOM - 14:.1f}"><title>{escape(band.label)}</title></rect>'
    )
