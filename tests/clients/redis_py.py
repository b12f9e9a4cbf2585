"""redis-py against a cluster: every family of commands, in both protocols, at every node, and as a client of Redis Cluster.

    python3 redis_py.py HOST:PORT HOST:PORT ...

Ends with 0 if everything was as it would be with a Redis.
"""

import sys
import threading

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry


def equal(found, expected):
    assert found == expected, f"{found!r} instead of {expected!r}"


def every_family(client, tag):
    """Commands of every family, on keys of one slot."""

    def key(name):
        return f"{{{tag}}}{name}"

    # Strings and bits.
    equal(client.set(key("s"), "v", ex=100), True)
    equal(client.set(key("s"), "w", nx=True), None)
    equal(client.set(key("s"), "w", get=True), "v")
    equal(client.getex(key("s"), persist=True), "w")
    equal(client.append(key("s"), "xyz"), 4)
    equal(client.getrange(key("s"), 1, 2), "xy")
    equal(client.incrby(key("n"), 41), 41)
    equal(client.incrbyfloat(key("n"), 0.5), 41.5)
    equal(client.setbit(key("b"), 7, 1), 0)
    equal(client.bitcount(key("b")), 1)
    equal(client.mget(key("s"), key("none")), ["wxyz", None])
    # Keys.
    equal(client.type(key("s")), "string")
    equal(client.expire(key("s"), 100), True)
    assert 0 < client.ttl(key("s")) <= 100
    equal(client.exists(key("s"), key("none")), 1)
    equal(client.copy(key("s"), key("s2")), True)
    equal(client.rename(key("s2"), key("s3")), True)
    dumped = client.dump(key("n"))
    equal(client.restore(key("restored"), 0, dumped), "OK")
    equal(client.get(key("restored")), "41.5")
    equal(client.delete(key("s3"), key("restored")), 2)
    # Lists, and who waits for one.
    equal(client.rpush(key("l"), "a", "b", "c"), 3)
    equal(client.lrange(key("l"), 0, -1), ["a", "b", "c"])
    equal(client.lmove(key("l"), key("m"), "LEFT", "RIGHT"), "a")
    equal(list(client.blpop([key("l")], timeout=1)), [key("l"), "b"])
    equal(client.lpos(key("l"), "c"), 0)
    # Hashes.
    equal(client.hset(key("h"), mapping={"f": 1, "g": 2}), 2)
    equal(client.hgetall(key("h")), {"f": "1", "g": "2"})
    equal(client.hincrby(key("h"), "f", 9), 10)
    equal(client.hexpire(key("h"), 100, "g"), [1])
    equal(dict(client.hscan_iter(key("h"))), {"f": "10", "g": "2"})
    # Sets.
    equal(client.sadd(key("x"), 1, 2, 3), 3)
    equal(client.sadd(key("y"), 2, 3, 4), 3)
    equal(set(client.sinter(key("x"), key("y"))), {"2", "3"})
    equal(client.smismember(key("x"), [1, 9]), [1, 0])
    # Sorted sets.
    equal(client.zadd(key("z"), {"a": 1, "b": 2.5}), 2)
    equal([tuple(pair) for pair in client.zrange(key("z"), 0, -1, withscores=True)], [("a", 1.0), ("b", 2.5)])
    equal(client.zincrby(key("z"), 2, "a"), 3.0)
    equal(client.zrevrank(key("z"), "a"), 0)
    # HyperLogLogs.
    equal(client.pfadd(key("p"), "a", "b", "c"), 1)
    equal(client.pfcount(key("p")), 3)
    # Streams and their groups.
    entry = client.xadd(key("st"), {"field": "value"})
    equal(client.xgroup_create(key("st"), "group", id="0"), True)
    read = client.xreadgroup("group", "one", {key("st"): ">"}, count=10)
    # A list of pairs in the one protocol, a map in the other.
    entries = dict(read)[key("st")]
    assert entry in str(entries), entries
    equal(client.xack(key("st"), "group", entry), 1)
    equal(client.xlen(key("st")), 1)
    # Transactions, scripts by their digest, and locks, which are scripts.
    with client.pipeline(transaction=True) as pipe:
        pipe.incr(key("c"))
        pipe.incr(key("c"))
        equal(pipe.execute(), [1, 2])
    script = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    equal(script(keys=[key("c")], args=[40]), 42)
    with client.lock(key("lock"), timeout=10, blocking_timeout=5) as lock:
        assert lock.owned()
        assert not client.lock(key("lock"), timeout=10).acquire(blocking=False)
        lock.reacquire()


def alone(client, other):
    """What is about one connection, or a whole cluster."""
    equal(client.ping(), True)
    assert client.info()["redis_version"].startswith("7.")
    # What was seen has changed: nothing is done.
    with client.pipeline() as pipe:
        pipe.watch("watched")
        other.set("watched", "changed")
        pipe.multi()
        pipe.set("watched", "lost")
        try:
            pipe.execute()
            raise AssertionError("the transaction was carried out")
        except redis.WatchError:
            pass
    equal(client.get("watched"), "changed")
    assert "watched" in set(client.scan_iter(match="w*", count=100))
    # Messages between two nodes.
    messages = client.pubsub()
    messages.subscribe("news")
    messages.psubscribe("n*")
    for _ in range(2):
        assert messages.get_message(timeout=10) is not None
    equal(other.publish("news", "hello"), 2)
    told = [messages.get_message(timeout=10) for _ in range(2)]
    equal({(message["type"], message["data"]) for message in told}, {("message", "hello"), ("pmessage", "hello")})
    messages.close()
    # Who waits at one node gets what another one pushes.
    waited = []
    waiter = threading.Thread(target=lambda: waited.append(client.brpop(["queue"], timeout=20)))
    waiter.start()
    other.lpush("queue", "element")
    waiter.join()
    equal(list(waited[0]), ["queue", "element"])
    # Functions.
    code = "#!lua name=py\nredis.register_function('twice', function(keys, args) return args[1] * 2 end)"
    equal(client.function_load(code, replace=True), "py")
    equal(other.fcall("twice", 0, 21), 42)
    equal(client.function_delete("py"), True)


def users(client, address):
    equal(client.acl_setuser("py", enabled=True, passwords=["+pw"], keys=["py:*"], commands=["+get", "+set"]), True)
    assert "py" in client.acl_users()
    host, port = address
    limited = redis.Redis(host=host, port=port, username="py", password="pw", decode_responses=True)
    equal(limited.set("py:k", 1), True)
    try:
        limited.set("k", 1)
        raise AssertionError("it was allowed")
    except redis.exceptions.NoPermissionError:
        pass
    equal(client.acl_deluser("py"), 1)


def main():
    addresses = [(host, int(port)) for host, port in (word.split(":") for word in sys.argv[1:])]
    for protocol in (2, 3):
        clients = [
            redis.Redis(host=host, port=port, protocol=protocol, decode_responses=True, retry=Retry(NoBackoff(), 0))
            for host, port in addresses
        ]
        # Bytes of a dump are no text.
        raw = [redis.Redis(host=host, port=port, protocol=protocol) for host, port in addresses]
        for at, client in enumerate(clients):
            client.dump = raw[at].dump
            every_family(client, f"{protocol}-{at}")
            alone(client, clients[(at + 1) % len(clients)])
        users(clients[0], addresses[0])
    nodes = [ClusterNode(host, port) for host, port in addresses]
    cluster = RedisCluster(startup_nodes=nodes, decode_responses=True)
    raw = RedisCluster(startup_nodes=nodes)
    cluster.dump = raw.dump
    for tag in "abcdef":
        every_family(cluster, f"cluster-{tag}")
    print("everything was as it would be with a Redis")


main()
