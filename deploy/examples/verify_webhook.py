#!/usr/bin/env python3
"""Checks that a message came from gatewatch: an example for receivers of the signed webhook.

One message that you have:

    verify_webhook.py --secret-file KEY --signature 't=1795176067,v1=5f0c...' body.json

prints "good" and exits 0, or says on stderr why not and exits 1. `-` reads the body from standard
input. As a small receiver:

    verify_webhook.py --secret-file KEY --listen 127.0.0.1:9000

prints each good message as one line of JSON, once, and answers 204; it answers 401 to all others.

The header `X-Gatewatch-Signature: t=UNIX_SECONDS,v1=HEX` holds the time of the try and HMAC-SHA256
of `t`, a dot and the body, byte for byte as it came: parse the JSON only after the check. A try that
nobody answered is sent again with a new `t` and the same `delivery` in its body: that is how a
receiver knows what it has already. Needs Python 3.7 and nothing else.
"""

import argparse
import hashlib
import hmac
import json
import sys
import time
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

HEADER = "X-Gatewatch-Signature"
AGE_MAX_S = 300  # a message caught on its way is of no use to anybody after five minutes
BODY_BYTES_MAX = 16 * 1024 * 1024
DELIVERIES_MAX = 10_000


class Refused(Exception):
    """Why a message is not taken."""


def read_key(path):
    """The key without white space at its end: editors add a newline, gatewatch ignores it too."""
    with open(path, "rb") as file:
        key = file.read().rstrip(b" \t\r\n\f")
    if not key:
        raise SystemExit(f"{path}: the key is empty")
    return key


def verify(key, signature, body, now, age_max_s=AGE_MAX_S):
    """Raises Refused unless `signature` is of this body, by somebody who has the key, just now."""
    parts = [part.strip().partition("=") for part in signature.split(",")]
    times = [value for name, _, value in parts if name == "t"]
    tags = [value for name, _, value in parts if name == "v1"]
    if len(times) != 1 or not tags:
        raise Refused(f"no {HEADER} of the form t=UNIX_SECONDS,v1=HEX")
    (at,) = times
    if not (at.isascii() and at.isdigit() and len(at) < 16):
        raise Refused("t is no number of seconds")
    wanted = hmac.new(key, at.encode() + b"." + body, hashlib.sha256).hexdigest()
    # compare_digest takes as long whichever byte differs, so that nobody can guess byte by byte.
    good = [hmac.compare_digest(wanted.encode(), tag.encode("utf-8", "replace")) for tag in tags]
    if not any(good):
        raise Refused("the signature does not fit: another key, or the body was changed")
    # Only now is `t` known to be the sender's.
    if abs(now - int(at)) > age_max_s:
        raise Refused(f"signed {now - int(at):.0f} s ago: too old, or one of the clocks is wrong")


class Receiver(BaseHTTPRequestHandler):
    """Takes POSTs; the key, the age and what was seen hang on the server."""

    timeout = 10

    def do_POST(self):
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or int(length) > BODY_BYTES_MAX:
            self.answer(413)
            return
        body = self.rfile.read(int(length))
        try:
            signature = self.headers.get(HEADER, "")
            verify(self.server.key, signature, body, time.time(), self.server.age_max_s)
            message = json.loads(body)
        except (Refused, ValueError) as why:
            print(f"refused: {why}", file=sys.stderr, flush=True)
            self.answer(401)
            return
        # Answer only when the message is safe: what was not answered comes again.
        with self.server.lock:
            if self.server.is_new(message["delivery"]):
                print(json.dumps(message), flush=True)
        self.answer(204)

    def answer(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True

    def log_message(self, format, *args):
        pass


class Server(ThreadingHTTPServer):
    """Remembers the newest deliveries. A real receiver keeps them where a restart finds them."""

    def __init__(self, address, key, age_max_s):
        super().__init__(address, Receiver)
        self.key, self.age_max_s = key, age_max_s
        self.lock, self.deliveries = Lock(), OrderedDict()

    def is_new(self, delivery):
        if delivery in self.deliveries:
            return False
        self.deliveries[delivery] = True
        if len(self.deliveries) > DELIVERIES_MAX:
            self.deliveries.popitem(last=False)
        return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--secret-file", required=True, help="the key, as in secret_file")
    parser.add_argument("--age-max", type=int, default=AGE_MAX_S, help="seconds, default 300")
    parser.add_argument("--signature", help=f"value of {HEADER}")
    parser.add_argument("--listen", metavar="HOST:PORT", help="be a receiver instead")
    parser.add_argument("body", nargs="?", default="-", help="file with the body; - is stdin")
    args = parser.parse_args()
    key = read_key(args.secret_file)
    if args.listen:
        host, _, port = args.listen.rpartition(":")
        if not host or not port.isdigit():
            parser.error("--listen takes HOST:PORT, such as 127.0.0.1:9000")
        Server((host.strip("[]"), int(port)), key, args.age_max).serve_forever()
    if args.signature is None:
        parser.error("--signature or --listen is needed")
    if args.body == "-":
        body = sys.stdin.buffer.read()
    else:
        with open(args.body, "rb") as file:
            body = file.read()
    try:
        verify(key, args.signature, body, time.time(), args.age_max)
    except Refused as why:
        print(f"refused: {why}", file=sys.stderr)
        raise SystemExit(1) from None
    print("good")


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        print(f"verify_webhook.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None
