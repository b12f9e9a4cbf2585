"""A link shortener: links in the database, hot links and click counters in the grid.

The same application as ../component, as a plain process under the contract of Cloud Run: it serves HTTP on $PORT. It
uses Python's standard library only, and reaches both over HTTP: the DynamoDB API at $AWS_ENDPOINT_URL_DYNAMODB for the
database, commands of Redis at $UPSTASH_REDIS_REST_URL for the grid. With packages, this would be boto3, and redis-py at
$REDIS_URL or upstash-redis, unchanged.
"""

import http.client
import http.server
import json
import os
import re
import signal
import sys
import threading
import urllib.parse

TABLE = "links"
TARGET_MAX = 2048
HOT_MS = 60_000
CODE_LETTERS = 7
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class Conflict(Exception):
    """A condition does not hold."""


class NotFound(Exception):
    """There is no such table."""


class Service(threading.local):
    """JSON over HTTP, one connection a thread."""

    def __init__(self, url):
        url = urllib.parse.urlsplit(url)
        self.connection = http.client.HTTPConnection(url.hostname, url.port, timeout=10)

    def post(self, body, headers):
        try:
            return self.once(body, headers)
        except (ConnectionError, http.client.HTTPException):
            # The server closes connections that were idle for long: once more, on a new one.
            self.connection.close()
            return self.once(body, headers)

    def once(self, body, headers):
        self.connection.request("POST", "/", json.dumps(body), headers)
        response = self.connection.getresponse()
        return response.status, json.loads(response.read())


class Database(Service):
    """The DynamoDB API."""

    def call(self, operation, **request):
        headers = {
            "Content-Type": "application/x-amz-json-1.0",
            "X-Amz-Target": "DynamoDB_20120810." + operation,
        }
        status, answer = self.post(request, headers)
        if status == 200:
            return answer
        error = answer.get("__type", "").rpartition("#")[2]
        if error in ("ConditionalCheckFailedException", "ResourceInUseException"):
            raise Conflict(answer)
        if error == "ResourceNotFoundException":
            raise NotFound(answer)
        raise RuntimeError(answer)


class Grid(Service):
    """Commands of Redis as JSON."""

    def call(self, *command):
        status, answer = self.post(command, {"Content-Type": "application/json"})
        if status == 200:
            return answer["result"]
        raise RuntimeError(answer)


database = Database(os.environ["AWS_ENDPOINT_URL_DYNAMODB"])
grid = Grid(os.environ["UPSTASH_REDIS_REST_URL"])


def with_table(call):
    """Makes the table if it is not there, and then does it again."""
    try:
        return call()
    except NotFound:
        try:
            database.call(
                "CreateTable",
                TableName=TABLE,
                AttributeDefinitions=[{"AttributeName": "code", "AttributeType": "S"}],
                KeySchema=[{"AttributeName": "code", "KeyType": "HASH"}],
                BillingMode="PAY_PER_REQUEST",
            )
        except Conflict:
            pass  # Another request was faster.
        return call()


def store(code, target):
    """Keeps a link; False if the code leads elsewhere."""
    try:
        with_table(
            lambda: database.call(
                "PutItem",
                TableName=TABLE,
                Item={"code": {"S": code}, "target": {"S": target}},
                ConditionExpression="attribute_not_exists(code) OR target = :target",
                ExpressionAttributeValues={":target": {"S": target}},
            )
        )
        return True
    except Conflict:
        return False


def follow(code):
    """Where a code leads: the grid knows links that were followed lately, the database all of them."""
    hot = "link:" + code
    target = grid.call("GET", hot)
    if target is None:
        found = with_table(lambda: database.call("GetItem", TableName=TABLE, Key={"code": {"S": code}}, ConsistentRead=True))
        if "Item" not in found:
            return None
        target = found["Item"]["target"]["S"]
        grid.call("SET", hot, target, "PX", HOT_MS)
    return target


def generated(target, salt):
    """FNV-1a of the URL, in letters and digits."""
    value = 0xCBF29CE484222325
    for byte in target.encode() + (bytes([salt]) if salt else b""):
        value = ((value ^ byte) * 0x100000001B3) % 2**64
    code = ""
    for _ in range(CODE_LETTERS):
        value, letter = divmod(value, 62)
        code += ALPHABET[letter]
    return code


def error(status, text):
    return status, {"error": text}, None


BAD_TARGET = error(400, "the body has to be a URL, http:// or https://, of 2,048 bytes at most")


def answer(method, path, body):
    """Status, JSON, where to."""
    parts = [part for part in path.split("?")[0].split("/") if part]
    target = body.decode("utf-8", "replace").strip() if body is not None else ""
    is_target = re.fullmatch(r"https?://[!-~]*", target) and len(target) <= TARGET_MAX
    if parts and not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", parts[0]):
        return error(400, "a code has 1 to 64 letters, digits, _ and -")
    match method, parts:
        case "GET", []:
            return 200, {"usage": "POST / with a URL, then GET /<code>"}, None
        case "POST", []:
            if not is_target:
                return BAD_TARGET
            # Two URLs may have one code: then the next one is tried.
            for salt in range(256):
                code = generated(target, salt)
                if store(code, target):
                    return 201, {"code": code}, None
        case "PUT", [code]:
            if not is_target:
                return BAD_TARGET
            if store(code, target):
                return 201, {"code": code}, None
            return error(409, "the code leads elsewhere")
        case "GET", [code]:
            target = follow(code)
            if target is None:
                return error(404, "no such link")
            grid.call("INCRBY", "clicks:" + code, 1)
            print(f"{code} -> {target}", flush=True)
            return 302, None, target
        case "GET", [code, "clicks"]:
            target = follow(code)
            if target is None:
                return error(404, "no such link")
            clicks = grid.call("INCRBY", "clicks:" + code, 0)
            return 200, {"code": code, "target": target, "clicks": clicks}, None
        case "DELETE", [code]:
            removed = with_table(
                lambda: database.call("DeleteItem", TableName=TABLE, Key={"code": {"S": code}}, ReturnValues="ALL_OLD")
            )
            grid.call("DEL", "link:" + code)
            grid.call("DEL", "clicks:" + code)
            return (204, None, None) if "Attributes" in removed else error(404, "no such link")
    return error(404, "nothing is here")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body leave together; http.server sends each alone, and the second waits 40 ms for the first.
    wbufsize = -1
    disable_nagle_algorithm = True

    def respond(self):
        length = int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Transfer-Encoding"):
            body = self.chunked()
        else:
            # What is longer than a URL may be is not kept, but read: the connection goes on.
            body = self.rfile.read(min(length, TARGET_MAX + 17))
            left = length - len(body)
            while left > 0:
                left -= len(self.rfile.read(min(left, 65536))) or left
        body = body if len(body) <= TARGET_MAX + 16 else None
        try:
            status, document, location = answer(self.command, self.path, body)
        except Exception as reason:
            print(repr(reason), file=sys.stderr, flush=True)
            status, document, location = error(503, "the data cannot be reached now")
        text = json.dumps(document).encode() if document is not None else b""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if status != 204:
            self.send_header("Content-Length", str(len(text)))
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(text)

    def chunked(self):
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunk = self.rfile.read(size)
            self.rfile.readline()
            if len(body) <= TARGET_MAX + 16:
                body += chunk
        while self.rfile.readline().strip():
            pass
        return body

    do_GET = do_POST = do_PUT = do_DELETE = respond

    def log_message(self, *_):
        pass  # The platform reports every invocation.


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


if __name__ == "__main__":
    server = Server(("0.0.0.0", int(os.environ["PORT"])), Handler)
    # SIGTERM: no request is left when the platform sends it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server.serve_forever()
