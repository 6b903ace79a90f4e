"""Lock libraries in line: for each line on standard input one more worker asks for the lock; whoever gets it notes his
number in the list `order` and lets go. argv: port, library, workers."""

import sys
import threading
import traceback

import pottery
import redis
import redis_lock

PORT, LIBRARY, WORKERS = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])


def lock_of(client):
    if LIBRARY == "redis-py":
        return client.lock("lock:order", timeout=60)
    if LIBRARY == "python-redis-lock":
        return redis_lock.Lock(client, "order", expire=60)
    return pottery.Redlock(key="order", masters={client}, auto_release_time=60)


failed = []


def work(number):
    try:
        # Queued calls are answered late: the client has to be more patient than the rule's wait.
        client = redis.Redis(port=PORT, socket_timeout=60)
        with lock_of(client):
            client.rpush("order", number)
    except BaseException:
        failed.append(traceback.format_exc())


threads = []
for number in range(WORKERS):
    sys.stdin.readline()
    threads.append(threading.Thread(target=work, args=(number,)))
    threads[-1].start()
for thread in threads:
    thread.join()
if failed:
    sys.exit("\n".join(failed))
