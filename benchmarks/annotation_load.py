"""Simulated annotators who label at once while the server is killed: is every acknowledged judgement there once?

Each annotator is a thread with a connection of its own that does what a browser does: enters a code, accepts the
consent text, and then asks for a pair and judges it, again and again. Halfway the server gets SIGKILL and is started
again. A judgement that is not acknowledged is sent again until it is; some are sent twice though they were
acknowledged, and some connections are dropped before the answer can be read. In the end the store is held against what
the annotators were told. ``make bench`` runs it; `tests/annotation` runs it shorter.
"""

from __future__ import annotations

import argparse
import http.client
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

from postgres_server import postgres, why_not
from sqlalchemy import func, select

from rlhf_utils.annotation.records import Pair, add_pairs
from rlhf_utils.annotation.store import Store, Study
from rlhf_utils.annotation.tables import annotators, judgements, pairs

FIELD = re.compile(r'name="(form|pair|token)" value="([^"]+)"')
DROPPED = 0.02  #: share of judgements whose connection is dropped before the answer is read
REPEATED = 0.05  #: share of judgements that are sent again after they were acknowledged
PATIENCE = 60.0  #: seconds after which a judgement that is not acknowledged is a failure
CHOICES = ("a", "b", "tie", "skip")
WEIGHTS = (45, 45, 8, 2)  #: of the choices, in a hundred


@dataclass
class Told:
    """What the annotators were told, and how long it took."""

    kept: list[tuple[str, str, str]] = field(default_factory=list)  #: (annotator, pair, choice) acknowledged
    judge_seconds: list[float] = field(
        default_factory=list
    )  #: of requests that keep a judgement, when answered at once
    pair_seconds: list[float] = field(default_factory=list)  #: of requests for a pair, when answered at once
    again: int = 0  #: judgements that had to be sent again
    repeated: int = 0  #: judgements that were sent again though they were acknowledged
    longest: float = 0.0  #: seconds from the first try to the acknowledgement
    problems: list[str] = field(default_factory=list)  #: answers that nobody expects


@dataclass(frozen=True)
class Outcome:
    """A run, held against the store."""

    annotators: int  #: at once
    seconds: float  #: of labelling
    pause: float  #: mean of what an annotator takes to decide, in seconds
    wanted: int  #: judgements of a pair, at most
    told: Told  #: what the annotators saw
    missing: int  #: acknowledged, and not in the store or with another choice
    doubled: int  #: acknowledged twice for one annotator and pair, or in the store twice
    unasked: int  #: in the store and never acknowledged
    most: int  #: judgements other than skips of the pair that has most
    miscounted: int  #: pairs whose kept count isn't that of their judgements

    def row(self, store: str) -> str:
        """A row of the table of results."""
        told, ms = self.told, lambda values, share: f"{1000 * quantile(values, share):.0f}"
        quantiles = [f"{ms(v, 0.5)} / {ms(v, 0.95)} / {ms(v, 0.99)}" for v in (told.judge_seconds, told.pair_seconds)]
        cells = [store, f"{self.pause:g}", len(told.kept), f"{len(told.kept) / self.seconds:.0f}", *quantiles]
        cells += [told.again, told.repeated, f"{told.longest:.1f}", self.missing, self.doubled, self.unasked, self.most]
        return "| " + " | ".join(map(str, cells)) + " |"


def quantile(values: list[float], share: float) -> float:
    """A quantile, between the two nearest values."""
    return statistics.quantiles(values, n=1000, method="inclusive")[round(1000 * share) - 1]


class Server:
    """The server as a process.

    Args:
        location: of the store.
        port: to listen at; 0 at first takes a free one, which it keeps when it is started again.
    """

    def __init__(self, location: str, port: int = 0) -> None:
        self.location, self.port = location, port

    def start(self) -> None:
        """Start it, and wait until it listens."""
        command = [sys.executable, "-m", "rlhf_utils", "annotate", "serve", "--store", self.location]
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port)], stdout=subprocess.PIPE, text=True, encoding="utf8"
        )
        for line in self.process.stdout:
            if found := re.search(r"Annotators: http://127\.0\.0\.1:(\d+)/", line):
                self.port = int(found[1])
                return
        raise RuntimeError("the server didn't start")

    def kill(self) -> None:
        """SIGKILL: nothing is tidied up."""
        self.process.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
        self.process.wait()
        self.process.stdout.close()


class Browser:
    """One annotator's connection and cookie."""

    def __init__(self, port: int) -> None:
        self.port, self.cookie = port, ""
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def ask(self, path: str, form: dict[str, str] | None = None, drop: bool = False) -> tuple[int, str]:
        """A request; the status and the text of its answer.

        Raises:
            OSError: the server isn't there.
            http.client.HTTPException: it went away before it answered.
        """
        headers = {"cookie": self.cookie} if self.cookie else {}
        body = None
        if form is not None:
            body, headers["content-type"] = urlencode(form), "application/x-www-form-urlencoded"
        try:
            self.connection.request("GET" if form is None else "POST", path, body, headers)
            if drop:
                raise ConnectionAbortedError("dropped on purpose")
            answer = self.connection.getresponse()
            text = answer.read().decode("utf8")
        except (OSError, http.client.HTTPException):
            self.connection.close()
            raise
        if cookie := answer.getheader("set-cookie"):
            self.cookie = cookie.split(";")[0]
        return answer.status, text

    def enter(self, code: str) -> None:
        """Enter a code and accept the consent text."""
        for path, more in (("/", {"code": code}), ("/consent", {"accept": "yes"})):
            form = dict(FIELD.findall(self.ask(path)[1]))
            status, _ = self.ask("/enter" if path == "/" else path, {**form, **more})
            if status != 303:
                raise RuntimeError(f"{path}: {status}")


def annotate(name: str, code: str, port: int, until: threading.Event, pause: float, told: Told, seed: str) -> None:
    """Be an annotator until it is time to stop or nothing is left."""
    rng, browser = random.Random(seed), Browser(port)
    browser.enter(code)
    while not until.is_set():
        start = time.monotonic()
        try:
            status, text = browser.ask("/judge")
        except (OSError, http.client.HTTPException):
            time.sleep(0.1)
            continue
        form = dict(FIELD.findall(text.partition('id="judge"')[2].partition("</form>")[0]))
        if status != 200 or "token" not in form:
            if status < 500:  # nothing left, or something that a test should see
                told.problems += [] if "Thank you" in text else [f"{name}: a pair was answered by {status}"]
                return
            continue
        told.pair_seconds.append(time.monotonic() - start)
        if pause:
            time.sleep(rng.expovariate(1 / pause))
        form["choice"] = rng.choices(CHOICES, WEIGHTS)[0]
        if not judge(browser, form, rng, told, name):
            return


def judge(browser: Browser, form: dict[str, str], rng: random.Random, told: Told, name: str) -> bool:
    """Send a judgement until it is acknowledged; whether it was."""
    first, tries = time.monotonic(), 0
    while time.monotonic() - first < PATIENCE:
        tries += 1
        start = time.monotonic()
        try:
            status, _ = browser.ask("/judge", form, drop=tries == 1 and rng.random() < DROPPED)
        except (OSError, http.client.HTTPException):
            time.sleep(0.05)
            continue
        if status >= 500:
            time.sleep(0.05)
            continue
        if status != 303:
            told.problems.append(f"{name}: a judgement was answered by {status}")
            return False
        if tries == 1:
            told.judge_seconds.append(time.monotonic() - start)
        told.kept.append((name, form["pair"], form["choice"]))
        told.again += tries > 1
        told.longest = max(told.longest, time.monotonic() - first)
        if rng.random() < REPEATED:  # with another choice: the first one stands
            told.repeated += 1
            _repeat(browser, {**form, "choice": "tie"})
        return True
    told.problems.append(f"{name}: not acknowledged in {PATIENCE:.0f} s")
    return False


def _repeat(browser: Browser, form: dict[str, str]) -> None:
    with suppress(OSError, http.client.HTTPException):
        browser.ask("/judge", form)


def run(location: str, people: int, seconds: float, pause: float = 0.0, number: int = 8000, wanted: int = 3) -> Outcome:
    """Label at once, with a kill in the middle.

    Args:
        location: of a store that isn't there yet.
        people: annotators.
        seconds: of labelling.
        pause: mean of what an annotator takes to decide, in seconds.
        number: of pairs.
        wanted: judgements of a pair.
    """
    store = Store.create(location, Study("Load", "Which is better?", "Yes?", judgements_wanted=wanted))
    add_pairs(
        store, [Pair(f"Pair {i}:", f" this is one response to {i}", f" and another to {i}") for i in range(number)]
    )
    invited = store.invite(people)
    server, told, until = Server(location), Told(), threading.Event()
    server.start()
    threads = [
        threading.Thread(target=annotate, args=(name, code, server.port, until, pause, told, name))
        for name, code in invited
    ]
    start = time.monotonic()
    try:
        for thread in threads:
            thread.start()
        time.sleep(seconds / 2)
        server.kill()
        server.start()
        time.sleep(max(0.0, start + seconds - time.monotonic()))
        until.set()
        for thread in threads:
            thread.join()
        lasted = time.monotonic() - start
    finally:
        until.set()
        server.kill()
    outcome = compare(store, told, people, lasted, pause, wanted)
    store.close()
    return outcome


def compare(store: Store, told: Told, people: int, seconds: float, pause: float, wanted: int) -> Outcome:
    """Hold a store against what the annotators were told."""
    query = select(annotators.c.name, judgements.c.pair_id, judgements.c.choice).join(annotators)
    placed = select(func.count()).where(judgements.c.pair_id == pairs.c.pair_id, judgements.c.choice != "skip")
    with store.database.reading() as connection:
        rows = connection.execute(query).all()
        wrong = select(func.count()).select_from(pairs).where(pairs.c.judged != placed.scalar_subquery())
        miscounted = connection.execute(wrong).scalar_one()
    there, acknowledged = Counter(rows), Counter(told.kept)
    twice = [Counter(row[:2] for row in found) for found in (rows, told.kept)]
    places = Counter(pair for _, pair, choice in rows if choice != "skip")
    return Outcome(
        people, seconds, pause, wanted, told,
        missing=(acknowledged - there).total(),
        doubled=sum(n - 1 for counts in twice for n in counts.values()),
        unasked=(there - acknowledged).total(),
        most=max(places.values(), default=0),
        miscounted=miscounted,
    )  # fmt: skip


@contextmanager
def _places(name: str) -> Iterator[str]:
    if name == "PostgreSQL":
        with postgres() as url:
            yield url
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield str(Path(folder) / "study.db")


HEADER = (
    "| store | pause, s | judgements | a second | keeping one, ms | asking for a pair, ms | sent again | repeated "
    "| longest wait, s | missing | doubled | unasked | most of a pair |"
)


def main() -> None:
    """Run both stores, with and without pauses, and keep the table."""
    from bench import machine

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--annotators", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--pauses", type=float, nargs="+", default=[1.0, 0.0], help="means, in seconds")
    parser.add_argument("--keep", type=Path, help="file for the table")
    args = parser.parse_args()
    busy = f" The load average before was {os.getloadavg()[0]:.1f}." if hasattr(os, "getloadavg") else ""
    rows = []
    for name in ("SQLite", "PostgreSQL"):
        if name == "PostgreSQL" and (reason := why_not()):
            print(f"PostgreSQL is left out: {reason}", file=sys.stderr)
            continue
        for pause in args.pauses:
            with _places(name) as location:
                outcome = run(location, args.annotators, args.seconds, pause)
            rows.append(outcome.row(name))
            print(rows[-1], *outcome.told.problems[:5], sep="\n", flush=True)
    text = "\n".join(
        [
            machine(),
            "",
            f"{args.annotators} annotators at once for {args.seconds:g} s, 3 judgements wanted of a pair; the server "
            "gets SIGKILL halfway and is started again. Annotators and server share the machine. Times are median / "
            "95 % / 99 % of requests that were answered at the first try; the longest wait is for the new server."
            + busy,
            "",
            HEADER,
            "|" + "---|" * HEADER.count(" |"),
            *rows,
        ]
    )
    if args.keep:
        args.keep.write_text(text + "\n", encoding="utf8")
    print(text)


if __name__ == "__main__":
    main()
