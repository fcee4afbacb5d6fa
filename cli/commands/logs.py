"""`clos logs`: the last lines of a group or a service with their times, and then what comes."""

import time

import click

from cli.command import Command
from cli.errors import DONE, INTERRUPTED
from cli.invocation import Invocation, pass_invocation
from cli.live import Feed, FeedLost
from cli.log_view import Shown, sources

_MAX_SUBSCRIPTIONS = 15
_SETTLE_S = 1.0
_SILENT_S = 10.0
_POLL_S = 1.0


@click.command(cls=Command)
@click.argument("target", nargs=-1)
@click.option("-n", "--lines", "--tail", type=click.IntRange(0, 5000), default=50, show_default=True)
@click.option("-f", "--follow/--no-follow", default=True, help="Go on with new lines.  [default: follow]")
@click.option("--since", help="A time, or 15m.")
@click.option("--grep", metavar="TEXT", help="Only lines that hold TEXT.")
@click.option("--no-timestamps", is_flag=True, help="Only the text.")
@pass_invocation
def logs(
    invocation: Invocation,
    target: tuple[str, ...],
    lines: int,
    follow: bool,
    since: str | None,
    grep: str | None,
    no_timestamps: bool,
) -> int:
    """Show the last lines of each TARGET with their times, then follow them until Ctrl-C.

    TARGET is a group, or a service by its name, its id or group/service; without any, every service. Lines of
    containers that are gone are shown as far as they were kept.
    """
    shown = Shown(invocation, sources(invocation.client, target), grep, not no_timestamps)
    if not shown.ids:
        invocation.printer.say("no services, so no logs")
        return DONE
    if not follow:
        shown.first(lines, since)
        return DONE
    try:
        _follow(invocation, shown, lines, since)
    except KeyboardInterrupt:
        return INTERRUPTED
    return DONE


def _follow(invocation: Invocation, shown: Shown, lines: int, since: str | None) -> None:
    subscriptions = [{"events": ["log.line"], source.kind: source.name} for source in shown.sources]
    feed = Feed(invocation.client, subscriptions)
    try:
        if len(subscriptions) > _MAX_SUBSCRIPTIONS:
            raise FeedLost(f"more than {_MAX_SUBSCRIPTIONS} groups")
        feed.open()
        shown.first(lines, since)
        _by_feed(feed, shown)
    except FeedLost as lost:
        invocation.printer.detail(f"no live lines ({lost}): asking every {_POLL_S:g} s")
        if feed.last_id is None:
            shown.first(lines, since)
        while True:
            time.sleep(_POLL_S)
            shown.catch_up()
    finally:
        feed.close()


def _by_feed(feed: Feed, shown: Shown) -> None:
    """Between the first reading and the moment at which a worker follows, and after a cut, lines would be missing.

    So until it has settled, what is heard is thrown away, and one reading gives all of it.
    """
    settled, reconnected, due_at = False, 0, time.monotonic() + _SETTLE_S
    while True:
        event = feed.next(min(max(due_at - time.monotonic(), 0.01), 1.0))
        if feed.reconnected != reconnected:
            settled, reconnected, due_at = False, feed.reconnected, time.monotonic() + _SETTLE_S
        if event is not None and settled:
            shown.event(event)
            due_at = time.monotonic() + _SILENT_S
        if time.monotonic() >= due_at:
            shown.catch_up()
            settled, due_at = True, time.monotonic() + _SILENT_S
