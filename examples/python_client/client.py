"""Rank, append, rank again: a client of sesrec with deadlines, retries and history tokens. See README.md."""

import argparse
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


# Events of a stream that are on their way. More would only wait elsewhere.
WINDOW = 256


class Pool:
    """Several connections to one address, taken in turn: a single TCP stream's losses hold up all calls on it."""

    def __init__(self, server, connections=4):
        # Channels with equal settings share a connection unless each has a pool of its own. Keepalive finds dead ones.
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.max_receive_message_length", 64 << 20),
        ]
        channels = [grpc.insecure_channel(server, options=options) for _ in range(connections)]
        self._stubs = itertools.cycle([ranking_pb2_grpc.RankingServiceStub(channel) for channel in channels])

    def stub(self):
        return next(self._stubs)


def stream(pool, events, timeout=10.0):
    """Streams events and yields their acknowledgements. At most WINDOW are unacknowledged: the iterator is held back."""
    room, ended = threading.Semaphore(WINDOW), threading.Event()

    def held_back():
        for request in events:
            room.acquire()
            if ended.is_set():
                return
            yield request

    try:
        for answer in pool.stub().AppendEvents(held_back(), timeout=timeout):
            room.release()
            yield answer
    finally:
        # The thread that reads the iterator must not wait for room for ever.
        ended.set()
        room.release()


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


def call(method, request, timeout=2.0, attempts=5):
    """One call under one deadline for all its attempts, waiting as long as the server asks (RetryInfo) in between."""
    deadline = time.monotonic() + timeout
    for attempt in range(attempts):
        try:
            return method(request, timeout=max(deadline - time.monotonic(), 0.001))
        except grpc.RpcError as error:
            found = details(error)
            if error.code() not in RETRIABLE or attempt + 1 == attempts:
                for violation in getattr(found.get("BadRequest"), "field_violations", ()):
                    print(f"  {violation.field}: {violation.description}", file=sys.stderr)
                raise
            asked = found["RetryInfo"].retry_delay.ToTimedelta().total_seconds() if "RetryInfo" in found else 0.0
            wait = max(asked, 0.05 * 2**attempt) * (1 + random.random() / 2)
            if time.monotonic() + wait > deadline:
                raise
            time.sleep(wait)
    raise AssertionError("unreachable")


def event(user, **payload):
    """An event of now with an id of its own."""
    now = Timestamp()
    now.GetCurrentTime()
    return ranking_pb2.AppendEventRequest(
        event=events_pb2.Event(event_id=str(uuid.uuid4()), user_id=user, time=now, **payload)
    )


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
    show("before", call(pool.stub().Rank, request))

    search = events_pb2.Search(search_id=str(uuid.uuid4()), query="red shoes", clicked_item_ids=[args.items[-1]])
    appended = call(pool.stub().AppendEvent, event(args.user, search=search))
    print(f"appended: {ranking_pb2.Outcome.Name(appended.outcome)}")

    # The token makes any replica answer from a state that has this append.
    request.history_token = appended.history_token
    show("after", call(pool.stub().Rank, request))

    # A stream: acknowledgements come in order, each only after the store has the event.
    events = (event(args.user, recommendation=events_pb2.Recommendation(item_id=item)) for item in args.items)
    for answer in stream(pool, events):
        print(f"streamed {answer.event_id}: {ranking_pb2.Outcome.Name(answer.outcome)}")


if __name__ == "__main__":
    main()
