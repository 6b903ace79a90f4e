"""redis-py over TLS: argv: port, folder of certificates, name of the client's certificate or "-"."""

import sys

import redis

PORT, FOLDER, NAME = int(sys.argv[1]), sys.argv[2], sys.argv[3]
mine = {} if NAME == "-" else {"ssl_certfile": f"{FOLDER}/{NAME}.crt", "ssl_keyfile": f"{FOLDER}/{NAME}.key"}
for protocol in (2, 3):
    client = redis.Redis(
        host="localhost", port=PORT, ssl=True, ssl_ca_certs=f"{FOLDER}/ca.crt", ssl_check_hostname=True,
        protocol=protocol, **mine,
    )
    assert client.ping()
    big = "x" * 3_000_000
    assert client.set("big", big) and client.get("big").decode() == big
    with client.pipeline(transaction=True) as pipe:
        for number in range(1000):
            pipe.set(f"k{number}", number)
            pipe.get(f"k{number}")
        assert pipe.execute()[1::2] == [str(number).encode() for number in range(1000)]
    with client.lock("lock:tls", timeout=10):
        assert client.execute_command("LOCK.INFO", "lock:tls")
    listener = client.pubsub()
    listener.subscribe("news")
    assert listener.get_message(timeout=10)["type"] == "subscribe"
    client.publish("news", "hello")
    assert listener.get_message(timeout=10)["data"] == b"hello"
    client.close()
print("all of it works")
