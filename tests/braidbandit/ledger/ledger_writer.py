"""One of several processes that write to a ledger at once; started by the tests.

Prints, as JSON, how many of its calls were the ones that wrote.
"""

import dataclasses
import json
import sys
from concurrent.futures import ThreadPoolExecutor

from braidbandit.ledger.ledger import Ledger
from braidbandit.ledger.records import Decision, Outcome


def main():
    url, process, shared, template = sys.argv[1:]
    decision = Decision.from_dict(json.loads(template))
    with Ledger(url) as ledger, ThreadPoolExecutor(8) as pool:

        def say(outcome):
            return ledger.record_outcome(outcome) is not None

        def write(thread):
            wrote = {"decision": 0, "outcome": 0, "shared": 0, "revision": 0}
            for number in range(3):
                name = f"{process}-{thread}-{number}"
                mine = dataclasses.replace(decision, id=name)
                wrote["decision"] += ledger.record_decision(mine)
                wrote["outcome"] += say(Outcome(name, 0.5))
                wrote["shared"] += say(Outcome(shared, 1.0))
                wrote["outcome"] += say(Outcome(name, 0.5))
            reward = (8 * int(process) + thread) / 100
            revised = ledger.revise(f"{process}-{thread}-0", reward)
            wrote["revision"] += revised is not None
            return wrote

        done = list(pool.map(write, range(8)))
    print(json.dumps({key: sum(row[key] for row in done) for key in done[0]}))


if __name__ == "__main__":
    main()
