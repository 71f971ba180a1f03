"""Clients under steady load inside a stub host's network. Usage: load.py PORT KEY CONNECTIONS A_SECOND LEAST.

Each connection is kept, and asks one short question after the other, A_SECOND in all. Prints the number of answers with each
hundredth, and goes on until its input ends and LEAST answers have come. Then it prints {"statuses": {status: count}, "lost": [what
happened to requests without an answer], "told": 503s that say when to come again, and when the service is expected back}.
"""

import collections
import http.client
import json
import sys
import threading
import time

PORT, KEY, CONNECTIONS, A_SECOND, LEAST = int(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
BODY = json.dumps({"model": "stub", "messages": [{"role": "user", "content": "What is the capital of France?"}]})
HEADERS = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}

over, lock = threading.Event(), threading.Lock()
statuses: collections.Counter[str] = collections.Counter()
lost: list[str] = []
told = 0


def ask(connection: http.client.HTTPConnection) -> None:
    """One question."""
    global told
    connection.request("POST", "/v1/chat/completions", BODY, HEADERS)
    answer = connection.getresponse()
    text = answer.read().decode()
    with lock:
        statuses[str(answer.status)] += 1
        if answer.status == 503 and int(answer.headers["Retry-After"] or 0) > 0 and "is expected back at 20" in text:
            told += 1
        if statuses.total() % 100 == 0:
            print(statuses.total(), flush=True)


def client(number: int) -> None:
    """One connection."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=120)
    due = time.monotonic() + number / A_SECOND
    while not over.is_set() or statuses.total() < LEAST:
        time.sleep(max(due - time.monotonic(), 0))
        due = max(due + CONNECTIONS / A_SECOND, time.monotonic() - 1)
        try:
            ask(connection)
        except (OSError, http.client.HTTPException) as error:
            lost.append(repr(error))
            connection.close()


threads = [threading.Thread(target=client, args=(n,)) for n in range(CONNECTIONS)]
for thread in threads:
    thread.start()
sys.stdin.read()
over.set()
for thread in threads:
    thread.join()
print(json.dumps({"statuses": statuses, "lost": lost, "told": told}), flush=True)
