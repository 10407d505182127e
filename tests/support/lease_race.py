"""One of two commands that race for leases: `python -m tests.support.lease_race NUMBER ROUNDS MEETING URI`.

In each round both processes meet in the folder MEETING and enter the lease of URI/round at once. Who holds it makes a file
there that nobody else may have made at that time. Prints one JSON line a round: whether it held the lease, and whether
another did too.
In even rounds the two are on one machine, in odd ones they pretend to be on two.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.lease import InUseError, Lease, LeaseLostError

AT_ONCE = 20


def main() -> None:
    """Races, several rounds at a time."""
    number, rounds, meeting, uri = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for told in pool.map(lambda which: _race(number, which, meeting, f"{uri}/{which}"), range(rounds)):
            print(json.dumps(told), flush=True)


def _race(number: int, which: int, meeting: Path, uri: str) -> dict[str, bool]:
    lease = Lease(Folder(uri), "label", beat_seconds=1)
    if which % 2:
        lease.owner["machine"] = f"machine {number}"
    (meeting / f"{which}-{number}").touch()
    while not (meeting / f"{which}-{1 - number}").exists():
        time.sleep(0.001)
    try:
        with lease:
            lease.check()
            held = meeting / f"{which}-held"
            try:
                os.close(os.open(held, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return {"held": True, "two": True}
            time.sleep(0.01)
            held.unlink()
            return {"held": True, "two": False}
    except (InUseError, LeaseLostError):  # lost: this machine was so busy that the other could take it over
        return {"held": False, "two": False}


if __name__ == "__main__":
    main()
