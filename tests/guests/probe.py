"""A process that does what a test asks it to. probe/ is the same as a component."""

import http.server
import os
import signal
import sys
import threading
import time

requests = 0
counting = threading.Lock()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def answer(self):
        global requests
        with counting:
            requests += 1
            number = requests
        path, _, query = self.path.partition("?")
        match [part for part in path.split("/") if part]:
            case []:
                self.respond(b"hello\n")
            case ["request"]:
                for _ in self.pieces():
                    pass
                lines = [f"{self.command} {path} {query}"]
                lines += [f"{name.lower()}: {value}" for name, value in self.headers.items()]
                self.respond("".join(line + "\n" for line in lines).encode())
            case ["echo"]:
                self.send_response(200)
                self.send_header("Content-Type", self.headers.get("Content-Type", ""))
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for piece in self.pieces():
                    self.chunk(piece)
                self.chunk(b"")
            case ["environment"]:
                self.respond("".join(f"{name}={value}\n" for name, value in os.environ.items()).encode())
            case ["log"]:
                print("to stdout")
                sys.stdout.flush()
                print("to stderr", file=sys.stderr, flush=True)
                print("without an end", end="\n", flush=True)
                self.send_response(204)
                self.end_headers()
            case ["status", status]:
                self.send_response(int(status))
                self.send_header("X-Probe", "first")
                self.send_header("X-Probe", "second")
                self.send_header("Content-Length", "0")
                self.end_headers()
            case ["loop"]:
                while True:
                    pass
            case ["sleep", ms]:
                time.sleep(int(ms) / 1000)
                self.respond(b"slept\n")
            case ["memory", size]:
                self.respond(b"%d\n" % len(bytearray(int(size))))
            case ["crash"]:
                os._exit(3)
            case ["begin-and-crash"]:
                self.begin()
                os._exit(3)
            case ["begin-and-loop"]:
                self.begin()
                while True:
                    time.sleep(1)
            case ["chunks", count]:
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for number in range(int(count)):
                    self.chunk(b"%d\n" % number)
                self.chunk(b"")
            case ["requests"]:
                self.respond(b"%d\n" % number)
            case _:
                self.respond(b"nothing is here\n", 404)

    def respond(self, body, status=200):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def begin(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.chunk(b"begun\n")

    def chunk(self, piece):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.flush()

    def pieces(self):
        if self.headers.get("Transfer-Encoding"):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            left = int(self.headers.get("Content-Length") or 0)
            while left > 0:
                piece = self.rfile.read1(min(left, 4096))
                left -= len(piece)
                yield piece

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = answer

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


server = Server(("127.0.0.1", int(os.environ["PORT"])), Handler)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
server.serve_forever()
