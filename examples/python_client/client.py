"""Rank, append, rank again: a client of sesrec with deadlines, retries and history tokens. See README.md."""

import argparse
import collections
import itertools
import random
import sys
import threading
import time
import uuid

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2

from sesrec.v1 import events_pb2, ranking_pb2, ranking_pb2_grpc

# Codes after which the same request may succeed. An append may be repeated safely: its event_id makes it idempotent.
RETRIABLE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}

# With what a stream ends that may be opened again. Servers end streams regularly: for their age, or to restart.
STREAM_RETRIABLE = RETRIABLE | {
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.UNKNOWN,
}

# Events of a stream that are on their way. More would only wait elsewhere.
WINDOW = 256


class Pool:
    """Several connections to one address, taken in turn: a single TCP stream's losses hold up all calls on it."""

    def __init__(self, server, connections=4):
        # Channels with equal settings share a connection unless each has a pool of its own. Keepalive finds dead ones.
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.keepalive_time_ms", 30_000),
            # Two minutes otherwise: a server that was away for long is back before that.
            ("grpc.max_reconnect_backoff_ms", 5_000),
            ("grpc.max_receive_message_length", 64 << 20),
        ]
        channels = [grpc.insecure_channel(server, options=options) for _ in range(connections)]
        self._stubs = itertools.cycle([ranking_pb2_grpc.RankingServiceStub(channel) for channel in channels])

    def stub(self):
        return next(self._stubs)


class Window:
    """The events of a stream that have no acknowledgement, in order. A thread reads them while there is room."""

    def __init__(self, events):
        self._open = collections.deque()
        self._acknowledged = 0
        self._connection = 0
        self._ended = self._closed = False
        self._error = None
        self._changed = threading.Condition()
        # A daemon: it may wait for an event when nobody wants one any more.
        threading.Thread(target=self._read, args=(iter(events),), daemon=True).start()

    def _read(self, events):
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._closed or len(self._open) < WINDOW)
                    if self._closed:
                        return
                event = next(events, None)
                if event is None:
                    return
                request = ranking_pb2.AppendEventRequest(event=event)
                with self._changed:
                    self._open.append(request)
                    self._changed.notify_all()
        except Exception as error:  # Raised where the acknowledgements are read.
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def requests(self):
        """What a new connection has to send: first what the last one left without an acknowledgement."""
        with self._changed:
            self._connection += 1
            self._changed.notify_all()
            return self._requests(self._connection, self._acknowledged)

    def _requests(self, connection, place):
        def sent():
            return place == self._acknowledged + len(self._open)

        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._connection != connection or not sent() or self._ended)
                # The end half-closes the stream: the server ends it after the last acknowledgement.
                if self._connection != connection or sent():
                    return
                request = self._open[place - self._acknowledged]
            place += 1
            yield request

    def acknowledge(self):
        """The oldest event has its acknowledgement."""
        with self._changed:
            self._open.popleft()
            self._acknowledged += 1
            self._changed.notify_all()

    def is_done(self):
        """Whether all events have their acknowledgements. Raises what reading the events raised."""
        with self._changed:
            done = self._ended and not self._open
            if done and self._error:
                raise self._error
            return done

    def close(self):
        """Ends the threads that wait for a change."""
        with self._changed:
            self._closed = True
            self._connection += 1
            self._changed.notify_all()


def stream(pool, events):
    """Streams events and yields their acknowledgements. At most WINDOW are unacknowledged: the iterator is held back.

    What was not acknowledged is sent again after a failure, and is a duplicate if the server had it already. There is
    no deadline: it would be the whole stream's. The iterator is read by another thread.
    """
    window = Window(events)
    try:
        while not window.is_done():
            answers = pool.stub().AppendEvents(window.requests())
            try:
                for answer in answers:
                    window.acknowledge()
                    yield answer
            except grpc.RpcError as error:
                # INTERNAL is also what a stream ends with that a proxy reset. What the server says has details.
                reset = error.code() == grpc.StatusCode.INTERNAL and "ErrorInfo" not in details(error)
                if error.code() not in STREAM_RETRIABLE and not reset:
                    raise
                time.sleep(pause(error, 0.2))
            finally:
                answers.cancel()
    finally:
        window.close()


def details(error):
    """The google.rpc details of an error, by type."""
    found = {}
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                for kind in (error_details_pb2.RetryInfo, error_details_pb2.BadRequest, error_details_pb2.ErrorInfo):
                    message = kind()
                    if detail.Unpack(message):
                        found[kind.__name__] = message
    return found


def pause(error, least):
    """Seconds to wait: as many as the server asks, or `least`; and up to half as many again, since it asks all for the
    same, and callers that failed together must not come back together."""
    retry = details(error).get("RetryInfo")
    asked = retry.retry_delay.ToTimedelta().total_seconds() if retry is not None else 0.0
    return max(asked, least) * (1 + random.random() / 2)


def call(method, request, timeout=2.0, attempts=5):
    """One call under one deadline for all its attempts, waiting as long as the server asks (RetryInfo) in between."""
    deadline = time.monotonic() + timeout
    for attempt in range(attempts):
        try:
            return method(request, timeout=max(deadline - time.monotonic(), 0.001))
        except grpc.RpcError as error:
            if error.code() not in RETRIABLE or attempt + 1 == attempts:
                for violation in getattr(details(error).get("BadRequest"), "field_violations", ()):
                    print(f"  {violation.field}: {violation.description}", file=sys.stderr)
                raise
            wait = pause(error, 0.05 * 2**attempt)
            if time.monotonic() + wait > deadline:
                raise
            time.sleep(wait)
    raise AssertionError("unreachable")


def rank(pool, request, timeout=2.0):
    """A Rank. Where the store is behind the request's token, the token is dropped from it, and it is asked once more.

    The store has lost data then, or a replica of it lags for longer than the server waits. Kept, the token would fail
    all further Ranks of this user. Whoever keeps tokens for longer, in a session for instance, drops them there, too;
    takes every append's; and takes a Rank's only in place of the one that the Rank was sent with: an append's that came
    meanwhile stands for a newer state than the one a slow Rank saw.
    """
    deadline = time.monotonic() + timeout
    try:
        return call(pool.stub().Rank, request, timeout)
    except grpc.RpcError as error:
        reason = getattr(details(error).get("ErrorInfo"), "reason", None)
        if error.code() != grpc.StatusCode.FAILED_PRECONDITION or reason != "HISTORY_TOKEN_AHEAD":
            raise
        request.ClearField("history_token")
        left = deadline - time.monotonic()
        if left <= 0:
            raise
    return call(pool.stub().Rank, request, left)


def append(pool, event):
    """Appends an event. Of two that overlap, the earlier one's token may come last: a user's one after another."""
    return call(pool.stub().AppendEvent, ranking_pb2.AppendEventRequest(event=event))


def event(user, **payload):
    """An event of now with an id of its own."""
    now = Timestamp()
    now.GetCurrentTime()
    return events_pb2.Event(event_id=str(uuid.uuid4()), user_id=user, time=now, **payload)


def show(title, answer):
    """An answer for people."""
    print(f"{title}  (model {answer.model_version}, {answer.timings.total_us / 1000:.2f} ms)")
    for item in answer.items:
        print(f"  {item.score:.5f}  {item.item_id}")
    for item in answer.unknown_item_ids:
        print(f"  not in the catalogue: {item}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", default="localhost:50051")
    parser.add_argument("--user", default="u42")
    parser.add_argument("items", nargs="+")
    args = parser.parse_args()

    pool = Pool(args.server)

    request = ranking_pb2.RankRequest(user_id=args.user, candidate_item_ids=args.items)
    show("before", rank(pool, request))

    search = events_pb2.Search(search_id=str(uuid.uuid4()), query="red shoes", clicked_item_ids=[args.items[-1]])
    appended = append(pool, event(args.user, search=search))
    print(f"appended: {ranking_pb2.Outcome.Name(appended.outcome)}")

    # The token makes any replica answer from a state that has this append.
    request.history_token = appended.history_token
    show("after", rank(pool, request))

    # A stream: acknowledgements come in order, each only after the store has the event.
    events = (event(args.user, recommendation=events_pb2.Recommendation(item_id=item)) for item in args.items)
    for answer in stream(pool, events):
        print(f"streamed {answer.event_id}: {ranking_pb2.Outcome.Name(answer.outcome)}")


if __name__ == "__main__":
    main()
