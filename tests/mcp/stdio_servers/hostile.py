"""A program that misbehaves as the called tool's name asks; it echoes every line that it reads."""

import json
import os
import sys
import time


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def answer(message: dict[str, object], result: object) -> str:
    return json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result})


lines = 0
if sys.argv[1:] == ["dies"]:
    sys.exit(3)
while raw := sys.stdin.readline():
    lines += 1
    message = json.loads(raw)
    if message.get("method") == "initialize":
        say(answer(message, {"protocolVersion": "2025-11-25", "capabilities": {}}))
        continue
    if message.get("method") == "server/discover" and sys.argv[1:] == ["silent"]:
        continue
    if message.get("method") != "tools/call":
        if "id" in message and "method" in message:
            say(answer(message, {"lines": lines, "read": raw, "id": message["id"]}))
        continue
    match message["params"]["name"]:
        case "two":
            say(answer(message, {"n": 1}) + "\n" + answer(message, {"n": 2}) + "\nno json\n[1]")
        case "huge":
            say(answer(message, {"text": "x" * 300_000}))
        case "endless":
            while True:
                sys.stdout.write("x" * 65536)
        case "carriage":
            say(answer(message, {"n": 1}).replace('"result"', '\r"result"'))
        case "silent":
            time.sleep(3600)
        case "dies":
            os._exit(1)
        case "asks":
            say(json.dumps({"jsonrpc": "2.0", "id": "q1", "method": "roots/list"}))
            reply = sys.stdin.readline()
            say(answer(message, json.loads(reply).get("result", "refused")))
        case "others":
            say('{"jsonrpc":"2.0","method":"notifications/message","params":{"data":"secret"}}')
            token = message["params"].get("_meta", {}).get("progressToken")
            told = {"jsonrpc": "2.0", "method": "notifications/progress"}
            say(json.dumps({**told, "params": {"progressToken": token, "progress": 1}}))
            say(answer(message, {"token": token}))
        case _:
            say(answer(message, {"lines": lines, "read": raw, "id": message["id"]}))
