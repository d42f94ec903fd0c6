"""Kubernetes' channels in a WebSocket, as both sides know them: each message begins with the number of the stream that
it belongs to. Standard library only.

`v5.channel.k8s.io` can close one stream alone, which is how a program learns of the end of its input.
"""

from __future__ import annotations

V5, V4 = "v5.channel.k8s.io", "v4.channel.k8s.io"
STDIN, STDOUT, STDERR, ERROR, RESIZE = 0, 1, 2, 3, 4
"""Of a program. The channels of ports are numbered in another way."""
CLOSE = 255
"""What follows is the number of the channel that is closed."""
