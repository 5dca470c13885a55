"""redis-py 8 against a running server; the port is the argument. Exits 1 at the first difference.

Its connection setup is HELLO 3, CLIENT MAINT_NOTIFICATIONS (which must fail without harm),
CLIENT SETINFO twice.
"""

import sys

try:
    import redis
except ImportError:
    sys.exit("redis-py is missing; install it with: pip install 'redis>=8'")

if int(redis.__version__.split(".")[0]) < 8:
    sys.exit(f"redis-py {redis.__version__} is too old; install: pip install 'redis>=8'")


def check(found, expected):
    if found != expected:
        raise AssertionError(f"{found!r} is not {expected!r}")


def fails(call, words):
    try:
        result = call()
    except redis.ResponseError as error:
        if words not in str(error):
            raise AssertionError(f"{error} does not say {words!r}") from error
    else:
        raise AssertionError(f"{result!r} instead of an error with {words!r}")


def data_commands(r):
    check(r.ping(), True)
    check(r.echo("hi"), b"hi")
    check(r.set("key", "value"), True)
    check(r.get("key"), b"value")
    check(r.get("absent"), None)
    check(r.strlen("key"), 5)
    check(r.strlen("absent"), 0)
    check(r.type("key"), b"string")
    check(r.type("absent"), b"none")
    everything = bytes(range(256))
    check(r.set(everything, everything), True)
    check(r.get(everything), everything)
    check(r.mset({"a": "1", "b": ""}), True)
    check(r.mget("a", "b", "absent"), [b"1", b"", None])
    check(r.exists("a", "a", "absent"), 2)
    check(r.dbsize(), 4)
    check(r.delete("a", "b", "absent"), 2)
    check(r.unlink("key", everything), 2)
    check(r.delete("key"), 0)
    check(r.dbsize(), 0)


def pipelines(r):
    pipeline = r.pipeline(transaction=False)
    for number in range(500):
        pipeline.set("key", number).get("key")
    replies = pipeline.execute()
    check(replies[1::2], [str(number).encode() for number in range(500)])
    check(all(reply is True for reply in replies[::2]), True)
    check(r.delete("key"), 1)


def administration(r, protocol):
    check(r.client_setname("tester"), True)
    name = r.client_getname()
    check(name.decode() if isinstance(name, bytes) else name, "tester")
    me = r.client_info()
    check(str(me["name"]), "tester")
    check(int(me["resp"]), protocol)
    check(me["lib-name"].startswith("redis-py"), True)
    check(int(me["id"]), r.client_id())
    check([int(client["id"]) for client in r.client_list()].count(int(me["id"])), 1)
    info = r.info()
    check(info["role"], "master")
    check(info["loading"], 0)
    check(info["redis_version"].startswith("7.2."), True)
    check(r.info("server")["redis_mode"], "standalone")
    check(r.config_get("save"), {"save": ""})
    check(r.config_get("append*")["appendonly"], "yes")
    check(r.config_get("nothing"), {})
    seconds, microseconds = r.time()
    check(seconds > 1_600_000_000 and 0 <= microseconds < 1_000_000, True)
    role = r.role()
    check(role[0] in ("master", b"master"), True)
    check(r.command_count(), len(r.command()))
    check(len(r.execute_command("COMMAND DOCS", "get", "nope")) > 0, True)
    check(r.select(0), True)


def refusals(r):
    fails(lambda: r.set("key", "value", nx=True), "not supported yet")
    fails(lambda: r.set("key", "value", ex=60), "not supported yet")
    fails(lambda: r.incr("key"), "unknown command")
    fails(lambda: r.select(1), "out of range")
    fails(lambda: r.execute_command("GET"), "wrong number of arguments for 'get' command")
    fails(lambda: r.execute_command("CLIENT", "NOPE"), "unknown subcommand")
    check(r.get("key"), None)


def main():
    port = int(sys.argv[1])
    for options in ({}, {"protocol": 3}, {"protocol": 2}):
        with redis.Redis(port=port, socket_timeout=20, **options) as r:
            protocol = options.get("protocol", 3)
            data_commands(r)
            pipelines(r)
            with r.client() as connection:
                administration(connection, protocol)
            refusals(r)
    with redis.Redis(port=port, decode_responses=True, client_name="named") as r:
        check(r.client_getname(), "named")
        check(r.set("key", "wert"), True)
        check(r.get("key"), "wert")
        check(r.delete("key"), 1)
    with redis.Redis(port=port, username="default", password="secret") as r:
        try:
            r.ping()
        except redis.RedisError as error:
            check("without any password" in str(error), True)
        else:
            raise AssertionError("a password was accepted that nothing compares")


main()
