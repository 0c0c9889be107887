"""Standard input and output over a connection to HOST PORT: what `nc` does, where it is not installed."""

import os
import socket
import sys
import threading


def main(host: str, port: int) -> None:
    """Copy both ways until the other side closes."""
    connection = socket.create_connection((host, port))

    def send() -> None:
        while part := os.read(0, 65536):
            connection.sendall(part)
        connection.shutdown(socket.SHUT_WR)

    threading.Thread(target=send, daemon=True).start()
    while part := connection.recv(65536):
        os.write(1, part)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
