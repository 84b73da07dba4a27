"""How programs that are no functions report: by ``python -m hpsearch.report``, or by what they print.

Imports nothing but a little of the standard library, so that a report is made before anybody waits for it.
"""

import socket

SOCKET = "HPSEARCH_SOCKET"  # names the abstract unix socket of the trial


def connect(name: str) -> socket.socket:
    """To the process that relays for the trial. OSError: it is gone."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(f"\0{name}")
    except OSError:
        connection.close()
        raise
    return connection
