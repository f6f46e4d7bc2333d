"""A page that shows runs side by side while they train: losses, figures, speed, the newest sphere.

    python -m halp_jax.watch runs/baseline runs/halp
    python -m halp_jax.watch runs/sweep --port 8052     # every run in it, those yet to start too

It reads what runs write (config.json, metrics.jsonl, eval/, checkpoints) and writes nothing, so it can
watch anybody's run, going on or finished. The page is served to this machine alone; from another one:
ssh -L 8051:127.0.0.1:8051 HOST. JAX stays on the CPU, at lowest priority. Ctrl-C ends it.
"""

import argparse
import contextlib
import logging
import os
import socket
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from halp_jax.errors import UserError
from halp_jax.inspect.live import files, page, sphere
from halp_jax.options import make_parser, run_command

HOST = "127.0.0.1"
TEXT_BROWSERS = ("www-browser", "links", "elinks", "lynx", "w3m")  # as webbrowser names them


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = make_parser("watch", __doc__)
    about = "a run's workdir, or a folder that holds runs at any depth"
    parser.add_argument("folders", nargs="+", metavar="WORKDIR", help=about)
    parser.add_argument("--port", type=int, default=8051, help="default: 8051; 0: any free one")
    parser.add_argument(
        "--every", type=float, default=5.0, help="seconds between looks; default: 5"
    )
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    args = parser.parse_args(argv)
    if not 0 <= args.port < 2**16:
        parser.error(f"--port={args.port}; give 0 to 65535")
    if not args.every >= 0.2:
        parser.error(f"--every={args.every}; give 0.2 seconds or more")
    return args


def bind(port: int) -> socket.socket:
    """A socket of this machine alone. Raises UserError where the port cannot be had."""
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise UserError(
            f"port {port} of {HOST} cannot be had ({error.strerror}); give another --port, "
            "or 0 for any that is free"
        ) from None


def serve(app: Any, listener: socket.socket) -> Any:
    """The server of the app, on a socket that is bound already; quiet but for errors."""
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    return make_server(
        HOST, listener.getsockname()[1], app.server, threaded=True, fd=listener.fileno()
    )


def open_browser(url: str) -> None:
    """Shows the page, but in no browser of the terminal: it runs no scripts, and would be waited for."""
    with contextlib.suppress(webbrowser.Error):  # there is none
        browser = webbrowser.get()
        if Path(browser.name).name not in TEXT_BROWSERS:
            browser.open(url)


def watch(argv: Sequence[str]) -> None:
    """Serves the page until Ctrl-C or SIGTERM."""
    args = parse_args(argv)
    os.environ["JAX_PLATFORMS"] = "cpu"  # of the process that draws: the accelerator is a run's own
    spheres = sphere.Spheres()
    try:
        watcher = files.Watcher(args.folders)
        app = page.make_app(watcher, spheres, args.every)
        with bind(args.port) as listener:
            server = serve(app, listener)
            url = f"http://{HOST}:{listener.getsockname()[1]}"
            print(f"{url}  shows {len(watcher.look())} runs; Ctrl-C ends it", flush=True)
            if not args.no_browser:
                open_browser(url)
            with contextlib.suppress(KeyboardInterrupt):  # the way to end it
                server.serve_forever()
    finally:
        spheres.close()


def main(argv: Sequence[str] | None = None) -> int:
    return run_command("watch", watch, argv)


if __name__ == "__main__":
    sys.exit(main())
