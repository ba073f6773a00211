"""The connection protocol of SSH for forwarding (RFC 4254 sections 5 and 7), without IO: packets and bytes in, calls
and packets out. The link that drives it is elsewhere: it opens and seals packets, and owns sockets and time.

    opened packet --> Mux.receive --> Channel --> ChannelHandler.data, eof, closed, opened, open_failed
                                         |
    sealed packet <- Mux.write_packets <-+-- Outbox <-- Channel.accept, refuse, send_eof, close, take
                          |
                          '--> ChannelHandler.read: the client's bytes, straight into the buffer that is sealed

Receiving. The link sets `mux.now` once in each turn, then calls `mux.receive(payload)` with a memoryview of each opened
payload of types 90 to 100 that is the mux's (`mux.owns(number)`). Data reaches the handler as a slice of it, valid
during the call: the handler writes it to the client, copies what the client does not take, and calls
`channel.take(count)` for what it took: at once or later, perhaps in one call for several packets. `receive` raises
`LinkViolationError` if the link must end.

Sending. `wake` says that there is something to send. The link then calls `mux.write_packets(rooms)`, and seals what it
wrote, until there are no packets or the link's socket is full. A room holds at least HEAD + PACKET_MAX bytes. While a
key exchange runs the link asks for no packets.

A handler that reads clients by readiness calls `channel.ready()` when its socket is readable, and stops watching the
socket until `read` has found it empty. At the client's EOF it calls `channel.send_eof()`. When both sides have sent EOF
and the client has all bytes, it calls `channel.close()`.
"""
